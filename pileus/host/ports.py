"""The ports of a host as its network agent has made them: what wiring one is, whoever decides when (agent_loops.py)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import structlog

from pileus.bus import Bus, BusError
from pileus.host import figures
from pileus.host.dhcp import Dhcp
from pileus.host.locks import Locks
from pileus.host.reporter import PAUSE, Reporter
from pileus.host.security import SecurityGroups
from pileus.host.switch import Switch, SwitchError, SwitchPort
from pileus.host.switch_sets import SwitchSets
from pileus.host.tunnels import Tunnels
from pileus.messages import DETAILS, DeviceDetails, DeviceDetailsRequest, PortLevel, PortWiring, from_host
from pileus.settings import Network

log = structlog.get_logger(__name__)


MOST_MISSED = 1000
"""Ports remembered that were said to change before they were here; most of these never come."""


class WireError(Exception):
    """A port could not be wired; the text is the cause."""


class RemovedMeanwhile(WireError):
    """A port was removed while it was being wired: what was made of it since then must go, too."""

    def __init__(self) -> None:
        super().__init__("the port was removed meanwhile")


@dataclass(frozen=True)
class Level:
    """How far a port is: wired at this generation, since then."""

    generation: int
    at: float


class Ports:
    """One port is wired by one at a time. `tunnels.run` and `security.run` are the owner's to start. `others` is called with ports that
    are meant to be other ones than they are: what they are meant to be is to be asked for."""

    def __init__(self, host: str, switch: Switch, dhcp: Dhcp, bus: Bus, settings: Network) -> None:
        self.others: Callable[[Collection[str]], None] = lambda _: None
        self.levels: dict[str, Level] = {}
        self.wirings: dict[str, PortWiring] = {}
        self.tunnels = Tunnels(host, switch, bus, settings)
        self.switch_sets = SwitchSets(switch)
        self.security = SecurityGroups(host, self.switch_sets, bus, settings, self._other)
        self.reporter = Reporter(host, bus, settings)
        self._host = host
        self._switch = switch
        self._dhcp = dhcp
        self._bus = bus
        self._settings = settings
        self._locks = Locks()
        self._standing: dict[str, int] = {}
        self._missed: dict[str, None] = {}

    def forget_all(self) -> None:
        """As if the process were new."""
        self.levels.clear()
        self.wirings.clear()
        self._standing.clear()
        self.tunnels = Tunnels(self._host, self._switch, self._bus, self._settings)
        self._missed.clear()
        self.security = SecurityGroups(self._host, self.switch_sets, self._bus, self._settings, self._other)

    def expect(self, ports: Iterable[PortWiring]) -> None:
        """These will be wired soon: what they need to know is asked for meanwhile."""
        ports = list(ports)
        self.tunnels.enter(ports)
        self.security.enter(ports)

    def stand(self, found: Iterable[SwitchPort]) -> None:
        """Ports that an earlier process may have wired: as long as nobody says what their groups are, they stay as they are."""
        self._standing.update((port.port_id, port.wired) for port in found if port.wired)

    def forget(self, port_ids: Iterable[str]) -> None:
        """Ports that are being removed."""
        port_ids = list(port_ids)
        self.tunnels.leave(port_ids)
        self.security.leave(port_ids)
        for port_id in port_ids:
            self.levels.pop(port_id, None)
            self.wirings.pop(port_id, None)
            self._standing.pop(port_id, None)
            self._missed.pop(port_id, None)

    def reset(self) -> None:
        """The switch has lost its flows."""
        self._standing.clear()
        self.switch_sets.reset()

    def is_wired(self, port: PortWiring) -> bool:
        """Just so, or at a later generation."""
        level = self.levels.get(port.port_id)
        return level is not None and level.generation >= port.generation and self.wirings.get(port.port_id) == port

    def is_newer(self, port: PortWiring) -> bool:
        """Another wiring of a port that is here, and not an older one."""
        known = self.wirings.get(port.port_id)
        return known is not None and port.generation >= known.generation and port != known

    def newest(self, port: PortWiring) -> PortWiring:
        """What is known here of a port at this generation or a later one, else this: compute says what it was told when it asked."""
        known = self.wirings.get(port.port_id)
        return known if known is not None and known.generation >= port.generation else port

    def miss(self, port: PortWiring) -> None:
        """Another wiring of a port that may be on its way here: whoever wires it may have been told of an older one."""
        if port.port_id not in self.wirings:
            self._missed[port.port_id] = None
            if len(self._missed) > MOST_MISSED:
                del self._missed[next(iter(self._missed))]

    async def wire(self, port: PortWiring) -> None:
        """Rules and flows, then the DHCP entry: of a port that is not on the switch no entry may be left. Then the hosts to send to.
        What came of it is reported. Raises WireError."""
        self.wirings[port.port_id] = port
        async with self._locks.of(port.port_id):
            if port.port_id not in self.wirings:
                raise WireError("the port was removed before it was wired")
            try:
                await self._wire_flows(port)
                await self._dhcp.ensure(port)
                await self.tunnels.ready(port)
            except Exception as error:
                if not isinstance(error, (SwitchError, OSError)):
                    log.exception("port not wired", port=port.port_id)  # a mistake of ours must not leave a guest waiting for its limit
                gone = port.port_id not in self.wirings
                if port.port_id not in self.levels and self.wirings.get(port.port_id) is port:
                    del self.wirings[port.port_id]
                self.reporter.put(PortLevel(port.port_id, self._host, port.generation, "failed", str(error)))
                if gone:
                    self.forget([port.port_id])
                raise (RemovedMeanwhile() if gone else WireError(str(error))) from error
            if port.port_id not in self.wirings:
                self.forget([port.port_id])  # what was looked up for it since then, too
                raise RemovedMeanwhile
            self.levels[port.port_id] = Level(port.generation, time.time())
            self.security.look(port)
            self.reporter.put(PortLevel(port.port_id, self._host, port.generation, "wired"))
            if port.port_id in self._missed:
                del self._missed[port.port_id]
                self.others([port.port_id])

    async def renew(self, removed: Callable[[PortWiring], object]) -> bool:
        """What has changed of security groups: sets first, then each port whose rules are others, once. False: not all was taken.
        `removed` is called with a port that was removed meanwhile: what was made of it since then must go, too."""
        security = self.security
        security.news.clear()
        whole = await security.tell_stale()
        stale, security.stale_ports = security.stale_ports, set()
        for port_id in sorted(stale):
            try:
                await self._renew_rules(port_id, removed)
            except SwitchError as error:
                log.warning("the switch did not take a port's new rules, trying again", port=port_id, cause=str(error))
                security.stale_ports.add(port_id)
                whole = False
        if not whole:
            security.news.set()
        return whole

    async def details(self, ids: list[str], limits: Iterable[float]) -> dict[str, PortWiring]:
        """What ports are meant to be, by RPC: one try for each limit (s). Empty where nobody answers in any."""
        question = DeviceDetailsRequest(self._host, ids)
        with figures.asking_details():
            for tried, limit in enumerate(limits):
                if tried:
                    await asyncio.sleep(PAUSE)
                try:
                    answer = await self._bus.request(from_host(self._host, DETAILS), question, DeviceDetails, timeout=limit)
                    return {port.port_id: port for port in answer.ports}
                except BusError as error:
                    log.warning("no port details", ports=len(ids), cause=str(error))
        return {}

    async def _wire_flows(self, port: PortWiring) -> None:
        rules, known = await self.security.ready(port)
        if not known and self._standing.get(port.port_id) == port.generation:
            log.warning("what a port's security groups are is not known; it stays as it is until then", port=port.port_id)
            return
        await self._switch.wire(port, rules)
        self._standing.pop(port.port_id, None)
        await self.switch_sets.wired(port.port_id, rules)

    def _other(self, port_ids: Collection[str]) -> None:
        self.others(port_ids)

    async def _renew_rules(self, port_id: str, removed: Callable[[PortWiring], object]) -> None:
        """Raises SwitchError."""
        if port_id not in self.levels:
            return  # whoever wires it looks afterwards
        async with self._locks.of(port_id):
            port = self.wirings.get(port_id)
            if port is None or (port_id in self._standing and not self.security.is_known(port_id)):
                return
            rules = self.security.rules(port)
            if self.switch_sets.is_wired(port_id, rules):
                return
            await self.switch_sets.hold(port_id, rules)
            if port_id not in self.wirings:
                return
            try:
                await self._switch.wire(port, rules)
            finally:
                if port_id not in self.wirings:
                    removed(port)
            self._standing.pop(port_id, None)
            await self.switch_sets.wired(port_id, rules)
