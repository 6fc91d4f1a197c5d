"""In which order an agent works. `Lanes`: wires, updates and removals beside one another, as they come. `Serial`: all in the turns of
one loop, as Neutron's agent has it (neutron-openvswitch-agent, `rpc_loop`): whatever comes waits for whatever came before.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from pileus.host.chores import Chores
from pileus.host.ports import Ports, RemovedMeanwhile, WireError
from pileus.host.removals import Removals
from pileus.host.reporter import doubling_limits, growing_limits
from pileus.messages import PortWiring
from pileus.metrics import AGENT_BLOCKED, AGENT_TURN, AGENT_WIRE_WAIT
from pileus.settings import Network

log = structlog.get_logger(__name__)

WIRERS = 16
"""Ports wired at once; the switch joins what comes together."""
RETRY, LAST_RETRY = 1.0, 30.0
REPORT_STEP = 20
"""Ports that one report of the serial loop names, as Neutron's do."""


class AgentLoop(Protocol):
    """All calls but `start` are made at any time; what was asked before a restart of the agent is still done."""

    restart_spread: float
    """Seconds over which agents ask what the ports are meant to be that they find at their start: several may be started together."""

    def start(self, chores: Chores) -> None:
        """Begin to work, by tasks that `chores` owns and that may be cancelled at any moment (then it is started anew)."""

    def alone(self) -> AbstractAsyncContextManager[None]:
        """While inside, nothing is being wired or updated."""
        ...

    async def wire(self, port: PortWiring) -> None:
        """In its turn; returns when it is done. Raises WireError."""

    async def adopt(self, ports: Sequence[PortWiring]) -> None:
        """Wire these without waiting for a turn; returns when it was tried with all."""

    async def update(self, ports: Sequence[PortWiring]) -> None:
        """Other wirings for ports that may be here."""

    def rewire(self, ports: Iterable[PortWiring]) -> None:
        """The switch has lost their flows: wire them again until it works, unless they change or go."""

    def notice(self, port_id: str) -> None:
        """A port is plugged, and nobody has said yet what it is meant to be."""

    def removed(self, ids: Sequence[str]) -> None:
        """These are waiting in the removals now."""


class Lanes:
    restart_spread = 15.0

    def __init__(self, ports: Ports, removals: Removals, settings: Network) -> None:
        self._ports = ports
        self._removals = removals
        self._settings = settings
        self._wire_lane = asyncio.Semaphore(WIRERS)
        self._update_lane = asyncio.Semaphore(1)
        self._whole = asyncio.Lock()
        self._noticed: asyncio.Queue[str] = asyncio.Queue()
        self._chores = Chores()

    def start(self, chores: Chores) -> None:
        self._chores = chores
        chores.start(self._ports.reporter.run(), "agent-reporter")
        chores.start(self._remove(), "agent-delete-lane")
        chores.start(self._renew(), "agent-security-lane")
        chores.start(self._details(), "agent-notice")

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._whole, self._update_lane, contextlib.AsyncExitStack() as taken:
            for _ in range(WIRERS):
                await taken.enter_async_context(self._wire_lane)
            yield

    async def wire(self, port: PortWiring) -> None:
        asked = time.monotonic()
        try:
            async with self._wire_lane:
                AGENT_WIRE_WAIT.observe(time.monotonic() - asked)
                if self._removals.has(port.port_id):
                    raise WireError("the port is being removed")
                await self._ports.wire(port)
        except RemovedMeanwhile:
            await self._removals.put([port.port_id], [port])
            raise

    async def adopt(self, ports: Sequence[PortWiring]) -> None:
        await asyncio.gather(*(quietly(self.wire(port)) for port in ports))

    async def update(self, ports: Sequence[PortWiring]) -> None:
        async with self._update_lane:
            for port in ports:
                if self._ports.is_newer(port):
                    await quietly(wire_or_remove(self._ports, self._removals, port))

    def rewire(self, ports: Iterable[PortWiring]) -> None:
        for port in ports:
            self._chores.start(self._rewire(port), "agent-rewire")

    def notice(self, port_id: str) -> None:
        self._noticed.put_nowait(port_id)

    def removed(self, ids: Sequence[str]) -> None:
        """The delete lane sees it."""

    async def _remove(self) -> None:
        """The delete lane. Unless flow deletion is deferred, it leaves no room for the others while it works."""
        pause = RETRY
        while True:
            await self._removals.some()
            if self._settings.flow_deletion == "deferred":
                done = await self._removals.remove()
            else:
                async with self.alone():
                    done = await blocking(self._removals)
            if done:
                pause = RETRY
                continue
            await asyncio.sleep(pause)
            pause = min(pause * 2, LAST_RETRY)

    async def _renew(self) -> None:
        while True:
            await self._ports.security.news.wait()
            async with self._update_lane:
                whole = await self._ports.renew()
            if not whole:
                await asyncio.sleep(RETRY)

    async def _rewire(self, port: PortWiring) -> None:
        while self._ports.wirings.get(port.port_id) is port:
            try:
                await self.wire(port)
                break
            except WireError:
                await asyncio.sleep(RETRY)

    async def _details(self) -> None:
        """Details of noticed ports, all that have gathered in one question. A question that waits holds up no other."""
        while True:
            ids = {await self._noticed.get()}
            while not self._noticed.empty():
                ids.add(self._noticed.get_nowait())
            self._chores.start(self._wire_noticed(sorted(ids)), "agent-details")

    async def _wire_noticed(self, ids: list[str]) -> None:
        for port in (await self._ports.details(ids, growing_limits(self._settings.rpc_timeout))).values():
            if not self._ports.is_wired(port):
                self._chores.start(quietly(self.wire(port)), "agent-wire")


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
        while True:
            began = time.monotonic()
            try:
                async with self._turning:
                    await self._turn()
            except Exception:
                log.exception("a turn of the agent failed; the next one goes on")
            took = time.monotonic() - began
            AGENT_TURN.observe(took)
            await asyncio.sleep(max(0.0, self._settings.polling_interval - took))

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
                AGENT_WIRE_WAIT.observe(time.monotonic() - noticed[port.port_id])
                await quietly(self._wire(port))
        for each in asked:
            if not each.done.done():
                AGENT_WIRE_WAIT.observe(time.monotonic() - each.at)
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
            await self._ports.renew()

    async def _wire(self, port: PortWiring) -> None:
        await wire_or_remove(self._ports, self._removals, port)

    async def _answer(self, asked: _Asked) -> None:
        try:
            if not self._ports.is_wired(asked.port):  # as one that was noticed
                await self._wire(asked.port)
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


@asynccontextmanager
async def _held(lock: asyncio.Lock) -> AsyncIterator[None]:
    async with lock:
        yield


async def blocking(removals: Removals) -> bool:
    """Remove while nothing else is done, and count how long that was."""
    began = time.monotonic()
    try:
        return await removals.remove()
    finally:
        AGENT_BLOCKED.inc(time.monotonic() - began)


async def wire_or_remove(ports: Ports, removals: Removals, port: PortWiring) -> None:
    """Wire; should the port have been removed meanwhile, what was made of it goes in its turn. Raises WireError."""
    try:
        await ports.wire(port)
    except RemovedMeanwhile:
        removals.put([port.port_id], [port])
        raise


async def quietly(work: Awaitable[object]) -> None:
    """A port that could not be wired was reported; here it is only logged."""
    await succeeds(work)


async def succeeds(work: Awaitable[object]) -> bool:
    """Whether a port could be wired; if not, the log says why."""
    try:
        await work
    except WireError as error:
        log.warning("port not wired", cause=str(error))
        return False
    return True
