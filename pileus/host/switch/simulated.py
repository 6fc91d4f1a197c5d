"""The switch seam without a switch: latencies, faults and ports in memory, cheap enough for a thousand hosts in one process."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from pileus import settings
from pileus.host.privileged import tap_name
from pileus.host.switch import Filter, FlowDeletion, SwitchError, SwitchPort, Tap, security
from pileus.host.switch.watching import Watches
from pileus.messages import PortWiring

Step = Literal["open_tap", "plug", "wire", "members", "address_set", "unplug", "dhcp_device"]

_FLOWS_OF_NETWORK, _FLOWS_OF_DHCP, _FLOWS_OF_SET, _FLOWS_OF_MEMBER = 3, 6, 3, 2
LAST_TAG = 4094


@lru_cache(maxsize=4096)
def flows_of_rules(rules: Filter | None) -> int:
    """How many flows the rules are on a real switch, beyond what a port has without any."""
    if rules is None:
        return 0

    def count(some: Filter) -> int:
        numbers = dict.fromkeys(security.sets_of(some), 0)
        return sum(1 for stage in (security.egress, security.ingress) for _ in stage(0, 0, some, numbers))

    return count(rules) - count(replace(rules, rules=()))


@dataclass
class World:
    """What outlives a host's process: hand it to the next `SimulatedSwitch`, and that one finds the ports as they were."""

    taps: set[str] = field(default_factory=set)
    ports: dict[str, SwitchPort] = field(default_factory=dict)
    networks: dict[str, str] = field(default_factory=dict)
    """Port → network."""
    wired_networks: set[str] = field(default_factory=set)
    dhcp: dict[str, str] = field(default_factory=dict)
    """Network → namespace of its DHCP device."""

    members: dict[str, frozenset[str]] = field(default_factory=dict)
    """Tunnel network → the addresses of the other hosts that packets for all are sent to."""

    port_flows: dict[str, int] = field(default_factory=dict)
    """Wired port → flows of its own."""
    named: dict[str, frozenset[str]] = field(default_factory=dict)
    """Wired port → the sets that its rules name."""
    sets: dict[str, set[str]] = field(default_factory=dict)
    """Set → its addresses. A set's flows are its own, whatever ports there are."""

    def changed(self, port_ids: Sequence[str]) -> None:
        """Ports have come, changed or gone."""

    def set_changed(self, set_id: str, joined: Collection[str], left: Collection[str]) -> None:
        """A set has other addresses now."""

    def lost(self) -> None:
        """All flows are gone: those of ports, networks and sets."""
        self.ports = {port_id: replace(port, wired=0) for port_id, port in self.ports.items()}
        for kept in (self.wired_networks, self.members, self.port_flows, self.named, self.sets):
            kept.clear()
        self.changed(list(self.ports))

    @property
    def flows(self) -> int:
        """How many flows a real switch would hold for this."""
        sets = sum(_FLOWS_OF_SET + len(addresses) * _FLOWS_OF_MEMBER for addresses in self.sets.values())
        networks = len(self.wired_networks) * _FLOWS_OF_NETWORK + len(self.dhcp) * _FLOWS_OF_DHCP
        return sum(self.port_flows.values()) + sets + networks

    @property
    def tags(self) -> int:
        """How many local tags are in use: one a network."""
        return len({*self.networks.values(), *self.dhcp})


