"""What stands in the bridges' tables, known from the marker flows, and the bundles that change it.

A change is decided and sent in one go, with no await between: bundles are in force in the order of their decisions. Should one be
refused, what we thought we knew is wrong: the markers are read again, and it is tried once more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pileus.host.switch import Filter, SwitchError, flows, networks, security, tables
from pileus.host.switch.bridge import Bridge, BridgeError, BridgeLost
from pileus.host.switch.connections import Connections
from pileus.host.switch.networks import Tunnel
from pileus.host.switch.openflow import DeleteFlow, DeleteFlows, FoundFlow, Message
from pileus.host.switch.rows import Plugged
from pileus.host.switch.sets import AddressSets
from pileus.host.switch.sockets import SwitchGone
from pileus.host.switch.tables import (
    BASE_KIND,
    DHCP_KIND,
    MARKER,
    NETWORK_KIND,
    PORT_KIND,
    SET_KIND,
    TUNNEL_KIND,
    UPLINK_KIND,
    WHOLE_COOKIE,
    Mark,
    cookie,
    kind_of,
)
from pileus.messages import PortWiring

_BUNDLE_LIMIT = 10.0

Sent = list[asyncio.Future[None]]


@dataclass(frozen=True)
class Uplink:
    """Where a network leaves the integration bridge: port numbers of the patch on it, and of patch and device on the physical one."""

    bridge: str
    patch: int
    far_patch: int
    device: int
    segmentation_id: int


class Pipeline:
    """`marks`: cookie → what is wired. `on_close` is called when a bridge's connection ends by itself."""

    def __init__(self, on_close: Callable[[], None]) -> None:
        self.marks: dict[int, Mark] = {}
        self._tunnels: dict[str, Tunnel] = {}
        self._members: dict[str, dict[str, int]] = {}
        self._on_close = on_close
        self._bridges: dict[str, Bridge] = {}
        self._main = ""
        self._reading: asyncio.Task[Exception | None] | None = None
        self._connections = Connections()
        self.sets = AddressSets(self.marks, self._change, self._ask)

    async def connect(self, folder: Path, main: str, others: Sequence[str], *, limit: float) -> None:
        """Connect to the integration bridge and the physical ones. Raises OSError, TimeoutError, BridgeError."""
        self.close()
        self._main = main
        made: dict[str, Bridge] = {}
        try:
            for name in (*others, main):
                made[name] = await Bridge.connect(folder / f"{name}.mgmt", self._on_close, limit=limit)
        except BaseException:
            for bridge in made.values():
                bridge.close()
            raise
        self._bridges = made
        self._connections = Connections()  # what was sent last may not have come there

    @property
    def connected(self) -> bool:
        """Whether all connections stand."""
        return bool(self._bridges) and all(bridge.alive for bridge in self._bridges.values())

    def close(self) -> None:
        for bridge in self._bridges.values():
            bridge.close()
        self._bridges = {}

    async def read(self) -> bool:
        """Learn what is wired. False where our tables are not there (or another version of them): `reset`."""
        bridge = self._bridges[self._main]
        found = await bridge.flows(table=MARKER)
        self._forget_all()
        self.marks.update(tables.read_marks(found))
        await self._drop_half_uplinks()
        base = [flow.cookie for flow in found if kind_of(flow.cookie) == BASE_KIND]
        return base == [tables.base_cookie()]

    def _forget_all(self) -> None:
        self.marks.clear()
        self._members.clear()
        self.sets.forget()

    async def refresh(self) -> None:
        """Read again what is wired, now. Raises SwitchError."""
        while self._reading is not None:
            await asyncio.shield(self._reading)
        error = await self._read_again()
        with _told():
            if error is not None:
                raise error

    async def _ask(self, table: int, own: int, mask: int) -> list[FoundFlow]:
        with _told():
            return await self._bridges[self._main].flows(table=table, cookie=own, mask=mask)

    async def _change(self, decide: Callable[[], list[Message]]) -> None:
        await self._send(lambda: [self._bridges[self._main].bundle(decide())])

    async def _drop_half_uplinks(self) -> None:
        """An uplink counts only if the physical bridge has its half, too."""
        others = [bridge for name, bridge in self._bridges.items() if name != self._main]
        whole = {flow.cookie for bridge in others for flow in await bridge.flows(table=0)}
        halves = {own: mark for own, mark in self.marks.items() if kind_of(own) == UPLINK_KIND and own not in whole}
        for own, mark in halves.items():
            del self.marks[own]
            await self._bridges[self._main].bundle(networks.remove_uplink(own, mark))

    async def reset(self) -> None:
        """Empty all bridges and lay the tables. Raises BridgeError."""
        self._forget_all()
        sent = [self._bridges[self._main].bundle([*flows.erase(), *flows.base()])]
        sent += [bridge.bundle(flows.erase()) for name, bridge in self._bridges.items() if name != self._main]
        await _all(sent)

    async def wire(self, port: PortWiring, ofport: int, tag: int, way: Uplink | Tunnel | None, rules: Filter | None) -> None:
        """A port's flows and buckets, and its network's where it is the first. Raises SwitchError."""
        named = security.sets_of(rules) if port.port_security and port.admin_up else set()

        def send() -> Sent:
            own = cookie(PORT_KIND, port.port_id)
            after = flows.mark_of(port, ofport, tag)
            numbers, changes = self.sets.numbers(named)
            of_network, sent = self._network(port.network_id, tag, way)
            changes += of_network
            for address in self._connections.take(tag, own, _addresses(port), stands=own in self.marks):
                self._bridges[self._main].flush_address(tag, address)
            changes += [*flows.add_port(port, ofport, tag, rules, numbers), *flows.change_buckets(self.marks.get(own), after)]
            self.marks[own] = after
            return [*sent, self._bridges[self._main].bundle(changes)]

        await self._send(send)

    async def wire_dhcp(self, device: Plugged) -> None:
        """The same for a network's DHCP device. Raises SwitchError."""

        def send() -> Sent:
            own = cookie(DHCP_KIND, device.network_id)
            after = flows.dhcp_mark(device.ofport, device.tag)
            changes, sent = self._network(device.network_id, device.tag, None)
            changes += flows.add_dhcp_device(device.network_id, device.mac, device.ofport, device.tag)
            changes += flows.change_buckets(self.marks.get(own), after)
            self.marks[own] = after
            return [*sent, self._bridges[self._main].bundle(changes)]

        await self._send(send)

    async def members(self, network_id: str, addresses: Collection[str]) -> None:
        """The hosts that a tunnel network's packets for all are sent to. Not a tunnel network of ours: nothing. Raises SwitchError."""

        def send() -> Sent:
            mark, tunnel = self.marks.get(cookie(TUNNEL_KIND, network_id)), self._tunnels.get(network_id)
            before = self._members.get(network_id)
            if mark is None or tunnel is None or (before is not None and before.keys() == set(addresses)):
                return []
            changes, self._members[network_id] = networks.change_members(network_id, mark.tag, tunnel, before, addresses)
            return [self._bridges[self._main].bundle(changes)]

        try:
            await self._send(send)
        except BaseException:
            self._members.pop(network_id, None)  # what stands is not known
            raise

    async def unwire(self, cookies: Iterable[int], unused: Callable[[], Iterable[tuple[str, int]]]) -> None:
        """Flows and buckets of these go, in one bundle, and those of networks (id, tag) that `unused` names at the moment of
        sending. Raises SwitchError."""
        wanted = list(cookies)

        def send() -> Sent:
            sent: Sent = []
            changes: list[Message] = []
            gone = dict(unused())
            for own in wanted:
                before = self.marks.pop(own, None)
                changes += flows.remove_port(own)
                if before is not None and before.tag not in gone.values():
                    changes += flows.change_buckets(before, None)
            for network_id, tag in gone.items():
                changes += networks.remove_network(network_id, tag)
                self._forget(network_id)
                if self.marks.pop(cookie(UPLINK_KIND, network_id), None) is not None:
                    sent += [b.bundle(networks.remove_segment(network_id)) for n, b in self._bridges.items() if n != self._main]
            return [*sent, self._bridges[self._main].bundle(changes)]

        await self._send(send)

    async def delete_one_by_one(self, cookies: Iterable[int]) -> None:
        """The flows of these go, each by a request of its own that is answered before the next, as a switch is told by many calls of
        a command. Their buckets stay. Raises SwitchError."""
        with _told():
            for own in cookies:
                bridge = self._bridges[self._main]
                # The marker, which is in the last table, says until the end that there is something left.
                for flow in sorted(await bridge.flows(cookie=own, mask=WHOLE_COOKIE), key=lambda flow: flow.table):
                    await bridge.call(DeleteFlow(flow.table, flow.priority, flow.written))

    async def drop_strangers(self, known: set[int], standing: Iterable[tuple[str, int]], *, tunnels: bool) -> None:
        """Remove the flows of ports, networks and sets that nobody has any more: what a process left that was killed while it worked. And
        those of tunnels where there are none any more."""
        kinds = (NETWORK_KIND, UPLINK_KIND, *([TUNNEL_KIND] if tunnels else []))
        keep = known | {cookie(kind, network_id) for network_id, _ in standing for kind in kinds}
        strangers = {own: mark for own, mark in self.marks.items() if own not in keep and kind_of(own) != SET_KIND}
        tags = {tag for _, tag in standing}
        changes: list[Message] = []
        for own, mark in strangers.items():
            changes += flows.remove_port(own)
            if kind_of(own) in (PORT_KIND, DHCP_KIND) and mark.tag in tags:
                changes += flows.change_buckets(mark, None)
            elif kind_of(own) == TUNNEL_KIND and mark.tag in tags:
                changes += networks.remove_tunnel(own, mark)
            elif mark.tag not in tags:
                changes += networks.remove_groups(mark.tag)
            del self.marks[own]
        if changes:
            await _all(
                [
                    bridge.bundle(changes if name == self._main else [DeleteFlows(own) for own in strangers])
                    for name, bridge in self._bridges.items()
                ]
            )
        await self.sets.drop_unused()

    def _forget(self, network_id: str) -> None:
        for kind in (NETWORK_KIND, TUNNEL_KIND):
            self.marks.pop(cookie(kind, network_id), None)
        self._tunnels.pop(network_id, None)
        self._members.pop(network_id, None)

    def _network(self, network_id: str, tag: int, way: Uplink | Tunnel | None) -> tuple[list[Message], Sent]:
        """What a network still lacks: changes for the integration bridge, and what was sent to the physical one."""
        changes: list[Message] = []
        sent: Sent = []
        standing = self.marks.get(cookie(NETWORK_KIND, network_id))
        if standing is not None and standing.tag != tag:
            changes += networks.remove_network(network_id, standing.tag)
            self._forget(network_id)
            self.marks.pop(cookie(UPLINK_KIND, network_id), None)
        if standing is None or standing.tag != tag:
            changes += networks.add_network(network_id, tag)
            self._bridges[self._main].flush_zone(tag)  # another network's connections may stand there
            self._connections.begin(tag)
            self.marks[cookie(NETWORK_KIND, network_id)] = Mark(0, 0, tag)
        if isinstance(way, Uplink) and cookie(UPLINK_KIND, network_id) not in self.marks:
            changes += networks.add_uplink(network_id, tag, way.patch)
            self.marks[cookie(UPLINK_KIND, network_id)] = Mark(0, way.patch, tag)
            segment = networks.add_segment(network_id, tag, way.segmentation_id, way.far_patch, way.device)
            sent.append(self._bridges[way.bridge].bundle(segment))
        if isinstance(way, Tunnel):
            changes += self._tunnel(network_id, tag, way)
        return changes, sent

    def _tunnel(self, network_id: str, tag: int, tunnel: Tunnel) -> list[Message]:
        own, changes = cookie(TUNNEL_KIND, network_id), list[Message]()
        self._tunnels[network_id] = tunnel
        standing, wanted = self.marks.get(own), Mark(0, tunnel.port, tag)
        if standing == wanted:
            return changes
        if standing is not None:
            changes += networks.remove_tunnel(own, standing)
        self.marks[own] = wanted
        self._members[network_id] = {}
        return [*changes, *networks.add_tunnel(network_id, tag, tunnel)]

    async def _send(self, send: Callable[[], Sent]) -> None:
        for last in (False, True):
            if self._reading is not None:
                await asyncio.shield(self._reading)
            try:
                async with asyncio.timeout(_BUNDLE_LIMIT):
                    await _all(send())
                return
            except (KeyError, BridgeLost):
                raise SwitchGone("the bridge's OpenFlow connection was lost") from None
            except TimeoutError:
                raise SwitchError(f"the switch did not answer within {_BUNDLE_LIMIT:.0f} s") from None
            except BridgeError as error:
                if last:
                    raise SwitchError(f"the switch refused flows: {error}") from None
                await self._read_again()

    async def _read_again(self) -> Exception | None:
        """While this is going on nothing is sent: the markers of what was decided meanwhile would not be among those read. Where it does
        not work, whoever makes the connection again reads, too."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._reread(), name="read the switch's markers")
        return await asyncio.shield(self._reading)

    async def _reread(self) -> Exception | None:
        try:
            await self.read()
        except (BridgeError, TimeoutError, KeyError) as error:
            return error
        finally:
            self._reading = None
        return None


def _addresses(port: PortWiring) -> list[str]:
    """Those that a port sends from, but for networks that it has as pairs."""
    return [*(fixed.address for fixed in port.fixed_ips), *(pair.ip for pair in port.allowed_pairs if "/" not in pair.ip)]


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Asking the switch: its errors as ours."""
    try:
        yield
    except (BridgeLost, KeyError):
        raise SwitchGone("the bridge's OpenFlow connection was lost") from None
    except (BridgeError, TimeoutError) as error:
        raise SwitchError(f"the switch does not tell its flows: {error}") from None


async def _all(sent: Sent) -> None:
    """Wait for all; the first failure is raised when all have ended."""
    for result in await asyncio.gather(*sent, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
