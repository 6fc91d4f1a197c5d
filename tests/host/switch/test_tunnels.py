"""Tunnel networks on real switches: two and three hosts, each with its own Open vSwitch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pileus import settings
from pileus.errors import StartupError
from pileus.host.switch.openvswitch import OpenVSwitch
from pileus.messages import AddressPair, PortWiring
from tests.host.inside import run_in_namespace
from tests.host.switch import frames
from tests.host.switch.frames import arp, pass_soon, receive, received_until, send, udp
from tests.host.switch.rigs import LIMIT, OvsRig, network, wired, wiring
from tests.host.switch.underlays import Hosts

MAC = [wiring(number, "").mac for number in range(10)]
IP = [f"192.0.2.{number}" for number in range(10)]
SERVER_MAC, SERVER_IP = "fa:16:3e:ff:00:01", "192.0.2.250"


def tunnelled(number: int, network_id: str, vni: int = 7, kind: str = "geneve", **more: Any) -> PortWiring:
    return wiring(number, network_id, network_type=kind, segmentation_id=vni, **more)


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    made = Hosts(tmp_path)
    try:
        await made.add()
        await made.add()
        yield made
    finally:
        await made.close()


async def buckets(rig: OvsRig) -> int:
    """Hosts that the switch sends to, over all networks."""
    return (await rig.ofctl("dump-groups")).count("->tun_dst")


async def learned(rig: OvsRig) -> int:
    return (await rig.ofctl("dump-flows", "table=32")).count("dl_dst=")


async def both(hosts: Hosts, net: str, **more: Any) -> tuple[int, int]:
    """Guest 1 on the first host, guest 2 on the second, who meet."""
    a = await wired(hosts.rigs[0], tunnelled(1, net, **more))
    b = await wired(hosts.rigs[1], tunnelled(2, net, **more))
    await hosts.meet(net)
    return a, b


async def talk(a: int, b: int) -> None:
    """Question to all, answer to one, and on to and fro."""
    await pass_soon(a, b, arp(MAC[1], IP[1], IP[2]))
    await pass_soon(b, a, arp(MAC[2], IP[2], IP[1], destination=MAC[1], operation=2))
    await pass_soon(a, b, udp(MAC[1], MAC[2], IP[1], IP[2], data=bytes(1300)))


@pytest.mark.parametrize(("kind", "ipv6"), [("geneve", False), ("vxlan", False), ("geneve", True), ("vxlan", True)])
async def test_guests_of_two_hosts_meet(tmp_path: Path, kind: str, ipv6: bool) -> None:
    made = Hosts(tmp_path, ipv6=ipv6)
    try:
        for _ in range(2):
            await made.add()
        net = network()
        a, b = await both(made, net, kind=kind)
        await talk(a, b)
        six = ("fe80::f816:3eff:fe00:1", "fe80::f816:3eff:fe00:2")
        await pass_soon(a, b, udp(MAC[1], MAC[2], *six))
        for rig in made.rigs:
            await rig.switch.unplug([port.port_id for port in await rig.switch.ports()])
            assert not any((await rig.leftovers()).values())
    finally:
        await made.close()


async def test_the_first_packet_arrives(hosts: Hosts) -> None:
    """Nothing need be found out before: the underlay's link addresses were asked for when the host became known."""
    a, b = await both(hosts, network())
    await asyncio.sleep(0.1)  # a guest takes longer to boot
    send(a, arp(MAC[1], IP[1], IP[2]))
    assert await receive(b) == arp(MAC[1], IP[1], IP[2])


async def test_networks_do_not_meet_whatever_their_addresses(hosts: Hosts) -> None:
    one, two = hosts.rigs
    red, blue, green = network(), network(), network()
    a, b = await both(hosts, red, vni=7)
    # The same addresses, and the same number in the other type of tunnel.
    x = await wired(two, tunnelled(2, blue, vni=8))
    y = await wired(two, tunnelled(2, green, vni=7, kind="vxlan"))
    z = await wired(one, tunnelled(3, blue, vni=8))
    await hosts.meet(blue)
    await hosts.meet(green)
    await talk(a, b)
    end = arp(MAC[3], IP[3], IP[2])
    assert [frame for frame in await pass_soon(z, x, end) if frame != end] == []
    send(y, arp(MAC[2], IP[2], IP[9]))
    last = arp(MAC[2], IP[2], IP[8])
    send(b, last)
    assert arp(MAC[2], IP[2], IP[9]) not in await received_until(a, last)


