"""The agent's work in the turns of one loop, as Neutron's agent does it (`rpc_loop` of neutron-openvswitch-agent)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import structlog

from pileus.host import figures
from pileus.host.agent_loops import blocking, quietly, succeeds, wire_or_remove
from pileus.host.chores import Chores
from pileus.host.ports import Ports, WireError
from pileus.host.removals import Removals
from pileus.host.reporter import doubling_limits
from pileus.messages import PortWiring
from pileus.settings import Network

log = structlog.get_logger(__name__)

RETRY = 1.0
REPORT_STEP = 20
"""Ports that one report names, as Neutron's do."""


@dataclass(eq=False)
class _Asked:
    port: PortWiring
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    at: float = field(default_factory=time.monotonic)


class Serial:
    """A turn: removals, updates, details of noticed ports in one question, wires one after the other, the report. A question or report
    that is not answered is asked again, and nothing goes on before it is. With deferred flow deletion removals alone are beside it."""

    restart_spread = 0.0

    def __init__(self, ports: Ports, removals: Removals, settings: Network) -> None:
        self._ports = ports
        self._removals = removals
        self._settings = settings
        self._asked: dict[_Asked, None] = {}
        self._noticed: dict[str, float] = {}
        self._updates: dict[str, PortWiring] = {}
        self._again: dict[str, PortWiring] = {}
        self._turning = asyncio.Lock()

    def start(self, chores: Chores) -> None:
        chores.start(self._run(), "agent-loop")
        if self._settings.flow_deletion == "deferred":
            chores.start(self._remove_beside(), "agent-delete-lane")

    def alone(self) -> AbstractAsyncContextManager[None]:
        return _held(self._turning)

    async def wire(self, port: PortWiring) -> None:
        asked = _Asked(port)
        self._asked[asked] = None
        try:
            await asked.done
        finally:
            self._asked.pop(asked, None)

    async def adopt(self, ports: Sequence[PortWiring]) -> None:
        async with self._turning:
            for port in ports:
                await quietly(self._wire(port))

    async def update(self, ports: Sequence[PortWiring]) -> None:
        for port in ports:
            if self._ports.is_newer(port):
                self._updates[port.port_id] = port

    def rewire(self, ports: Iterable[PortWiring]) -> None:
        self._again.update((port.port_id, port) for port in ports)

    def notice(self, port_id: str) -> None:
        self._noticed.setdefault(port_id, time.monotonic())

    def removed(self, ids: Sequence[str]) -> None:
        for asked in self._asked:
            if asked.port.port_id in ids and not asked.done.done():
                asked.done.set_exception(WireError("the port was removed before it was wired"))

    async def _run(self) -> None:
        pause = first_pause(self._settings.polling_interval)
        while True:
            began = time.monotonic()
            try:
                async with self._turning:
                    await self._turn()
            except Exception:
                log.exception("a turn of the agent failed; the next one goes on")
            took = time.monotonic() - began
            figures.turned(took)
            await asyncio.sleep(max(0.0, pause - took))
            pause = self._settings.polling_interval

    async def _turn(self) -> None:
        noticed, asked = self._noticed, list(self._asked)
        self._noticed = {}
        if self._settings.flow_deletion != "deferred":
            await blocking(self._removals)
        await self._update()
        try:
            details = await self._ports.details(sorted(noticed), doubling_limits(self._settings.rpc_timeout)) if noticed else {}
        except asyncio.CancelledError:
            self._noticed |= noticed  # the agent starts anew
            raise
        for port in details.values():
            if not self._ports.is_wired(port) and not self._removals.has(port.port_id):
                figures.wire_waited(time.monotonic() - noticed[port.port_id])
                await quietly(self._wire(port))
        for each in asked:
            if not each.done.done():
                figures.wire_waited(time.monotonic() - each.at)
                await self._answer(each)
        await self._ports.reporter.flush(REPORT_STEP)

    async def _update(self) -> None:
        """Ports whose flows were lost, ports that are meant to be other ones, and what security groups let pass."""
        for port_id, port in list(self._again.items()):
            if self._ports.wirings.get(port_id) is not port or await succeeds(self._wire(port)):
                del self._again[port_id]
        updates, self._updates = self._updates, {}
        for port in updates.values():
            if self._ports.is_newer(port):
                await quietly(self._wire(port))
        if self._ports.security.news.is_set():
            await self._ports.renew(lambda port: self._removals.put([port.port_id], [port]))

    async def _wire(self, port: PortWiring) -> None:
        await wire_or_remove(self._ports, self._removals, port)

    async def _answer(self, asked: _Asked) -> None:
        try:
            port = self._ports.newest(asked.port)
            if not self._ports.is_wired(port):  # as one that was noticed
                await self._wire(port)
        except WireError as error:
            if not asked.done.done():
                asked.done.set_exception(error)
        else:
            if not asked.done.done():
                asked.done.set_result(None)

    async def _remove_beside(self) -> None:
        while True:
            await self._removals.some()
            if not await self._removals.remove():
                await asyncio.sleep(RETRY)


def first_pause(interval: float) -> float:
    """Turns of agents that were started together begin at times of their own."""
    return random.uniform(0, interval)  # noqa: S311 - spreads, guards nothing


@asynccontextmanager
async def _held(lock: asyncio.Lock) -> AsyncIterator[None]:
    async with lock:
        yield
