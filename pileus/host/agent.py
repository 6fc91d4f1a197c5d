"""The network agent of a host: wires plugged ports, keeps them wired, removes them. In which order is its loop's (agent_loops)."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog

from pileus.bus import Bus
from pileus.host.agent_loops import AgentLoop
from pileus.host.chores import Chores
from pileus.host.dhcp import Dhcp
from pileus.host.lanes import Lanes
from pileus.host.ports import Level, Ports, WireError
from pileus.host.removals import Removals
from pileus.host.reporter import FIRST_LIMIT
from pileus.host.serial_loop import Serial
from pileus.host.switch import Switch, SwitchError
from pileus.messages import MembersChanged, PortLevel, PortsChanged, PortWiring, SecurityChanged
from pileus.settings import Network

log = structlog.get_logger(__name__)

STRANGERS_LIMIT = 30.0
"""Seconds that adoption waits for the removal of ports that are nobody's."""

LOOPS: dict[str, Callable[[Ports, Removals, Network], AgentLoop]] = {"lanes": Lanes, "serial": Serial}


class Agent:
    """`notices`: find plugged ports by watching the switch and ask the network service for them (the `callback` signal's way)."""

    def __init__(self, host: str, switch: Switch, dhcp: Dhcp, bus: Bus, settings: Network, *, notices: bool) -> None:
        self._host = host
        self._switch = switch
        self._dhcp = dhcp
        self._settings = settings
        self._notices = notices
        self._ports = Ports(host, switch, dhcp, bus, settings)
        self._ports.others = self._others
        self._removals = Removals(host, self._ports, switch, dhcp, settings.flow_deletion)
        self._loop = LOOPS[settings.agent_loop](self._ports, self._removals, settings)
        self._lost = asyncio.Event()
        self._chores = Chores()
        self._learning = Chores()

    @property
    def levels(self) -> Mapping[str, Level]:
        """How far the ports here are."""
        return self._ports.levels

    async def start(self, owned: Mapping[str, PortWiring] | None, idle: Sequence[PortWiring] = ()) -> None:
        """Re-read reality: see `hold`. `owned` None: nobody has said yet what is ours, so whatever is plugged stays and is wired."""
        self._switch.on_reset = self._reset
        self._lost.clear()
        self._loop.start(self._chores)
        self._learning.start(self._ports.tunnels.run(), "agent-tunnels")
        self._learning.start(self._ports.security.run(), "agent-security")
        if owned is None:
            self._chores.start(self._stand(), "agent-stand")
        else:
            await self.hold(owned, idle)
        if self._notices:
            self._chores.start(self._watch(), "agent-watch")

    async def hold(
        self, owned: Mapping[str, PortWiring], idle: Sequence[PortWiring] = (), spared: Callable[[], Collection[str]] = frozenset
    ) -> None:
        """Ports of guests that run (`owned`) are wired where they are not; all others but the `spared` ones, which somebody is working
        on, are removed. Of those of guests that do not run (`idle`) it is told that they are gone: they may have been wired before."""
        await self._adopt(owned, spared)
        for port in idle:
            self._ports.reporter.put(PortLevel(port.port_id, self._host, port.generation, "gone"))

    async def close(self) -> None:
        """Stop working; ports stay as they are."""
        self._switch.on_reset = None
        await self._chores.close(patience=0)
        await self._learning.close(patience=0)

    async def restart(self) -> None:
        """As if the agent's process had been ended and started: it forgets everything, reads what is plugged and wires it anew. Ports and
        removals stay; who wants a port wired meanwhile waits."""
        await self._chores.close(patience=0)
        async with self._loop.alone():  # wires under way end, so what they wait for must still be learned
            await self._learning.close(patience=0)
            self._ports.forget_all()
            await self.start(None)

    def expect(self, ports: Sequence[PortWiring]) -> None:
        """These will be wired soon: what they need to know is asked for meanwhile."""
        self._ports.expect(ports)

    async def members(self, message: MembersChanged) -> None:
        """Other hosts have joined or left networks that have ports here."""
        await self._ports.tunnels.changed(message)

    async def security(self, message: SecurityChanged) -> None:
        """Security groups of ports here, or the sets that their rules name, are others now."""
        await self._ports.security.changed(message)

    async def wire(self, port: PortWiring) -> Level:
        """Make packets pass at the port's generation, DHCP entry first; tell the network service. Raises WireError."""
        newest = self._ports.newest(port)
        if newest != port:
            self._others([port.port_id])
        if not self._ports.is_wired(newest):
            await self._loop.wire(newest)
        level = self._ports.levels.get(port.port_id)
        if level is None:
            raise WireError("the port was removed as soon as it was wired")
        return level

    async def remove(self, ports: Sequence[PortWiring]) -> None:
        """Remove ports from the switch and from DHCP; returns when they are gone."""
        if ports:
            await self._remove([port.port_id for port in ports], ports)

    async def left(self, ports: Sequence[PortWiring]) -> None:
        """Wait until what is being removed of these ports is gone: whoever plugs one anew must not have it removed under him."""
        await self._removals.left([port.port_id for port in ports])

    async def update(self, message: PortsChanged) -> None:
        """The desired wiring of ports that are here, or on their way, has changed."""
        for port in message.ports:
            self._ports.miss(port)
        ports = [port for port in message.ports if self._ports.is_newer(port)]
        self._ports.expect(ports)
        await self._loop.update(ports)

    def _remove(self, ids: Sequence[str], told: Sequence[PortWiring] = ()) -> asyncio.Future[None]:
        self._ports.forget(ids)
        gone = self._removals.put(ids, told)
        self._loop.removed(ids)
        return gone

    def _others(self, port_ids: Collection[str]) -> None:
        """These are meant to be other ones than they are, or may be: a word was lost, or came before they were wired."""
        self._chores.start(self._reread(list(port_ids)), "agent-reread")

    async def _reread(self, port_ids: list[str]) -> None:
        """One try: who gets no answer asks again with the next question about all ports."""
        found = await self._ports.details(port_ids, [self._settings.rpc_timeout])
        await self.update(PortsChanged(list(found.values())))

    async def _stand(self) -> None:
        """Know again what is plugged, so that it can be wired anew should the switch lose its flows. Until it does, it works as it
        is: no haste."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(0, self._loop.restart_spread)):  # noqa: S311 - spreads, guards nothing
                await self._lost.wait()
        there = await self._switch.ports()
        self._ports.stand(there)
        for port in there:
            self._loop.notice(port.port_id)

    async def _adopt(self, owned: Mapping[str, PortWiring], spared: Callable[[], Collection[str]]) -> None:
        there = {port.port_id: port for port in await self._switch.ports()}
        self._ports.stand(there[port_id] for port_id in owned if port_id in there)
        strangers = sorted((there.keys() | (await self._dhcp.known()).keys()) - owned.keys() - set(spared()))
        if strangers:
            with contextlib.suppress(TimeoutError):  # it goes on all the same
                async with asyncio.timeout(STRANGERS_LIMIT):
                    await self._remove(strangers)
        limit = min(FIRST_LIMIT, self._settings.rpc_timeout)
        fresh = await self._ports.details(list(owned), [limit]) if owned else {}
        for port_id in owned.keys() - fresh.keys():
            self._ports.miss(owned[port_id])
        ports = [fresh.get(port_id) or self._ports.newest(wiring) for port_id, wiring in owned.items()]
        self._ports.expect(ports)
        await self._loop.adopt([port for port in ports if port.port_id in there or await self._plugged(port)])

    async def _plugged(self, port: PortWiring) -> bool:
        try:
            await self._switch.plug(port)
        except SwitchError as error:
            log.warning("port not adopted", port=port.port_id, cause=str(error))
            return False
        return True

    def _reset(self) -> None:
        """The switch lost its flows: wire everything again, the sooner the better."""
        self._ports.reset()
        self._lost.set()
        self._loop.rewire(list(self._ports.wirings.values()))

    async def _watch(self) -> None:
        async for port in self._switch.watch():
            level = self._ports.levels.get(port.port_id)
            if level is None or level.generation < port.generation:
                self._loop.notice(port.port_id)
