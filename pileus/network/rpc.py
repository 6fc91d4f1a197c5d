"""The network rpc worker: takes what agents ask and report on the bus."""

from __future__ import annotations

from collections.abc import Callable

from pileus.bus import Bus, Subscription
from pileus.messages import DETAILS, HEARTBEAT, LEVELS, DeviceDetails, DeviceDetailsRequest, DeviceLevels, HostFacts, Taken, from_hosts
from pileus.network import agents, levels
from pileus.network.config import Config
from pileus.store import Store

QUEUE = "network-rpc"
CONCURRENCY = 8
"""Requests under way at once; beyond what the store commits as one group, more would only wait there."""


class Rpc:
    """`wake` is called when compute is to be told of something."""

    def __init__(self, store: Store, bus: Bus, config: Config, wake: Callable[[], None]) -> None:
        self._store = store
        self._bus = bus
        self._config = config
        self._wake = wake
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        self._subscriptions = [
            self._bus.serve(from_hosts(DETAILS), DeviceDetailsRequest, self._details, queue=QUEUE, concurrency=CONCURRENCY),
            self._bus.serve(from_hosts(LEVELS), DeviceLevels, self._levels, queue=QUEUE, concurrency=CONCURRENCY),
            self._bus.subscribe(from_hosts(HEARTBEAT), HostFacts, self._heartbeat, queue=QUEUE),
        ]

    async def close(self) -> None:
        for subscription in self._subscriptions:
            await subscription.close()
        self._subscriptions = []

    async def _details(self, question: DeviceDetailsRequest) -> DeviceDetails:
        return await self._store.read(levels.details, question.host, question.port_ids)

    async def _levels(self, report: DeviceLevels) -> Taken:
        # An agent speaks for its own host only.
        mine = [level for level in report.levels if level.host == report.host]
        told = await self._store.write(levels.take, self._config, mine)
        if told:
            self._wake()
        return Taken(len(report.levels))

    async def _heartbeat(self, facts: HostFacts) -> None:
        await self._store.write(agents.heard, facts)
