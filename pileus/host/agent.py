"""The network agent of a host: wires plugged ports, keeps them wired, removes them. Three lanes, so that none waits for another (law 3)."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog

from pileus.bus import Bus, BusError
from pileus.host.chores import Chores
from pileus.host.dhcp import Dhcp
from pileus.host.reporter import PAUSE, Reporter, growing_limits
from pileus.host.switch import Switch, SwitchError
from pileus.host.tunnels import Tunnels
from pileus.messages import DETAILS, DeviceDetails, DeviceDetailsRequest, MembersChanged, PortLevel, PortsChanged, PortWiring, from_host
from pileus.settings import Network

log = structlog.get_logger(__name__)

STAND_SPREAD = 15.0
"""Seconds over which agents ask what the ports are meant to be that they find at their start."""
WIRERS = 16
"""Ports wired at once; the switch joins what comes together."""
RETRY, LAST_RETRY = 1.0, 30.0
STRANGERS_LIMIT = 30.0
"""Seconds that adoption waits for the removal of ports that are nobody's."""


class WireError(Exception):
    """A port could not be wired; the text is the cause."""


@dataclass(frozen=True)
class Level:
    """How far a port is: wired at this generation, since then."""

    generation: int
    at: float


class Agent:
    """`notices`: find plugged ports by watching the switch and ask the network service for them (the `callback` signal's way)."""

    def __init__(self, host: str, switch: Switch, dhcp: Dhcp, bus: Bus, settings: Network, *, notices: bool) -> None:
        self.levels: dict[str, Level] = {}
        self._host = host
        self._switch = switch
        self._dhcp = dhcp
        self._bus = bus
        self._settings = settings
        self._notices = notices
        self._wirings: dict[str, PortWiring] = {}
        self._reporter = Reporter(host, bus, settings)
        self._wire_lane = asyncio.Semaphore(WIRERS)
        self._update_lane = asyncio.Semaphore(1)
        self._leaving: dict[str, asyncio.Future[None]] = {}
        self._removals: asyncio.Queue[tuple[list[str], asyncio.Future[None]]] = asyncio.Queue()
        self._tunnels = Tunnels(host, switch, bus, settings)
        self._chores = Chores()

    async def start(self, owned: Mapping[str, PortWiring] | None, idle: Sequence[PortWiring] = ()) -> None:
        """Re-read reality: see `hold`. `owned` None: nobody has said yet what is ours, so whatever is plugged stays and is wired."""
        self._switch.on_reset = self._reset
        self._chores.start(self._reporter.run(), "agent-reporter")
        self._chores.start(self._remove_loop(), "agent-delete-lane")
        self._chores.start(self._tunnels.run(), "agent-tunnels")
        if owned is None:
            self._chores.start(self._stand(), "agent-stand")
        else:
            await self.hold(owned, idle)
        if self._notices:
            self._chores.start(self._notice_loop(), "agent-notice")

    async def hold(
        self, owned: Mapping[str, PortWiring], idle: Sequence[PortWiring] = (), spared: Callable[[], Collection[str]] = frozenset
    ) -> None:
        """Ports of guests that run (`owned`) are wired where they are not; all others but the `spared` ones, which somebody is working
        on, are removed. Of those of guests that do not run (`idle`) it is told that they are gone: they may have been wired before."""
        await self._adopt(owned, spared)
        for port in idle:
            self._reporter.put(PortLevel(port.port_id, self._host, port.generation, "gone"))

    async def close(self) -> None:
        """Stop working; ports stay as they are."""
        self._switch.on_reset = None
        await self._chores.close(patience=0)

    async def restart(self) -> None:
        """As if the agent's process had been ended and started: it forgets everything, reads what is plugged and wires it anew. Ports and
        removals stay; who wants a port wired meanwhile waits."""
        await self._chores.close(patience=0)
        for _ in range(WIRERS):
            await self._wire_lane.acquire()
        try:
            async with self._update_lane:
                self.levels.clear()
                self._wirings.clear()
                self._tunnels = Tunnels(self._host, self._switch, self._bus, self._settings)
                batches: dict[asyncio.Future[None], list[str]] = {}
                for port_id, done in self._leaving.items():
                    batches.setdefault(done, []).append(port_id)
                self._removals = asyncio.Queue()
                for done, ids in batches.items():
                    self._removals.put_nowait((ids, done))
                await self.start(None)
        finally:
            for _ in range(WIRERS):
                self._wire_lane.release()

    def expect(self, ports: Sequence[PortWiring]) -> None:
        """These will be wired soon: what their networks need is asked for meanwhile."""
        self._tunnels.enter(ports)

    async def members(self, message: MembersChanged) -> None:
        """Other hosts have joined or left networks that have ports here."""
        await self._tunnels.changed(message)

    async def wire(self, port: PortWiring) -> Level:
        """Make packets pass at the port's generation, DHCP entry first; tell the network service. Raises WireError."""
        level = self.levels.get(port.port_id)
        if level is not None and level.generation >= port.generation and self._wirings.get(port.port_id) == port:
            return level
        async with self._wire_lane:
            await self._wire(port)
        return self.levels[port.port_id]

    async def remove(self, ports: Sequence[PortWiring]) -> None:
        """Remove ports from the switch and from DHCP; returns when they are gone."""
        ids = [port.port_id for port in ports]
        self._tunnels.leave(ids)
        for port in ports:
            self.levels.pop(port.port_id, None)
            self._wirings.pop(port.port_id, None)
        if not ids:
            return
        await self._leave(ids)
        for port in ports:
            self._reporter.put(PortLevel(port.port_id, self._host, port.generation, "gone"))

    async def left(self, ports: Sequence[PortWiring]) -> None:
        """Wait until what is being removed of these ports is gone: whoever plugs one anew must not have it removed under him."""
        leaving = {self._leaving[port.port_id] for port in ports if port.port_id in self._leaving}
        if leaving:
            await asyncio.wait(leaving)

    async def update(self, message: PortsChanged) -> None:
        """The desired wiring of ports that are here has changed."""
        async with self._update_lane:
            for port in message.ports:
                known = self._wirings.get(port.port_id)
                if known is not None and port.generation >= known.generation and port != known:
                    try:
                        await self._wire(port)
                    except WireError as error:
                        log.warning("port not updated", port=port.port_id, cause=str(error))

    async def _wire(self, port: PortWiring) -> None:
        """Flows, then the DHCP entry: of a port that is not on the switch no entry may be left. Then the hosts to send to."""
        self._wirings[port.port_id] = port
        try:
            await self._switch.wire(port)
            await self._dhcp.ensure(port)
            await self._tunnels.ready(port)
        except Exception as error:
            if not isinstance(error, (SwitchError, OSError)):
                log.exception("port not wired", port=port.port_id)  # a mistake of ours must not leave a guest waiting for its limit
            if port.port_id not in self.levels and self._wirings.get(port.port_id) is port:
                del self._wirings[port.port_id]
            self._reporter.put(PortLevel(port.port_id, self._host, port.generation, "failed", str(error)))
            raise WireError(str(error)) from error
        if port.port_id not in self._wirings:  # removed while we were at it: what we made since then goes as well
            await self.remove([port])
            raise WireError("the port was removed meanwhile")
        self.levels[port.port_id] = Level(port.generation, time.time())
        self._reporter.put(PortLevel(port.port_id, self._host, port.generation, "wired"))

    def _leave(self, ids: list[str]) -> asyncio.Future[None]:
        """Ports into the delete lane; who waits may be cancelled, the removal goes on."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._leaving.update(dict.fromkeys(ids, done))
        self._removals.put_nowait((ids, done))
        return asyncio.shield(done)

    async def _remove_loop(self) -> None:
        """The delete lane: what has gathered goes in one batch."""
        while True:
            batch = [await self._removals.get()]
            while not self._removals.empty():
                batch.append(self._removals.get_nowait())
            ids = [port_id for ids, _ in batch for port_id in ids]
            pause = RETRY
            while True:
                try:
                    await self._dhcp.release(ids)
                    await self._switch.unplug(ids)
                    break
                except (SwitchError, OSError) as error:
                    log.warning("ports not removed, trying again", ports=len(ids), cause=str(error))
                except Exception:
                    log.exception("ports not removed, trying again", ports=len(ids))  # the lane must not end by a mistake of ours
                await asyncio.sleep(pause)
                pause = min(pause * 2, LAST_RETRY)
            for ids, done in batch:
                for port_id in ids:
                    if self._leaving.get(port_id) is done:
                        del self._leaving[port_id]
                if not done.done():
                    done.set_result(None)

    async def _stand(self) -> None:
        """Know again what is plugged, so that it can be wired anew should the switch lose its flows. It works as it is: no haste."""
        await asyncio.sleep(random.uniform(0, STAND_SPREAD))  # noqa: S311 - so that agents restarted together do not ask together
        there = [port.port_id for port in await self._switch.ports()]
        for port in (await self._details(there, patient=True)).values() if there else ():
            known = self._wirings.get(port.port_id)
            if known is None or known.generation < port.generation:
                await self._quietly(self.wire(port))

    async def _adopt(self, owned: Mapping[str, PortWiring], spared: Callable[[], Collection[str]]) -> None:
        there = {port.port_id: port for port in await self._switch.ports()}
        strangers = sorted((there.keys() | (await self._dhcp.known()).keys()) - owned.keys() - set(spared()))
        if strangers:
            self._tunnels.leave(strangers)
            for port_id in strangers:
                self.levels.pop(port_id, None)
                self._wirings.pop(port_id, None)
            with contextlib.suppress(TimeoutError):  # it goes on all the same
                async with asyncio.timeout(STRANGERS_LIMIT):
                    await self._leave(strangers)
        fresh = await self._details(list(owned)) if owned else {}
        self._tunnels.enter(fresh.get(port_id, wiring) for port_id, wiring in owned.items())
        for port_id, wiring in owned.items():
            port = fresh.get(port_id, wiring)
            try:
                if port_id not in there:
                    await self._switch.plug(port)
                await self._wire(port)
            except (WireError, SwitchError) as error:
                log.warning("port not adopted", port=port_id, cause=str(error))

    def _reset(self) -> None:
        """The switch lost its flows: wire everything again, the sooner the better."""
        for port in list(self._wirings.values()):
            self._chores.start(self._rewire(port), "agent-rewire")

    async def _rewire(self, port: PortWiring) -> None:
        while self._wirings.get(port.port_id) is port:
            try:
                async with self._wire_lane:
                    await self._wire(port)
                break
            except WireError:
                await asyncio.sleep(RETRY)

    async def _notice_loop(self) -> None:
        """Plugged ports → their details, all that have gathered in one question → wire. A question that waits holds up no other."""
        noticed: asyncio.Queue[str] = asyncio.Queue()
        self._chores.start(self._watch(noticed.put_nowait), "agent-watch")
        while True:
            ids = {await noticed.get()}
            while not noticed.empty():
                ids.add(noticed.get_nowait())
            self._chores.start(self._wire_noticed(sorted(ids)), "agent-details")

    async def _wire_noticed(self, ids: list[str]) -> None:
        for port in (await self._details(ids, patient=True)).values():
            self._chores.start(self._quietly(self.wire(port)), "agent-wire")

    async def _watch(self, notice: Callable[[str], None]) -> None:
        async for port in self._switch.watch():
            level = self.levels.get(port.port_id)
            if level is None or level.generation < port.generation:
                notice(port.port_id)

    async def _details(self, ids: list[str], *, patient: bool = False) -> dict[str, PortWiring]:
        """What ports are meant to be, by RPC. `patient`: ask until answered, else an empty answer where nobody answers."""
        question = DeviceDetailsRequest(self._host, ids)
        for limit in growing_limits(self._settings.rpc_timeout):
            try:
                answer = await self._bus.request(from_host(self._host, DETAILS), question, DeviceDetails, timeout=limit)
                return {port.port_id: port for port in answer.ports}
            except BusError as error:
                if not patient:
                    break
                log.warning("no port details, asking again", ports=len(ids), cause=str(error))
                await asyncio.sleep(PAUSE)
        return {}

    async def _quietly(self, work: Awaitable[object]) -> None:
        try:
            await work
        except WireError as error:
            log.warning("port not wired", cause=str(error))
