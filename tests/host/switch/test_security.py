"""Security groups on a real switch: what their rules let pass between guests. Frames are written into TAPs and read from them.

That a frame goes nowhere is shown by two later ones that do arrive, the second sent when the first was there.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pileus.host.switch import Filter, openflow
from pileus.messages import AddressPair, FixedIP, PortWiring, SecurityRule
from pileus.settings import Host
from tests.host.switch import frames
from tests.host.switch.frames import ACK, SYN, SYN_ACK, arp, received_until, send, tcp, udp
from tests.host.switch.rigs import OvsRig, network, tap, wiring
from tests.host.switch.test_openvswitch import SERVER_MAC, Wire, serve_one
from tests.host.switch.test_packets import ALLOWED, FORBIDDEN
from tests.host.switch.underlays import Hosts

MAC = [wiring(number, "").mac for number in range(5)]
IP = [f"192.0.2.{number}" for number in range(5)]
V6 = [f"2001:db8::{number}" for number in range(5)]
A, B, C = MAC[1], MAC[2], MAC[3]
IP_A, IP_B, IP_C = IP[1], IP[2], IP[3]
TCP, UDP, ICMP = 6, 17, 1


_ends = itertools.count()


def rule(direction: str = "ingress", version: int = 4, **more: Any) -> SecurityRule:
    return SecurityRule(direction, version, **more)  # type: ignore[arg-type]


EGRESS = tuple(rule("egress", version) for version in (4, 6))
INGRESS = tuple(rule("ingress", version) for version in (4, 6))
SENDS = Filter(rules=EGRESS)
OPEN = Filter(rules=EGRESS + INGRESS)
SILENT = Filter()


def takes(*rules: SecurityRule, stateful: bool = True) -> Filter:
    return Filter(stateful, rules)


class Guest:
    """A port with its TAP's other end."""

    def __init__(self, rig: OvsRig, port: PortWiring) -> None:
        self.rig = rig
        self.port = port
        self.fd = -1
        self.heard: list[bytes] = []
        """Since it was last asked whether something reaches it."""

    async def plug(self, rules: Filter | None) -> Guest:
        self.fd = await tap(self.rig, self.port)
        await self.rig.switch.plug(self.port)
        await self.wire(rules)
        return self

    async def wire(self, rules: Filter | None) -> None:
        await self.rig.switch.wire(self.port, rules)
        await self.rig.settled()

    async def wire_as(self, v6: str, rules: Filter | None) -> None:
        """With another IPv6 address."""
        addresses = [self.port.fixed_ips[0], FixedIP("subnet6", v6)]
        self.port = msgspec.structs.replace(self.port, fixed_ips=addresses)
        await self.wire(rules)

    async def reaches(self, other: Guest, frame: bytes) -> bool:
        """Whether a frame comes there; all that came before counts not."""
        send(self.fd, frame)
        other.heard.clear()
        for _ in range(2):
            end = arp(self.port.mac, self.port.fixed_ips[0].address, f"198.18.{next(_ends) >> 8}.{next(_ends) & 255}")
            send(self.fd, end)
            other.heard += await received_until(other.fd, end)
        return frame in other.heard


async def guest(rig: OvsRig, number: int, network_id: str, rules: Filter | None, **more: Any) -> Guest:
    dual = [FixedIP("subnet", IP[number]), FixedIP("subnet6", V6[number])]
    return await Guest(rig, wiring(number, network_id, fixed_ips=dual, **more)).plug(rules)


def to_b(port: int, *, source: int = 1, kind: Any = udp, **more: Any) -> bytes:
    """A datagram to port `port` of guest 2."""
    return kind(MAC[source], B, IP[source], IP_B, ports=(40000, port), **more)  # type: ignore[no-any-return]


