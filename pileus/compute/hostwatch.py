"""Listens to hosts: heartbeats become rows and inventories, lists of guests are held against what is written down."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from pileus.bus import Subscription
from pileus.compute import hosts, outcomes
from pileus.compute.scheduler import Scheduler
from pileus.compute.service import Compute
from pileus.messages import HEARTBEAT, REPORT, Desired, HostFacts, HostReport, desired_subject, from_hosts


class HostWatch:
    def __init__(self, compute: Compute, scheduler: Scheduler) -> None:
        self._compute = compute
        self._scheduler = scheduler
        self._subscriptions: list[Subscription] = []
        self._heard: set[str] = set()
        self._news = asyncio.Event()

    async def start(self) -> None:
        bus = self._compute.bus
        self._subscriptions = [
            bus.subscribe(from_hosts(HEARTBEAT), HostFacts, self.beat, queue="compute", concurrency=4),
            bus.subscribe(from_hosts(REPORT), HostReport, self.report, queue="compute"),
        ]

    async def close(self) -> None:
        for subscription in self._subscriptions:
            await subscription.close()

    async def heard(self, names: Collection[str], limit: float) -> None:
        """Wait until servers can be made on all these hosts. Raises TimeoutError."""
        async with asyncio.timeout(limit):
            while not self._heard.issuperset(names):
                self._news.clear()
                await self._news.wait()

    async def beat(self, facts: HostFacts) -> None:
        row, changed, again = await self._compute.store.write(outcomes.beat, facts)
        if changed:
            offer = hosts.inventories(facts, self._compute.settings.compute)
            await self._compute.placement.set_provider(row["id"], facts.host, offer)
            self._scheduler.forget()
        if again:
            await self._compute.hint(again)
        self._heard.add(facts.host)
        self._news.set()

    async def report(self, report: HostReport) -> None:
        orders = await self._compute.store.write(outcomes.reconcile, report)
        for server_id, generation in orders.remove:
            gone = Desired(server_id, generation, "absent", "delete", hard=True)
            await self._compute.bus.publish(desired_subject(report.host), gone)
        if orders.actions:
            await self._compute.hint(orders.actions)
