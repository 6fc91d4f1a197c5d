"""The network rpc worker: takes what agents ask and report on the bus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from pileus.bus import WAITED, Bus, Subscription
from pileus.gather import Gather
from pileus.messages import (
    AGENT,
    AGENT_BEAT,
    DETAILS,
    LEVELS,
    NETWORK_ECHO,
    AgentBeat,
    AgentFacts,
    DeviceDetails,
    DeviceDetailsRequest,
    DeviceLevels,
    Echo,
    FactsWanted,
    Taken,
    facts_subject,
    from_hosts,
)
from pileus.network import agents, fanout, levels
from pileus.network.config import Config
from pileus.store import Store, Tx

log = structlog.get_logger(__name__)

QUEUE = "network-rpc"
TOGETHER = 1.0
"""Seconds between two transactions of heartbeats."""
MOST = 250
"""Heartbeats of one transaction."""
ECHO = 5.0

News = AgentFacts | AgentBeat | Echo
Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Rpc:
    """`wake` is called when compute is to be told of something, `levels_came` when agents have said how far ports are."""

    def __init__(
        self, store: Store, bus: Bus, config: Config, wake: Callable[[], None], levels_came: Callable[[], None] = lambda: None
    ) -> None:
        self._store = store
        self._bus = bus
        self._config = config
        self._wake = wake
        self._levels_came = levels_came
        self._subscriptions: list[Subscription] = []
        self._beats: Gather[News] = Gather(self._hear, interval=TOGETHER, most=MOST, name="agent-heartbeats")
        self._echoing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._beats.start()
        at_once = self._config.settings.network.executor_thread_pool_size
        self._subscriptions = [
            self._bus.serve(
                from_hosts(DETAILS), DeviceDetailsRequest, self._counted("details", self._details), queue=QUEUE, concurrency=at_once
            ),
            self._bus.serve(from_hosts(LEVELS), DeviceLevels, self._counted("levels", self._levels), queue=QUEUE, concurrency=at_once),
            self._bus.subscribe(from_hosts(AGENT), AgentFacts, self._heartbeat, queue=QUEUE),
            self._bus.subscribe(from_hosts(AGENT_BEAT), AgentBeat, self._heartbeat, queue=QUEUE),
            self._bus.subscribe(NETWORK_ECHO, Echo, self._echoed, queue=QUEUE),
        ]
        self._echoing = asyncio.create_task(self._echo(), name="agent-echo")

    async def close(self) -> None:
        if self._echoing is not None:
            self._echoing.cancel()
            await asyncio.gather(self._echoing, return_exceptions=True)
        for subscription in self._subscriptions:
            await subscription.close()
        self._subscriptions = []
        await self._beats.close()

    def _counted(self, call: str, handle: Callable[[Question], Awaitable[Answer]]) -> Callable[[Question], Awaitable[Answer]]:
        """The same with its times counted, where somebody can read them (`metrics.listen`)."""
        if not self._config.settings.metrics.listen:
            return handle
        from pileus import metrics

        metrics.RPC_AT_ONCE.set(self._config.settings.network.executor_thread_pool_size)
        waits, takes = metrics.RPC_WAIT.labels(call), metrics.RPC_SECONDS.labels(call)

        async def counted(question: Question) -> Answer:
            waits.observe(WAITED.get())
            with takes.time():
                return await handle(question)

        return counted

    async def _details(self, question: DeviceDetailsRequest) -> DeviceDetails:
        if not self._config.settings.network.rpc_statements:
            return await self._store.read(levels.details, question.host, question.port_ids)
        # Neutron takes a call's devices one by one, each in transactions of its own.
        found = [await self._store.read(levels.costly_details, self._config, question.host, port_id) for port_id in question.port_ids]
        return DeviceDetails([wiring for details in found for wiring in details.ports])

    async def _levels(self, report: DeviceLevels) -> Taken:
        # An agent speaks for its own host only.
        mine = [level for level in report.levels if level.host == report.host]
        together = [mine] if not self._config.settings.network.rpc_statements else [[level] for level in mine]
        for batch in together:
            if await self._store.write(levels.take, self._config, batch):
                self._wake()
            if self._config.settings.network.notify_agents == "all":
                await fanout.tell(self._store, self._bus, batch)
        self._levels_came()
        return Taken(len(report.levels))

    async def _heartbeat(self, news: AgentFacts | AgentBeat) -> None:
        self._beats.put((type(news), news.host), news)

    async def _echoed(self, echo: Echo) -> None:
        self._beats.put(Echo, echo)

    async def _hear(self, news: list[News]) -> None:
        for host in await self._store.write(_hear, news):
            await self._bus.publish(facts_subject(host), FactsWanted("network"))

    async def _echo(self) -> None:
        while True:
            try:
                await self._bus.publish(NETWORK_ECHO, Echo(time.time()))
            except Exception:
                log.exception("no echo; the next one follows")
            await asyncio.sleep(ECHO)


def _hear(tx: Tx, news: list[News]) -> list[str]:
    if any(isinstance(each, Echo) for each in news):
        agents.hearing(tx)
    facts = [each for each in news if isinstance(each, AgentFacts)]
    return agents.hear(tx, facts, [each for each in news if isinstance(each, AgentBeat)])
