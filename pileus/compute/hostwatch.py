"""Listens to hosts: heartbeats become rows and inventories, silence is noticed, lists of guests are held against what is written down.

Beats and lists come by the hundred in a second; they are gathered and written down in one transaction (`Gather`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection

import structlog

from pileus.bus import Subscription
from pileus.compute import actions, admission, beats, hosts, info_cache, reports
from pileus.compute.scheduler import Scheduler
from pileus.compute.service import Compute
from pileus.gather import Gather
from pileus.messages import (
    BEAT,
    COMPUTE_ECHO,
    HEARTBEAT,
    REPORT,
    Desired,
    Echo,
    FactsWanted,
    HostBeat,
    HostFacts,
    HostReport,
    desired_subject,
    facts_subject,
    from_hosts,
)
from pileus.settings import Compute as Settings
from pileus.store import Tx
from pileus.store.sql import Row

log = structlog.get_logger(__name__)

TOGETHER = 1.0
"""Seconds between two transactions of beats, and of lists."""
MOST = 250
"""Beats, or lists, of one transaction."""
OFFERS = 8
"""Inventories told to placement at once."""
ECHO = 5.0
LOOK = 5.0
"""Seconds between looks for hosts that fell silent, more or less; less where `service_down_time` is short."""
UNBLOCKED = 64
"""Creates that found no room and look again when a host comes back; those that find some let the next ones look."""
QUEUE = "compute"

News = HostFacts | HostBeat | Echo


class HostWatch:
    def __init__(self, compute: Compute, scheduler: Scheduler) -> None:
        self._compute = compute
        self._scheduler = scheduler
        self._subscriptions: list[Subscription] = []
        self._beats: Gather[News] = Gather(self._hear, interval=TOGETHER, most=MOST, name="heartbeats")
        self._reports: Gather[HostReport] = Gather(self._reconcile, interval=TOGETHER, most=MOST, name="host-reports")
        self._tasks: list[asyncio.Task[None]] = []
        self._heard: set[str] = set()
        self._news = asyncio.Event()

    async def start(self) -> None:
        bus = self._compute.bus
        self._beats.start()
        self._reports.start()
        self._subscriptions = [
            bus.subscribe(from_hosts(HEARTBEAT), HostFacts, self.beat, queue=QUEUE),
            bus.subscribe(from_hosts(BEAT), HostBeat, self.beat, queue=QUEUE),
            bus.subscribe(COMPUTE_ECHO, Echo, self._echoed, queue=QUEUE),
            bus.subscribe(from_hosts(REPORT), HostReport, self.report, queue=QUEUE),
        ]
        self._tasks = [asyncio.create_task(self._echo(), name="host-echo"), asyncio.create_task(self._look(), name="host-silence")]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for subscription in self._subscriptions:
            await subscription.close()
        await self._beats.close()
        await self._reports.close()

    async def heard(self, names: Collection[str], limit: float) -> None:
        """Wait until servers can be made on all these hosts. Raises TimeoutError."""
        async with asyncio.timeout(limit):
            while not self._heard.issuperset(names):
                self._news.clear()
                await self._news.wait()

    async def beat(self, news: HostFacts | HostBeat) -> None:
        self._beats.put((type(news), news.host), news)

    async def report(self, report: HostReport) -> None:
        self._reports.put(report.host, report)

    async def _echoed(self, echo: Echo) -> None:
        self._beats.put(Echo, echo)

    async def _hear(self, news: list[News]) -> None:
        compute = self._compute
        facts = [each for each in news if isinstance(each, HostFacts)]
        short = [each for each in news if isinstance(each, HostBeat)]
        heard, due = await compute.store.write(_hear, compute.settings.compute, facts, short, any(isinstance(each, Echo) for each in news))
        for name in heard.ask:
            await compute.bus.publish(facts_subject(name), FactsWanted("compute"))
        for start in range(0, len(heard.offers), OFFERS):
            await asyncio.gather(*(self._offer(*each) for each in heard.offers[start : start + OFFERS]))
        if heard.offers:
            await compute.store.write(beats.offered, [each for _, each in heard.offers])
        if heard.offers or heard.back:
            self._scheduler.forget()
            await compute.store.write(admission.unblock, most=UNBLOCKED, after=-1, limit=compute.settings.compute.queue_limit)
        if due:
            await compute.hint(due)
        self._heard |= {each.host for each in facts}
        self._news.set()

    async def _offer(self, row: Row, facts: HostFacts) -> None:
        offer = hosts.inventories(facts, self._compute.settings.compute)
        await self._compute.placement.set_provider(row["id"], facts.host, offer)

    async def _reconcile(self, lists: list[HostReport]) -> None:
        orders = await self._compute.store.write(reports.reconcile, lists)
        for host, server_id, generation in orders.remove:
            gone = Desired(server_id, generation, "absent", "delete", hard=True)
            await self._compute.bus.publish(desired_subject(host), gone)
        if orders.actions:
            await self._compute.hint(orders.actions)

    async def _echo(self) -> None:
        while True:
            try:
                await self._compute.bus.publish(COMPUTE_ECHO, Echo(time.time()))
            except Exception:
                log.exception("no echo; the next one follows")
            await asyncio.sleep(ECHO)

    async def _look(self) -> None:
        """Any of several watches may look; what was found, the first to write it down acts upon."""
        settings = self._compute.settings.compute
        pause = min(LOOK, settings.service_down_time / 4)
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - so that watches do not look together
            try:
                if await self._compute.store.read(beats.silent, settings):
                    await self.silence()
            except Exception:
                log.exception("looking for silent hosts failed; it goes on")

    async def silence(self) -> None:
        """Act on hosts that fell silent: what they were told and did not answer is due at once."""
        names, due = await self._compute.store.write(_silence, self._compute)
        if names:
            log.warning("hosts are down", hosts=names)
            self._scheduler.forget()
        if due:
            await self._compute.hint(due)


def _hear(tx: Tx, settings: Settings, facts: list[HostFacts], short: list[HostBeat], echo: bool) -> tuple[beats.Heard, list[str]]:
    """A batch of news; what follows from it, and ids of actions that are due."""
    heard = beats.hear(tx, facts, short)
    if echo:
        beats.hearing(tx)
    if heard.new:
        info_cache.begin_hosts(tx, settings, heard.new)
    if heard.anew and not settings.heal_resume and settings.heal_instance_info_cache_interval > 0:
        info_cache.begin_anew(tx, heard.anew)
    return heard, [action_id for name in heard.anew for action_id in actions.ask_again(tx, name)]


def _silence(tx: Tx, compute: Compute) -> tuple[list[str], list[str]]:
    names = beats.notice(tx, compute.settings.compute)
    return names, [action_id for name in names for action_id in actions.ask_again(tx, name)]