RULES: dict[str, tuple[SecurityRule, list[bytes], list[bytes]]] = {
    "a protocol": (
        rule(protocol=UDP),
        [to_b(7), to_b(53, source=3)],
        [to_b(7, kind=tcp, flags=SYN, at=(1, 0)), frames.icmp(A, B, IP_A, IP_B)],
    ),
    "a range of ports": (
        rule(protocol=UDP, port_min=1000, port_max=2001),
        [to_b(1000), to_b(1023), to_b(2001)],
        [to_b(999), to_b(2002), to_b(1000, kind=tcp, flags=SYN, at=(1, 0))],
    ),
    "one port": (
        rule(protocol=TCP, port_min=22, port_max=22),
        [to_b(22, kind=tcp, flags=SYN, at=(1, 0))],
        [to_b(23, kind=tcp, flags=SYN, at=(1, 0)), to_b(22)],
    ),
    "a CIDR": (rule(remote_cidr="192.0.2.0/31"), [to_b(9)], [to_b(9, source=3)]),
    "a kind of ICMP": (
        rule(protocol=ICMP, port_min=8, port_max=0),
        [frames.icmp(A, B, IP_A, IP_B)],
        [frames.icmp(A, B, IP_A, IP_B, 13, number=2, data=bytes(12)), to_b(8)],
    ),
    "a protocol without ports": (
        rule(protocol=47),
        [frames.ip_packet(A, B, IP_A, IP_B, 47, bytes(40))],
        [frames.ip_packet(A, B, IP_A, IP_B, 50, bytes(40))],
    ),
    "all of IPv6": (rule(version=6), [udp(A, B, V6[1], V6[2], ports=(1, 2))], [to_b(2)]),
    "a port of IPv6": (
        rule(version=6, protocol=UDP, port_min=53, port_max=53, remote_cidr="2001:db8::/127"),
        [udp(A, B, V6[1], V6[2], ports=(1, 53))],
        [udp(A, B, V6[1], V6[2], ports=(1, 54)), udp(C, B, V6[3], V6[2], ports=(1, 53)), to_b(53)],
    ),
    "a kind of ICMPv6": (
        rule(version=6, protocol=58, port_min=128),
        [frames.icmpv6(A, B, V6[1], V6[2], 128, bytes(8))],
        [udp(A, B, V6[1], V6[2], ports=(1, 2))],
    ),
    "the members of a set": (rule(remote_set="friends"), [to_b(9)], [to_b(9, source=3)]),
    "a port for the members of a set": (
        rule(remote_set="friends", protocol=UDP, port_min=10, port_max=11),
        [to_b(10), to_b(11)],
        [to_b(12), to_b(10, source=3), to_b(10, kind=tcp, flags=SYN, at=(1, 0))],
    ),
    "the members of an IPv6 set": (
        rule(version=6, remote_set="friends"),
        [udp(A, B, V6[1], V6[2], ports=(1, 9))],
        [udp(C, B, V6[3], V6[2], ports=(1, 9)), to_b(9)],
    ),
}


async def test_what_a_rule_names_comes_in_and_nothing_else(ovs: OvsRig) -> None:
    one = network()
    a, c = [await guest(ovs, number, one, OPEN) for number in (1, 3)]
    b = await guest(ovs, 2, one, SILENT)
    sender = {frames.mac(A): a, frames.mac(C): c}
    await ovs.switch.address_set("friends", [IP_A, "2001:db8::1", "198.51.100.0/24"])
    for stateful in (True, False):
        for what, (allowed, passing, lost) in RULES.items():
            await b.wire(takes(allowed, stateful=stateful))
            for frame in passing:
                assert await sender[frame[6:12]].reaches(b, frame), (what, stateful)
            for frame in lost:
                assert not await sender[frame[6:12]].reaches(b, frame), (what, stateful)


async def test_what_a_rule_names_goes_out_and_nothing_else(ovs: OvsRig) -> None:
    one = network()
    a = await guest(ovs, 1, one, SILENT)
    b, c = [await guest(ovs, number, one, OPEN) for number in (2, 3)]
    await ovs.switch.address_set("friends", [IP_B])
    out = udp(A, B, IP_A, IP_B, ports=(1, 53))
    elsewhere = udp(A, C, IP_A, IP_C, ports=(1, 53))
    for allowed in (
        rule("egress", protocol=UDP, port_min=53, port_max=53, remote_cidr=f"{IP_B}/32"),
        rule("egress", remote_set="friends", protocol=UDP),
    ):
        for stateful in (True, False):
            await a.wire(takes(allowed, *INGRESS, stateful=stateful))
            assert await a.reaches(b, out), (allowed, stateful)
            assert not await a.reaches(c, elsewhere), (allowed, stateful)
    await a.wire(takes(*INGRESS))
    assert not await a.reaches(b, out)


# --- Connections ---------------------------------------------------------------------------------------------------------

WEB = rule(protocol=TCP, port_min=80, port_max=80)
PLACES = ("one host", "two hosts", "no port security", "stateless")