class SimulatedSwitch:
    """See `Switch`. Latencies and `fail_wire` come from the settings; `fail_next` and `reset` are for tests and storms."""

    on_reset: Callable[[], None] | None = None

    def __init__(self, settings: settings.Simulated, *, seed: int = 0, world: World | None = None, tunnel_address: str = "") -> None:
        self.tunnel_address = tunnel_address
        self.world = world if world is not None else World()
        self._settings = settings
        self._random = random.Random(seed)  # noqa: S311 - a simulation repeats itself on purpose
        self._watches = Watches()
        self._faults: dict[Step, deque[str]] = {}

    def fail_next(self, step: Step, cause: str) -> None:
        """The next call of this step (after those already asked for) raises SwitchError with this text."""
        self._faults.setdefault(step, deque()).append(cause)

    def reset(self) -> None:
        """The switch restarts: flows are lost, ports stay, `on_reset` is called."""
        self.world.lost()
        if self.on_reset is not None:
            self.on_reset()

    async def start(self) -> None:
        """Nothing to wait for."""

    async def close(self) -> None:
        """The world stays as it is."""

    async def open_tap(self, port_id: str, mtu: int) -> Tap:
        self._meet_fault("open_tap")
        self.world.taps.add(tap_name(port_id))
        return Tap(tap_name(port_id), -1)

    async def plug(self, port: PortWiring) -> None:
        await self._take(self._settings.plug)
        self._meet_fault("plug")
        name = tap_name(port.port_id)
        if name not in self.world.taps:
            raise SwitchError(f"could not open network device {name} (No such device)")
        known = self.world.ports.get(port.port_id)
        users = len(self.world.networks) + len(self.world.dhcp)
        if known is None and users >= LAST_TAG and self.world.tags >= LAST_TAG and port.network_id not in self._networks():
            raise SwitchError(f"this host has ports in {LAST_TAG} networks already: no local tag is left")
        fresh = SwitchPort(port.port_id, name, port.generation, known.wired if known else 0)
        self.world.ports[port.port_id] = fresh
        self.world.networks[port.port_id] = port.network_id
        self.world.changed([port.port_id])
        if known is None or known.generation != port.generation:
            self._watches.put(fresh)

    async def wire(self, port: PortWiring, rules: Filter | None = None) -> None:
        await self._take(self._settings.wire)
        self._meet_fault("wire")
        if self._settings.fail_wire and self._random.random() < self._settings.fail_wire:
            raise SwitchError("the switch refused flows: simulated failure (simulated.fail_wire)")
        known = self.world.ports.get(port.port_id)
        if known is None:
            raise SwitchError(f"port {port.port_id} is not plugged here")
        named = frozenset(security.sets_of(rules))
        for set_id in named:
            self.world.sets.setdefault(set_id, set())
        self.world.ports[port.port_id] = replace(known, wired=port.generation)
        self.world.port_flows[port.port_id] = self._settings.flows_per_port + flows_of_rules(rules)
        self.world.named[port.port_id] = named
        self.world.wired_networks.add(port.network_id)
        self.world.changed([port.port_id])

    async def address_set(self, set_id: str, addresses: Collection[str]) -> None:
        self._meet_fault("address_set")
        before, after = self.world.sets.get(set_id, set()), set(addresses)
        await self._take(self._settings.add_member * len(before ^ after))
        self.world.sets[set_id] = after
        self.world.set_changed(set_id, after - before, before - after)

    async def change_set(self, set_id: str, joined: Collection[str], left: Collection[str]) -> None:
        self._meet_fault("address_set")
        await self._take(self._settings.add_member * (len(joined) + len(left)))
        if set_id not in self.world.sets:
            raise SwitchError(f"the address set {set_id} does not stand on this switch")
        self.world.sets[set_id].difference_update(left)
        self.world.sets[set_id].update(joined)
        self.world.set_changed(set_id, joined, left)

    async def drop_sets(self, set_ids: Collection[str]) -> None:
        for set_id in set_ids:
            await self._take(self._settings.add_member * len(self.world.sets.get(set_id, ())))
            self.world.set_changed(set_id, (), self.world.sets.pop(set_id, set()))

    async def members(self, network_id: str, addresses: Collection[str]) -> None:
        self._meet_fault("members")
        if network_id in self.world.wired_networks:
            self.world.members[network_id] = frozenset(addresses)

    async def unplug(self, port_ids: Sequence[str], *, deletion: FlowDeletion = "deferred") -> None:
        await self._take(self._settings.unplug)
        self._meet_fault("unplug")
        a_flow = self._settings.delete_flow if deletion == "blocking" else self._settings.delete_flow_bundled
        await self._take(a_flow * sum(self.world.port_flows.get(port_id, 0) for port_id in port_ids))
        for port_id in port_ids:
            self.world.ports.pop(port_id, None)
            self.world.networks.pop(port_id, None)
            self.world.port_flows.pop(port_id, None)
            self.world.named.pop(port_id, None)
            self.world.taps.discard(tap_name(port_id))
            self._watches.drop(port_id)
        self.world.changed(port_ids)
        self._forget_networks()

    async def ports(self) -> list[SwitchPort]:
        return list(self.world.ports.values())

    async def drop_taps(self, spared: Collection[str]) -> None:
        self.world.taps &= {tap_name(port_id) for port_id in [*self.world.ports, *spared]}

    def watch(self) -> AsyncIterator[SwitchPort]:
        return self._watches.add(self.world.ports.values())

    async def dhcp_device(self, network_id: str, namespace: str, mac: str, mtu: int) -> str:
        self._meet_fault("dhcp_device")
        self.world.dhcp[network_id] = namespace
        self.world.wired_networks.add(network_id)
        return "dhcp" + network_id[:11]

    async def remove_dhcp_device(self, network_id: str, namespace: str) -> None:
        self.world.dhcp.pop(network_id, None)
        self._forget_networks()

    def _forget_networks(self) -> None:
        """Those without a port go."""
        self.world.wired_networks &= self._networks()
        for network_id in self.world.members.keys() - self.world.wired_networks:
            del self.world.members[network_id]

    def _networks(self) -> set[str]:
        return {*self.world.networks.values(), *self.world.dhcp}

    def _meet_fault(self, step: Step) -> None:
        waiting = self._faults.get(step)
        if waiting:
            raise SwitchError(waiting.popleft())

    async def _take(self, seconds: float) -> None:
        if seconds:
            await asyncio.sleep(self._latency(seconds))

    def _latency(self, seconds: float) -> float:
        spread = self._settings.jitter
        return seconds * self._random.uniform(1 - spread, 1 + spread)