async def test_three_hosts_each_hear_a_broadcast_once_and_a_unicast_at_one(hosts: Hosts) -> None:
    net = network()
    a, b = await both(hosts, net)
    third = await hosts.add()
    c = await wired(third, tunnelled(3, net))
    await hosts.meet(net)
    for sender, number in ((a, 1), (b, 2), (c, 3)):
        for receiver in {a, b, c} - {sender}:
            await pass_soon(sender, receiver, arp(MAC[number], IP[number], IP[9]))
    # From here each frame is sent once; the next one when it has arrived, for a slow path may be overtaken.
    seen: dict[int, list[bytes]] = {a: [], b: [], c: []}

    async def arrives(frame: bytes, *receivers: int) -> None:
        for receiver in receivers:
            seen[receiver] += [*await received_until(receiver, frame), frame]

    first, last = (arp(MAC[1], IP[1], f"192.0.2.{number}") for number in (101, 102))
    packet = udp(MAC[1], MAC[2], IP[1], IP[2], data=b"only b")
    for frame, receivers in ((first, (b, c)), (packet, (b,)), (last, (b, c))):
        send(a, frame)
        await arrives(frame, *receivers)
    counted = {name: [seen[fd].count(frame) for frame in (first, packet, last)] for name, fd in (("b", b), ("c", c))}
    assert counted == {"b": [1, 1, 1], "c": [1, 0, 1]}
    # Nothing came back to its own host.
    own = arp(MAC[2], IP[2], "192.0.2.103")
    send(b, own)
    assert [frame for frame in await received_until(a, own) if frame[6:12] == frames.mac(MAC[1])] == []


async def test_a_newcomer_is_answered_before_anybody_was_told_of_it(hosts: Hosts) -> None:
    one, two = hosts.rigs
    net = network()
    a = await wired(one, tunnelled(1, net))
    b = await wired(two, tunnelled(2, net))
    await two.switch.members(net, [hosts.addresses[0]])
    await pass_soon(b, a, arp(MAC[2], IP[2], IP[1]))
    assert await buckets(one) == 0
    await pass_soon(a, b, arp(MAC[1], IP[1], IP[2], destination=MAC[2], operation=2))


async def test_a_host_that_leaves_is_forgotten(hosts: Hosts) -> None:
    one, two = hosts.rigs
    net = network()
    a, b = await both(hosts, net)
    await talk(a, b)
    assert (await buckets(one), await learned(one)) == (1, 1)
    await one.switch.members(net, [])
    assert await buckets(one) == 0
    async with asyncio.timeout(LIMIT):
        while await learned(one):  # what the switch had still to count of the last packets was learned once more
            await hosts.meet(net)
            await one.switch.members(net, [])
    await two.switch.unplug([port.port_id for port in await two.switch.ports()])
    left = await two.leftovers()
    assert not any(left.values()), left


async def test_members_of_what_is_not_here_are_nothing(hosts: Hosts) -> None:
    one = hosts.rigs[0]
    await one.switch.members(network(), ["198.51.100.9"])
    assert not any((await one.leftovers()).values())


async def test_restarts_of_anything(hosts: Hosts) -> None:
    one, two = hosts.rigs
    net = network()
    port = tunnelled(1, net)
    a = await wired(one, port)
    b = await wired(two, tunnelled(2, net))
    await hosts.meet(net)
    await talk(a, b)
    await one.restart()
    # Nobody has wired or told anything: what stands goes on.
    send(a, question := arp(MAC[1], IP[1], "192.0.2.77"))
    while await receive(b) != question:
        pass
    await one.switch.wire(port)
    await one.switch.members(net, [hosts.addresses[1]])
    assert await buckets(one) == 1
    await talk(a, b)
    back = asyncio.Event()
    one.switch.on_reset = back.set
    one.kill("ovs-vswitchd")
    async with asyncio.timeout(LIMIT):
        await back.wait()
    await one.switch.wire(port)
    await one.switch.members(net, [hosts.addresses[1]])
    await talk(a, b)


