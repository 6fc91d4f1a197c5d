"""Which other hosts share a tunnel network with this one: asked for when a network's first port comes here, kept right by hints.

What is known of a network has a version. A hint says what has changed since the version before: one that fits is taken, one that
does not is a reason to ask, as is a while without any. So hints may be lost, doubled or come in any order (law 1).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import structlog

from pileus import settings
from pileus.bus import Bus, BusError
from pileus.host.reporter import PAUSE, growing_limits
from pileus.host.switch import Switch, SwitchError
from pileus.messages import MEMBERS, Members, MembersChange, MembersChanged, MembersRequest, NetworkMembers, PortWiring, from_host

log = structlog.get_logger(__name__)

TYPES = ("geneve", "vxlan")
PATIENCE = 3.0
"""Seconds that a port waits until the hosts of its network are known, from when it was first asked. Then it is wired without: its
packets go to the hosts that are learned, and to all as soon as there is an answer."""


def address_of(host: settings.Host) -> str:
    """The host's tunnel address without its prefix length; empty where it has no tunnels."""
    return host.tunnel_address.partition("/")[0]


@dataclass
class _Network:
    """`version` -1: nothing is known yet. `hinted`: the newest version that was heard of."""

    since: float
    ports: set[str] = field(default_factory=set)
    version: int = -1
    hinted: int = -1
    addresses: set[str] = field(default_factory=set)
    answered: asyncio.Event = field(default_factory=asyncio.Event)


class Tunnels:
    """`run` is its owner's to start. On a host without tunnels all of this does nothing."""

    def __init__(self, host: str, switch: Switch, bus: Bus, settings: settings.Network) -> None:
        self._host = host
        self._switch = switch
        self._bus = bus
        self._settings = settings
        self._networks: dict[str, _Network] = {}
        self._ports: dict[str, str] = {}
        self._wanted: set[str] = set()
        self._some = asyncio.Event()
        self._applying = asyncio.Lock()

    def enter(self, ports: Iterable[PortWiring]) -> None:
        """Ports that come here: what is not known of their networks is asked for at once."""
        if not self._switch.tunnel_address:
            return
        for port in ports:
            if port.network_type not in TYPES:
                continue
            self._ports[port.port_id] = port.network_id
            if port.network_id not in self._networks:
                self._networks[port.network_id] = _Network(time.monotonic())
                self._want(port.network_id)
            self._networks[port.network_id].ports.add(port.port_id)

    def leave(self, port_ids: Iterable[str]) -> None:
        """Ports that go; what is known of a network goes with its last one."""
        for port_id in port_ids:
            network_id = self._ports.pop(port_id, "")
            network = self._networks.get(network_id)
            if network is not None:
                network.ports.discard(port_id)
                if not network.ports:
                    del self._networks[network_id]

    async def ready(self, port: PortWiring) -> None:
        """The port is wired: wait until its network's other hosts are known and the switch sends to them. Raises SwitchError."""
        self.enter([port])
        network = self._networks.get(port.network_id)
        if network is None:
            return
        try:
            async with asyncio.timeout(max(0.0, network.since + PATIENCE - time.monotonic())):
                await network.answered.wait()
        except TimeoutError:
            log.warning("nobody says which hosts share a network; it is wired without them", network=port.network_id)
        await self._apply(port.network_id)

    async def changed(self, message: MembersChanged) -> None:
        """A hint."""
        for change in message.changes:
            network = self._networks.get(change.network_id)
            if network is not None:
                self._take_hint(network, change)
                await self._try_apply(change.network_id)

    async def run(self) -> None:
        """Ask what is wanted, and now and then all: a lost hint is made good."""
        limits = growing_limits(self._settings.rpc_timeout)
        times = rounds(self._settings.members_interval)
        again = next(times)
        while True:
            try:
                async with asyncio.timeout_at(again):
                    await self._some.wait()
            except TimeoutError:
                again = next(times)
                self._wanted |= self._networks.keys()
            self._some.clear()
            networks = {key: self._networks[key].version for key in self._wanted if key in self._networks}
            self._wanted.clear()
            if not networks:
                continue
            try:
                await self._ask(networks, next(limits))
                limits = growing_limits(self._settings.rpc_timeout)
            except BusError as error:
                log.warning("nobody says which hosts share networks, asking again", networks=len(networks), cause=str(error))
                self._wanted |= networks.keys()
                await asyncio.sleep(PAUSE)
                self._some.set()
            except Exception:
                log.exception("an answer about shared networks was not understood; they are asked for again in a while")

    async def _ask(self, networks: dict[str, int], limit: float) -> None:
        question = MembersRequest(self._host, self._switch.tunnel_address, networks)
        answer = await self._bus.request(from_host(self._host, MEMBERS), question, Members, timeout=limit)
        for told in answer.networks:
            network = self._networks.get(told.network_id)
            if network is not None:
                self._take_answer(network, told)
                await self._try_apply(told.network_id)
        for network_id in networks:
            if network_id in self._networks:
                self._networks[network_id].answered.set()

    def _take_answer(self, network: _Network, told: NetworkMembers) -> None:
        """The truth, unless a hint of something newer came before it."""
        if told.version < network.version:
            return
        network.version, network.addresses = told.version, set(told.addresses)
        if network.hinted > told.version:
            self._want(told.network_id)

    def _take_hint(self, network: _Network, change: MembersChange) -> None:
        network.hinted = max(network.hinted, change.version)
        if network.version < 0 or change.version <= network.version:
            return
        network.addresses = network.addresses - set(change.left) | set(change.joined)
        if change.before == network.version:
            network.version = change.version
        else:
            self._want(change.network_id)

    def _want(self, network_id: str) -> None:
        self._wanted.add(network_id)
        self._some.set()

    async def _try_apply(self, network_id: str) -> None:
        try:
            await self._apply(network_id)
        except SwitchError as error:
            log.warning("the switch did not take a network's hosts", network=network_id, cause=str(error))

    async def _apply(self, network_id: str) -> None:
        async with self._applying:  # in the order of knowing
            network = self._networks.get(network_id)
            if network is not None and network.version >= 0:
                await self._switch.members(network_id, frozenset(network.addresses))


def rounds(interval: float) -> Iterator[float]:
    """When to ask all: each host at times of its own."""
    at = asyncio.get_running_loop().time()
    while True:
        at = max(at, asyncio.get_running_loop().time()) + interval * random.uniform(0.5, 1.0)  # noqa: S311 spreads, guards nothing
        yield at