class Pair:
    """Two guests: one asks, one serves the web and may begin nothing."""

    def __init__(self, client: Guest, server: Guest) -> None:
        self.client = client
        self.server = server
        self._port = itertools.count(40000)

    async def connect(self) -> int:
        """SYN, SYN+ACK, ACK; the client's port."""
        port = next(self._port)
        assert await self.client.reaches(self.server, self.asks(port, SYN))
        assert await self.server.reaches(self.client, self.says(port, SYN_ACK))
        assert await self.client.reaches(self.server, self.asks(port, ACK))
        return port

    def asks(self, port: int, flags: int = ACK, *, to: int = 80, data: bytes = b"") -> bytes:
        return tcp(A, B, IP_A, IP_B, ports=(port, to), flags=flags, at=(100 + (flags != SYN), 501 * (flags != SYN)), data=data)

    def says(self, port: int, flags: int = ACK, *, data: bytes = b"") -> bytes:
        return tcp(B, A, IP_B, IP_A, ports=(80, port), flags=flags, at=(500 + (flags == ACK), 101), data=data)


@pytest.fixture(params=PLACES)
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    """Everywhere that the client may be; the server takes the web."""
    made = Hosts(tmp_path) if request.param == "two hosts" else None
    rigs = [await made.add() for _ in range(2)] if made else [OvsRig(tmp_path / "switch")] * 2
    try:
        if made is None:
            await rigs[0].open()
        one, more = network(), {"network_type": "geneve", "segmentation_id": 7} if made else {}
        client = Filter(stateful=False, rules=OPEN.rules) if request.param == "stateless" else SENDS
        secured = request.param != "no port security"
        a = await guest(rigs[0], 1, one, client if secured else None, port_security=secured, **more)
        b = await guest(rigs[1], 2, one, takes(WEB), **more)
        if made is not None:
            await made.meet(one)
            for sender, receiver in ((a, b), (b, a)):
                await frames.pass_soon(sender.fd, receiver.fd, arp(sender.port.mac, sender.port.fixed_ips[0].address, "192.0.2.99"))
        yield Pair(a, b)
    finally:
        for rig in [] if made else rigs[:1]:
            await rig.close()
        if made is not None:
            await made.close()


async def test_answers_pass_wherever_the_client_is_and_nothing_else(pair: Pair) -> None:
    port = await pair.connect()
    assert await pair.server.reaches(pair.client, pair.says(port, data=b"page"))
    assert await pair.client.reaches(pair.server, pair.asks(port, data=b"more"))
    # The server begins nothing, nor does it answer what was not asked; the client is not let in elsewhere.
    assert not await pair.server.reaches(pair.client, tcp(B, A, IP_B, IP_A, ports=(4000, 80), flags=SYN, at=(1, 0)))
    assert not await pair.server.reaches(pair.client, pair.says(port + 1000, SYN_ACK))
    assert not await pair.server.reaches(pair.client, udp(B, A, IP_B, IP_A, ports=(80, port)))
    refused = pair.asks(41000, SYN, to=81)
    assert not await pair.client.reaches(pair.server, refused)
    # What was refused has left nothing that an answer could pass by.
    assert not await pair.server.reaches(pair.client, tcp(B, A, IP_B, IP_A, ports=(81, 41000), flags=SYN_ACK, at=(500, 101)))


@pytest.mark.parametrize("server", ["no port security", "stateless", "no filter"])
async def test_answers_of_a_server_that_is_not_tracked_pass(ovs: OvsRig, server: str) -> None:
    rules = Filter(stateful=False, rules=OPEN.rules) if server == "stateless" else None
    one = network()
    pair = Pair(await guest(ovs, 1, one, SENDS), await guest(ovs, 2, one, rules, port_security=server != "no port security"))
    port = await pair.connect()
    assert await pair.server.reaches(pair.client, pair.says(port, data=b"page"))
    assert not await pair.server.reaches(pair.client, pair.says(port + 1000, SYN_ACK))
    await pair.client.wire(SILENT)
    assert not await pair.client.reaches(pair.server, pair.asks(port, data=b"refused"))
    assert not await pair.server.reaches(pair.client, pair.says(port, data=b"and so are answers"))


async def test_a_changed_rule_holds_for_what_stands_already(pair: Pair) -> None:
    port = await pair.connect()
    await pair.server.wire(takes(WEB, rule(protocol=ICMP)))
    assert await pair.client.reaches(pair.server, pair.asks(port, data=b"other rules were added"))
    await pair.server.wire(takes(rule(protocol=ICMP)))
    assert not await pair.client.reaches(pair.server, pair.asks(port, data=b"refused"))
    assert not await pair.server.reaches(pair.client, pair.says(port, data=b"and so are answers"))
    await pair.server.wire(takes(WEB))
    assert await pair.client.reaches(pair.server, pair.asks(port, data=b"allowed again"))
    assert await pair.server.reaches(pair.client, pair.says(port, data=b"and answered"))


