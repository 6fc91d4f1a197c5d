"""The agent's loop that is none: three lanes, so that wires, updates and removals do not wait for one another (law 3)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from pileus.host import figures
from pileus.host.agent_loops import blocking, quietly, wire_or_remove
from pileus.host.chores import Chores
from pileus.host.ports import Ports, RemovedMeanwhile, WireError
from pileus.host.removals import Removals
from pileus.host.reporter import growing_limits
from pileus.messages import PortWiring
from pileus.settings import Network

WIRERS = 16
"""Ports wired at once; the switch joins what comes together."""
RETRY, LAST_RETRY = 1.0, 30.0


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
                figures.wire_waited(time.monotonic() - asked)
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
                whole = await self._ports.renew(lambda port: self._removals.put([port.port_id], [port]))
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
