"""What packets do on a real switch: frames are written into one guest's TAP and read from the others'.

That a frame goes nowhere is shown by a later one of the same sender that does arrive: the switch keeps their order.
"""

from __future__ import annotations

import asyncio

import pytest

from pileus.host.privileged import tap_name
from pileus.messages import AddressPair, FixedIP
from tests.host.switch import frames
from tests.host.switch.frames import BROADCAST, arp, received_until, send, udp
from tests.host.switch.rigs import LIMIT, OvsRig, network, wired, wiring

A, B, C = (wiring(number, "").mac for number in (1, 2, 3))
IP_A, IP_B, IP_C = "192.0.2.1", "192.0.2.2", "192.0.2.3"
V6_A, V6_B = "2001:db8::a", "2001:db8::b"
LINK_LOCAL_A = "fe80::f816:3eff:fe00:1"
STRANGER = "fa:16:3e:99:99:99"


async def test_a_broadcast_reaches_the_ports_of_its_network_only(ovs: OvsRig) -> None:
    one, other = network(), network()
    a, b, c = [await wired(ovs, wiring(number, one)) for number in (1, 2, 3)]
    x, y = [await wired(ovs, wiring(number, other)) for number in (1, 4)]
    question, end = arp(A, IP_A, IP_B), arp(A, IP_A, IP_C)
    send(a, question)
    send(a, end)
    for fd in (b, c):
        assert await received_until(fd, end) == [question]
    # In the other network nothing of it came, nor did anything come back to its sender.
    theirs = arp(A, IP_A, "192.0.2.77")
    send(x, theirs)
    assert await received_until(y, theirs) == []
    answer = arp(B, IP_B, IP_A, operation=2, destination=A)
    send(b, answer)
    assert await received_until(a, answer) == []


async def test_a_unicast_reaches_its_mac_only(ovs: OvsRig) -> None:
    one = network()
    a, b, c = [await wired(ovs, wiring(number, one)) for number in (1, 2, 3)]
    packet, elsewhere = udp(A, B, IP_A, IP_B), udp(A, STRANGER, IP_A, "192.0.2.99")
    end = arp(A, IP_A, IP_B)
    for frame in (packet, elsewhere, end):
        send(a, frame)
    assert await received_until(b, end) == [packet]
    assert await received_until(c, end) == []


FORBIDDEN = {
    "another MAC": udp(STRANGER, B, IP_A, IP_B),
    "another port's MAC": udp(C, B, IP_A, IP_B),
    "another address": udp(A, B, IP_C, IP_B),
    "no address, but not DHCP": udp(A, B, "0.0.0.0", IP_B),
    "ARP for another's address": arp(A, IP_C, IP_B),
    "ARP with another's MAC inside": arp(A, IP_A, IP_B, claimed_mac=C),
    "ARP from another MAC": arp(STRANGER, IP_A, IP_B, claimed_mac=A),
    "ARP probe for another's address": arp(A, "0.0.0.0", IP_C),
    "DHCP offer": udp(A, BROADCAST, IP_A, "255.255.255.255", ports=(67, 68)),
    "DHCP offer from an odd port": udp(A, B, IP_A, IP_B, ports=(1067, 68)),
    "DHCP offer in fragments": frames.fragments(udp(A, BROADCAST, IP_A, "255.255.255.255", ports=(67, 68), data=bytes(1300)), 1240)[0],
    "DHCP request of another MAC": frames.dhcp_request(STRANGER),
    "DHCPv6 answer": udp(A, B, V6_A, V6_B, ports=(547, 546)),
    "another IPv6 address": udp(A, B, "2001:db8::c", V6_B),
    "another link-local address": udp(A, B, "fe80::f816:3eff:fe00:3", V6_B),
    "router advertisement": frames.router_advertisement(A, LINK_LOCAL_A),
    "advertised neighbour that is another": frames.advertisement(A, V6_A, "2001:db8::c"),
    "advertised neighbour with another's MAC": frames.advertisement(A, V6_A, V6_A, claimed_mac=C),
    "solicitation with another's MAC": frames.solicitation(A, V6_A, V6_B, claimed_mac=C),
    "duplicate detection of another's address": frames.solicitation(A, "::", V6_B),
    "a VLAN tag": frames.tagged(udp(A, B, IP_A, IP_B), 1),
    "a foreign protocol": frames.ethernet(A, B, 0x88B5, b"hello"),
}