async def test_a_rule_taken_from_the_sender_ends_answers_too(ovs: OvsRig) -> None:
    one = network()
    a, b = await guest(ovs, 1, one, SENDS), await guest(ovs, 2, one, takes(WEB))
    pair = Pair(a, b)
    port = await pair.connect()
    await a.wire(SILENT)
    assert not await a.reaches(b, pair.asks(port, data=b"refused"))
    assert not await b.reaches(a, pair.says(port, data=b"and so are answers"))
    await a.wire(SENDS)
    assert await a.reaches(b, pair.asks(port, data=b"allowed again"))
    assert await b.reaches(a, pair.says(port, data=b"and answered"))


async def test_pings_and_errors_come_back(ovs: OvsRig) -> None:
    one = network()
    a, b = await guest(ovs, 1, one, SENDS), await guest(ovs, 2, one, takes(rule(protocol=UDP), rule(protocol=ICMP), rule(version=6)))
    assert await a.reaches(b, frames.icmp(A, B, IP_A, IP_B, number=7))
    assert await b.reaches(a, frames.icmp(B, A, IP_B, IP_A, 0, number=7))
    assert not await b.reaches(a, frames.icmp(B, A, IP_B, IP_A, 0, number=8))
    assert not await b.reaches(a, frames.icmp(B, A, IP_B, IP_A, number=9))
    echo = [frames.icmpv6(*ends, kind, b"\0\7\0\1") for ends, kind in (((A, B, V6[1], V6[2]), 128), ((B, A, V6[2], V6[1]), 129))]
    assert await a.reaches(b, echo[0]) and await b.reaches(a, echo[1])
    datagram = udp(A, B, IP_A, IP_B, ports=(4000, 9))
    assert await a.reaches(b, datagram)
    assert await b.reaches(a, frames.unreachable(B, A, IP_B, IP_A, datagram))
    assert not await b.reaches(a, frames.unreachable(B, A, IP_B, IP_A, udp(A, B, IP_A, IP_B, ports=(4001, 9))))


@pytest.mark.parametrize("stateful", [True, False])
async def test_fragments_pass_where_their_datagram_does(ovs: OvsRig, stateful: bool) -> None:
    one = network()
    a = await guest(ovs, 1, one, Filter(stateful, EGRESS))
    b = await guest(ovs, 2, one, takes(rule(protocol=UDP, port_min=2049, port_max=2049), stateful=stateful))
    for port, passes in ((2049, True), (2050, False)):
        pieces = frames.fragments(udp(A, B, IP_A, IP_B, ports=(900, port), data=bytes(range(250)) * 13), 1240)
        assert len(pieces) == 3
        for piece in pieces[:-1]:
            send(a.fd, piece)
        await a.reaches(b, pieces[-1])
        assert [piece in b.heard for piece in pieces][: None if passes else 1] == [passes] * (3 if passes else 1)


async def test_what_belongs_to_no_connection_is_dropped(ovs: OvsRig) -> None:
    one = network()
    a, b = [await guest(ovs, number, one, OPEN) for number in (1, 2)]
    whole = tcp(A, B, IP_A, IP_B, ports=(4000, 80), flags=SYN, at=(1, 0), data=b"with a sum")
    assert not await a.reaches(b, whole[:-1] + b"?")
    assert await a.reaches(b, whole)


async def test_floods_are_judged_at_each_receiver(ovs: OvsRig) -> None:
    one = network()
    router = await guest(ovs, 4, one, None, port_security=False)
    a, c = await guest(ovs, 1, one, SENDS), await guest(ovs, 3, one, takes(rule(protocol=UDP, port_min=5353, port_max=5353)))
    b = await guest(ovs, 2, one, SILENT)
    for sender, number in ((a, 1), (router, 4)):
        for group, mac in (("224.0.0.251", "01:00:5e:00:00:fb"), ("192.0.2.255", frames.BROADCAST)):
            frame = udp(MAC[number], mac, IP[number], group, ports=(5353, 5353))
            assert await sender.reaches(c, frame)
            assert not await sender.reaches(b, frame)
    # That it was heard lets nobody answer as if asked.
    assert not await b.reaches(a, udp(B, A, IP_B, IP_A, ports=(5353, 5353)))
    assert not await a.reaches(b, udp(A, MAC[4], IP_A, IP[4], ports=(1, 2)))