async def test_an_address_that_moves_to_another_host_is_followed(hosts: Hosts) -> None:
    """As VRRP moves one: a MAC and an address that two guests may use."""
    one, two = hosts.rigs
    net = network()
    virtual, address = "00:00:5e:00:01:01", "192.0.2.200"
    pair = [AddressPair(address, virtual)]
    a = await wired(one, tunnelled(1, net, allowed_pairs=pair))
    b = await wired(two, tunnelled(2, net, allowed_pairs=pair))
    third = await hosts.add()
    c = await wired(third, tunnelled(3, net))
    await hosts.meet(net)
    packet = udp(MAC[3], virtual, IP[3], address)
    for owner, other in ((a, b), (b, a), (a, b)):
        await pass_soon(owner, c, arp(virtual, address, address))
        await asyncio.sleep(0.05)
        while not await _empty(other):
            pass
        await pass_soon(c, owner, packet)
        # The one who had it gets nothing of it any more; on its own host, too.
        await pass_soon(c, other, end := arp(MAC[3], IP[3], "192.0.2.210"))
        send(c, packet)
        send(c, end)
        assert packet not in await received_until(other, end)


async def _empty(fd: int) -> bool:
    """Read one frame, if there is one at once."""
    try:
        async with asyncio.timeout(0.02):
            await receive(fd)
    except TimeoutError:
        return True
    return False


async def test_dhcp_servers_with_one_address_do_not_meet(hosts: Hosts) -> None:
    one, two = hosts.rigs
    net = network()
    spaces = [one.namespace(), two.namespace()]
    for rig, space in zip(hosts.rigs, spaces, strict=True):
        device = await rig.switch.dhcp_device(net, space, SERVER_MAC, 1400)
        await run_in_namespace(space, ["ip", "address", "add", f"{SERVER_IP}/24", "dev", device], limit=LIMIT)
    a, b = await both(hosts, net)
    await talk(a, b)
    # Who asks for the server's address is answered once, by its own host's.
    for guest, number in ((a, 1), (b, 2)):
        send(guest, arp(MAC[number], IP[number], SERVER_IP))
        while (answer := await receive(guest))[6:12] != frames.mac(SERVER_MAC):
            pass
        assert answer[0:6] == frames.mac(MAC[number])
    # What the server says by itself stays here, and so does what a client asks of servers.
    await run_in_namespace(spaces[0], ["ping", "-c", "1", "-W", "1", IP[7]], limit=LIMIT)
    send(a, frames.dhcp_request(MAC[1]))
    last = arp(MAC[1], IP[1], "192.0.2.99")
    send(a, last)
    heard = await received_until(b, last)
    # (Its own host's server may say something of its own; it asks nobody.)
    assert [frame for frame in heard if frame[6:14] == frames.mac(SERVER_MAC) + b"\x08\x06"] == []
    assert frames.dhcp_request(MAC[1]) not in heard
    for rig, space in zip(hosts.rigs, spaces, strict=True):
        await rig.switch.remove_dhcp_device(net, space)
        await rig.switch.unplug([port.port_id for port in await rig.switch.ports()])
        assert not any((await rig.leftovers()).values())


async def test_a_host_whose_tunnels_end_keeps_its_own_traffic(hosts: Hosts) -> None:
    """Switched off by its settings, while guests run."""
    one = hosts.rigs[0]
    net = network()
    a, b = await both(hosts, net)
    third = tunnelled(3, net)
    own = await wired(one, third)
    await talk(a, b)
    tunnels = one.settings
    one.settings = settings.Host()
    await one.restart()
    assert "tun_id" not in await one.ofctl("dump-flows")
    assert (await buckets(one), await learned(one)) == (0, 0)
    await pass_soon(own, a, arp(MAC[3], IP[3], IP[1]))
    one.settings = tunnels
    await one.restart()
    await one.switch.wire(third)
    await hosts.meet(net)
    await talk(a, b)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tunnel_address": "here"}, "no IP address"),
        ({"tunnel_address": "192.0.2.1"}, "host.tunnel_device"),
        ({"tunnel_address": "192.0.2.1", "tunnel_device": "eth7"}, "prefix length"),
        ({"tunnel_device": "eth7"}, "host.tunnel_address"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, values: dict[str, str], words: str) -> None:
    with pytest.raises(StartupError, match=words):
        OpenVSwitch(tmp_path, msgspec.structs.replace(settings.Host(), **values))


async def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    rig = OvsRig(tmp_path / "switch", settings.Host(tunnel_address="192.0.2.1/24", tunnel_device="nothing7"))
    try:
        with pytest.raises(StartupError, match=r"host\.tunnel_device.*nothing7"):
            await rig.open()
    finally:
        await rig.close()