ALLOWED = {
    "UDP": udp(A, B, IP_A, IP_B),
    "ARP": arp(A, IP_A, IP_B),
    "ARP probe": arp(A, "0.0.0.0", IP_A),
    "DHCP request": frames.dhcp_request(A),
    "IPv6": udp(A, B, V6_A, V6_B),
    "IPv6 link-local": udp(A, B, LINK_LOCAL_A, V6_B),
    "solicitation": frames.solicitation(A, V6_A, V6_B),
    "duplicate detection": frames.solicitation(A, "::", V6_A),
    "advertisement": frames.advertisement(A, V6_A, V6_A),
    "router solicitation": frames.icmpv6(A, "33:33:00:00:00:02", "::", "ff02::2", 133, bytes(4)),
}


async def test_a_port_sends_as_itself_only(ovs: OvsRig) -> None:
    one = network()
    dual = [FixedIP("subnet", IP_A), FixedIP("subnet6", V6_A)]
    a = await wired(ovs, wiring(1, one, fixed_ips=dual))
    b = await wired(ovs, wiring(2, one))
    await wired(ovs, wiring(3, one))
    end = arp(A, IP_A, "192.0.2.200")
    for what, frame in FORBIDDEN.items():
        send(a, frame)
        send(a, end)
        assert await received_until(b, end) == [], what
    for what, frame in ALLOWED.items():
        send(a, frame)
        send(a, end)
        assert await received_until(b, end) == [frame], what


async def test_allowed_address_pairs_pass_in_both_directions(ovs: OvsRig) -> None:
    one = network()
    shared = "00:00:5e:00:01:01"
    pairs = [AddressPair("198.51.100.0/24", A), AddressPair("192.0.2.100", shared), AddressPair("2001:db8:1::/64", A)]
    a = await wired(ovs, wiring(1, one, allowed_pairs=pairs))
    b = await wired(ovs, wiring(2, one))
    c = await wired(ovs, wiring(3, one))
    end = arp(A, IP_A, "192.0.2.200")
    for what, frame, passes in [
        ("a network", udp(A, B, "198.51.100.7", IP_B), True),
        ("a network by ARP", arp(A, "198.51.100.7", IP_B), True),
        ("beside the network", udp(A, B, "198.51.101.7", IP_B), False),
        ("a network with the pair's other MAC", udp(shared, B, "198.51.100.7", IP_B), False),
        ("a shared address", udp(shared, B, "192.0.2.100", IP_B), True),
        ("a shared address by ARP", arp(shared, "192.0.2.100", IP_B), True),
        ("a shared address with the own MAC", udp(A, B, "192.0.2.100", IP_B), False),
        ("an IPv6 network", udp(A, B, "2001:db8:1::7", V6_B), True),
        ("a neighbour in the IPv6 network", frames.advertisement(A, "2001:db8:1::7", "2001:db8:1::7"), True),
        ("a neighbour beside it", frames.advertisement(A, "2001:db8:2::7", "2001:db8:2::7"), False),
    ]:
        send(a, frame)
        send(a, end)
        assert await received_until(b, end) == ([frame] if passes else []), what
    # To the shared MAC: it reaches who may use it, and nobody else.
    there, end = udp(B, shared, IP_B, "192.0.2.100"), arp(B, IP_B, IP_A)
    send(b, there)
    send(b, end)
    assert await received_until(a, end) == [there]
    assert there not in await received_until(c, end)


async def test_without_port_security_all_passes_and_unknown_macs_come_in(ovs: OvsRig) -> None:
    one = network()
    router = await wired(ovs, wiring(1, one, port_security=False))
    b = await wired(ovs, wiring(2, one))
    c = await wired(ovs, wiring(3, one))
    end = arp(A, IP_A, "192.0.2.200")
    for frame in (
        udp(STRANGER, B, "203.0.113.9", IP_B),
        udp(A, B, IP_A, IP_B, ports=(67, 68)),
        frames.router_advertisement(A, LINK_LOCAL_A),
    ):
        send(router, frame)
        send(router, end)
        assert await received_until(b, end) == [frame]
    # It may stand for MACs that nobody knows.
    outward, end = udp(B, STRANGER, IP_B, "203.0.113.9"), arp(B, IP_B, IP_A)
    send(b, outward)
    send(b, end)
    assert await received_until(router, end) == [outward]
    assert outward not in await received_until(c, end)
    send(router, frames.tagged(udp(A, B, IP_A, IP_B), 2))
    end = arp(A, IP_A, "192.0.2.201")
    send(router, end)
    assert await received_until(b, end) == []