async def test_without_a_rule_a_guest_has_what_every_guest_needs(ovs: OvsRig) -> None:
    one = network()
    a, b = [await guest(ovs, number, one, SILENT) for number in (1, 2)]
    await a.wire_as("2001:db8::a", SILENT)
    router = await guest(ovs, 4, one, None, port_security=False)
    for what, frame in ALLOWED.items():
        assert await a.reaches(router, frame) == (what not in ("UDP", "IPv6", "IPv6 link-local")), what
    assert await a.reaches(b, arp(A, IP_A, IP_B)) and await b.reaches(a, arp(B, IP_B, IP_A, destination=A, operation=2))
    for frame in (frames.solicitation(A, "2001:db8::a", V6[2]), frames.advertisement(A, "2001:db8::a", "2001:db8::a")):
        assert await a.reaches(b, frame)
    announced = frames.router_advertisement(MAC[4], "fe80::f816:3eff:fe00:4")
    assert await router.reaches(a, announced)
    assert not await router.reaches(a, udp(MAC[4], A, IP[4], IP_A))
    # A DHCP server is none that is not this host's own.
    assert not await router.reaches(a, udp(MAC[4], A, IP[4], IP_A, ports=(67, 68)))


async def test_without_a_rule_a_guest_has_its_address_by_dhcp(ovs: OvsRig) -> None:
    one, namespace = network(), ovs.namespace()
    device = await ovs.switch.dhcp_device(one, namespace, SERVER_MAC, 1400)
    for stateful in (True, False):
        a = await guest(ovs, 1, one, Filter(stateful=stateful))
        await serve_one(namespace, device, a.fd)
        await ovs.switch.unplug([a.port.port_id])


async def test_answers_come_back_from_the_physical_network(tmp_path: Path) -> None:
    wire, far = Wire(), MAC[4]
    rig = OvsRig(tmp_path / "switch", Host(bridge_mappings={"physnet": wire.device}))
    try:
        await rig.open()
        a = await guest(rig, 1, network(), SENDS, network_type="vlan", physical_network="physnet", segmentation_id=100)
        question, answer = udp(A, far, IP_A, IP[4], ports=(4000, 53)), udp(far, A, IP[4], IP_A, ports=(53, 4000))
        end = itertools.count(10)

        async def comes(frame: bytes) -> bool:
            send(wire.fd, frames.tagged(frame, 100))
            last = [arp(far, IP[4], f"198.18.0.{next(end)}") for _ in range(2)]
            heard = []
            for one in last:
                send(wire.fd, frames.tagged(one, 100))
                heard += await received_until(a.fd, one)
            return frame in heard

        assert not await comes(answer)
        await frames.pass_soon(a.fd, wire.fd, question, arrives=frames.tagged(question, 100))
        assert await comes(answer)
        assert not await comes(udp(far, A, IP[4], IP_A, ports=(54, 4000)))
        # Nothing answers what is for all.
        call = udp(A, "01:00:5e:00:00:fb", IP_A, "224.0.0.251", ports=(5353, 5353))
        await frames.pass_soon(a.fd, wire.fd, call, arrives=frames.tagged(call, 100))
        known = await rig.connections()
        assert f"dst={IP[4]}" in known and "224.0.0.251" not in known
    finally:
        await rig.close()
        wire.close()


async def test_pairs_of_addresses_are_filtered_as_their_port_is(ovs: OvsRig) -> None:
    one, shared = network(), "00:00:5e:00:01:01"
    web = takes(rule(protocol=UDP, port_min=80, port_max=80), *EGRESS)
    a = await guest(ovs, 1, one, web, allowed_pairs=[AddressPair("192.0.2.100", shared)])
    b = await guest(ovs, 2, one, SENDS)
    assert await b.reaches(a, udp(B, shared, IP_B, "192.0.2.100", ports=(9, 80)))
    assert not await b.reaches(a, udp(B, shared, IP_B, "192.0.2.100", ports=(9, 81)))
    assert await a.reaches(b, udp(shared, B, "192.0.2.100", IP_B, ports=(80, 9)))  # the answer
    assert not await a.reaches(b, udp(shared, B, "192.0.2.100", IP_B, ports=(80, 10)))