async def test_a_port_that_is_down_is_silent(ovs: OvsRig) -> None:
    one = network()
    down = wiring(1, one, admin_up=False, generation=1)
    a = await wired(ovs, down)
    b = await wired(ovs, wiring(2, one))
    c = await wired(ovs, wiring(3, one))
    send(a, arp(A, IP_A, IP_B))
    end = arp(C, IP_C, IP_B)
    to_a = udp(C, A, IP_C, IP_A)
    send(c, to_a)
    send(c, end)
    assert await received_until(b, end) == []
    await ovs.switch.wire(wiring(1, one, port_id=down.port_id, generation=2))
    hello = udp(C, A, IP_C, IP_A, data=b"again")
    assert await frames.pass_soon(c, a, hello) == []
    mine = arp(A, IP_A, IP_B)
    send(a, mine)
    assert await received_until(b, mine) == []


async def test_a_rewired_port_sends_as_what_it_became(ovs: OvsRig) -> None:
    one = network()
    before = wiring(1, one)
    a = await wired(ovs, before)
    b = await wired(ovs, wiring(2, one))
    await ovs.switch.wire(wiring(1, one, port_id=before.port_id, generation=2, address="192.0.2.50"))
    end = arp(A, "192.0.2.50", IP_B)
    send(a, arp(A, IP_A, IP_B))
    send(a, end)
    assert await received_until(b, end) == []


async def test_an_unplugged_port_hears_and_says_nothing(ovs: OvsRig) -> None:
    one = network()
    gone = wiring(1, one)
    a = await wired(ovs, gone)
    b = await wired(ovs, wiring(2, one))
    c = await wired(ovs, wiring(3, one))
    await ovs.switch.unplug([gone.port_id])
    with pytest.raises(OSError, match=r".*"):
        send(a, arp(A, IP_A, IP_B))
    to_gone, end = udp(B, A, IP_B, IP_A), arp(B, IP_B, IP_A)
    send(b, to_gone)
    send(b, end)
    assert await received_until(c, end) == []


@pytest.mark.parametrize("program", ["ovs-vswitchd", "ovsdb-server"])
async def test_packets_pass_again_after_a_daemon_was_killed(ovs: OvsRig, program: str) -> None:
    one = network()
    ports = [wiring(number, one) for number in (1, 2)]
    a, b = [await wired(ovs, port) for port in ports]
    if program == "ovs-vswitchd":
        back = asyncio.Event()
        ovs.switch.on_reset = back.set
        ovs.kill(program)
        await asyncio.wait_for(back.wait(), LIMIT)
        for port in ports:
            await ovs.switch.wire(port)
    else:
        ovs.kill(program)
        assert {port.wired for port in await ovs.switch.ports()} == {1}
    # The guests' TAPs are the same; what was sent meanwhile is lost.
    question, answer = arp(A, IP_A, IP_B), arp(B, IP_B, IP_A, operation=2, destination=A)
    send(a, question)
    assert await received_until(b, question) == []
    send(b, answer)
    assert await received_until(a, answer) == []
    third = wiring(3, one)
    c = await wired(ovs, third)
    assert await frames.pass_soon(a, c, question) == []


async def test_packets_pass_on_while_nobody_is_there(ovs: OvsRig) -> None:
    one = network()
    a, b = [await wired(ovs, wiring(number, one)) for number in (1, 2)]
    await ovs.switch.close()
    question = arp(A, IP_A, IP_B)
    send(a, question)
    assert await received_until(b, question) == []
    await ovs.restart()


async def test_a_tap_that_vanished_is_plugged_anew(ovs: OvsRig) -> None:
    """Open vSwitch keeps the row of a TAP that is gone, with its old number and no error: plugging again must notice."""
    one = network()
    port = wiring(1, one)
    await wired(ovs, port)
    b = await wired(ovs, wiring(2, one))
    await ovs.delete_device(tap_name(port.port_id))
    a = await wired(ovs, port)
    question, answer = arp(A, IP_A, IP_B), arp(B, IP_B, IP_A, operation=2, destination=A)
    send(a, question)
    assert await received_until(b, question) == []
    send(b, answer)
    assert await received_until(a, answer) == []