async def test_a_network_knows_nothing_of_the_connections_of_another_that_had_its_tag(ovs: OvsRig) -> None:
    first, second = network(), network()
    answer = udp(B, A, IP_B, IP_A, ports=(53, 40000))
    tags = ovs.switch._database.tags
    for one, known in ((first, True), (second, False)):
        tags._next = 9  # the next free one rests for a while otherwise
        a, b = await guest(ovs, 1, one, SENDS), await guest(ovs, 2, one, takes(*INGRESS))
        if known:
            assert await a.reaches(b, to_b(53))
        assert await b.reaches(a, answer) == known
        await ovs.switch.unplug([a.port.port_id, b.port.port_id])


async def test_rules_that_let_all_pass_let_nobody_be_another(ovs: OvsRig) -> None:
    one = network()
    a, b = [await guest(ovs, number, one, OPEN) for number in (1, 2)]
    await guest(ovs, 3, one, OPEN)
    await a.wire_as("2001:db8::a", OPEN)
    for what, frame in FORBIDDEN.items():
        assert not await a.reaches(b, frame), what
    for what, frame in ALLOWED.items():
        assert await a.reaches(b, frame), what


async def test_an_address_in_several_sets_passes_by_each_of_their_rules(ovs: OvsRig) -> None:
    one = network()
    a, c = [await guest(ovs, number, one, SENDS) for number in (1, 3)]
    named = [rule(protocol=UDP, remote_set=name, port_min=port, port_max=port) for name, port in (("red", 1), ("blue", 2), ("green", 3))]
    await ovs.switch.address_set("red", [IP_A])
    await ovs.switch.address_set("blue", [IP_A, IP_C])
    b = await guest(ovs, 2, one, takes(*named, rule(protocol=UDP, port_min=4, port_max=4)))
    assert [await a.reaches(b, to_b(port)) for port in (1, 2, 3, 4, 5)] == [True, True, False, True, False]
    assert [await c.reaches(b, to_b(port, source=3)) for port in (1, 2, 3, 4, 5)] == [False, True, False, True, False]
    # Who joins and leaves does so for all ports at once, whatever is wired meanwhile.
    await ovs.switch.address_set("green", ["192.0.2.2/31"])
    await ovs.switch.address_set("red", [IP_C])
    await ovs.settled()
    assert [await a.reaches(b, to_b(port)) for port in (1, 2, 3)] == [False, True, False]
    assert [await c.reaches(b, to_b(port, source=3)) for port in (1, 2, 3)] == [True, True, True]
    d = await guest(ovs, 4, one, takes(named[0]))
    assert await c.reaches(d, udp(C, MAC[4], IP_C, IP[4], ports=(9, 1)))
    await b.wire(takes(*named[1:]))
    await ovs.switch.drop_sets(["blue"])
    await b.wire(takes(named[2]))
    assert [await c.reaches(b, to_b(port, source=3)) for port in (1, 2, 3)] == [False, False, True]


async def test_a_port_inherits_no_connection_of_the_one_that_had_its_address(ovs: OvsRig) -> None:
    """Whichever end began it, and if the host's process was started anew meanwhile; those of others go on."""
    one = network()
    b, c = await guest(ovs, 2, one, OPEN), await guest(ovs, 3, one, SENDS)
    assert await c.reaches(b, to_b(53, source=3))
    for restarts in (False, True):
        a = await guest(ovs, 1, one, OPEN)
        assert await a.reaches(b, to_b(53))
        assert await b.reaches(a, udp(B, A, IP_B, IP_A, ports=(9, 80)))
        await ovs.switch.unplug([a.port.port_id])
        if restarts:
            await ovs.restart()
        heir = await guest(ovs, 1, one, SILENT)
        assert not await b.reaches(heir, udp(B, A, IP_B, IP_A, ports=(53, 40000)))
        assert not await heir.reaches(b, udp(A, B, IP_A, IP_B, ports=(80, 9)))
        assert await b.reaches(c, udp(B, MAC[3], IP_B, IP[3], ports=(53, 40000)))
        await ovs.switch.unplug([heir.port.port_id])


async def test_a_switch_that_cannot_look_for_an_address_forgets_the_network(ovs: OvsRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Open vSwitch before 3.1."""
    monkeypatch.setattr(openflow, "_FLUSH", 9999)
    one = network()
    a, b = await guest(ovs, 1, one, SENDS), await guest(ovs, 2, one, takes(*INGRESS))
    assert await a.reaches(b, to_b(53))
    await ovs.switch.unplug([a.port.port_id])
    heir = await guest(ovs, 1, one, SILENT)
    assert not await b.reaches(heir, udp(B, A, IP_B, IP_A, ports=(53, 40000)))
