"""Open vSwitch beyond the contract: the physical network, DHCP devices, what killed processes leave, other people's daemons."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pileus.errors import StartupError
from pileus.host import netlink, privileged
from pileus.host.privileged import Namespace, tap_name
from pileus.host.switch import SwitchError, openvswitch, rows
from pileus.host.switch.daemons import namespace_name, pid_of, start_daemons, stop_daemons
from pileus.host.switch.openvswitch import OpenVSwitch
from pileus.messages import PortWiring
from pileus.settings import Host
from tests.host.inside import run_in_namespace
from tests.host.switch import frames
from tests.host.switch.frames import arp, receive, received_until, send, tagged, udp
from tests.host.switch.rigs import LIMIT, OvsRig, found, network, plugged, wired, wiring

A, B = (wiring(number, "").mac for number in (1, 2))
IP_A, IP_B, IP_FAR = "192.0.2.1", "192.0.2.2", "192.0.2.99"
FAR = "fa:16:3e:99:99:99"

# --- The physical network ------------------------------------------------------------------------------------------------


class Wire:
    """A device of the machine whose other end is a file descriptor: what the test writes comes in from the physical network."""

    def __init__(self) -> None:
        self.device = f"phys{uuid.uuid4().hex[:8]}"
        self.fd = privileged.open_tap(self.device, 1500)

    def close(self) -> None:
        os.close(self.fd)
        privileged.delete_links([self.device])


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


@pytest.fixture
async def uplinked(tmp_path: Path, wire: Wire) -> AsyncIterator[OvsRig]:
    """A switch with the physical network `physnet`."""
    rig = OvsRig(tmp_path / "switch", Host(bridge_mappings={"physnet": wire.device}))
    try:
        await rig.open()
        yield rig
    finally:
        await rig.close()


def vlan(number: int, network_id: str, segment: int, physical: str = "physnet") -> PortWiring:
    return wiring(number, network_id, network_type="vlan", physical_network=physical, segmentation_id=segment)


async def test_a_vlan_network_meets_the_physical_one_with_its_own_vlan_id(uplinked: OvsRig, wire: Wire) -> None:
    one, other = network(), network()
    a = await wired(uplinked, vlan(1, one, 100))
    b = await wired(uplinked, vlan(2, one, 100))
    x = await wired(uplinked, vlan(1, other, 200))
    question, elsewhere = arp(A, IP_A, IP_FAR), arp(A, IP_A, IP_B)
    send(a, question)
    send(x, elsewhere)
    assert {await receive(wire.fd), await receive(wire.fd)} == {tagged(question, 100), tagged(elsewhere, 200)}
    assert await received_until(b, question) == []
    # In again: by its VLAN id to that network's guests only, without the tag; a known MAC to its port only.
    answer, greeting = udp(FAR, A, IP_FAR, IP_A), arp(FAR, IP_FAR, IP_A)
    for frame in (tagged(answer, 100), tagged(greeting, 100), tagged(greeting, 300), greeting, tagged(greeting, 200)):
        send(wire.fd, frame)
    assert await received_until(a, greeting) == [answer]
    assert await received_until(b, greeting) == []
    assert await received_until(x, greeting) == []
    # A unicast to a MAC that lives out there goes out, and to no other guest.
    packet, end = udp(A, FAR, IP_A, IP_FAR), arp(A, IP_A, "192.0.2.200")
    send(a, packet)
    send(a, end)
    assert await received_until(wire.fd, tagged(end, 100)) == [tagged(packet, 100)]
    assert await received_until(b, end) == []


async def test_a_vlan_network_leaves_the_physical_bridge_with_its_last_port(uplinked: OvsRig, wire: Wire) -> None:
    one = network()
    ports = [vlan(number, one, 100) for number in (1, 2)]
    for port in ports:
        await wired(uplinked, port)
    assert "dl_vlan=100" in await uplinked.ofctl("dump-flows", bridge="br-physnet")
    await uplinked.switch.unplug([ports[0].port_id])
    assert "dl_vlan=100" in await uplinked.ofctl("dump-flows", bridge="br-physnet")
    await uplinked.switch.unplug([ports[1].port_id])
    assert "cookie" not in await uplinked.ofctl("dump-flows", bridge="br-physnet")
    assert await uplinked.flow_count() == 0
    assert "group_id" not in await uplinked.ofctl("dump-groups")


async def test_a_vlan_network_works_on_after_a_restart_of_anything(uplinked: OvsRig, wire: Wire) -> None:
    one = network()
    port = vlan(1, one, 100)
    a = await wired(uplinked, port)
    await uplinked.restart()
    assert (await found(uplinked.switch))[port.port_id].wired == 1
    question = arp(A, IP_A, IP_FAR)
    send(a, question)
    assert await receive(wire.fd) == tagged(question, 100)
    back = asyncio.Event()
    uplinked.switch.on_reset = back.set
    uplinked.kill("ovs-vswitchd")
    await asyncio.wait_for(back.wait(), LIMIT)
    await uplinked.switch.wire(port)
    send(a, question)
    assert await receive(wire.fd) == tagged(question, 100)


async def test_an_uplink_that_lost_its_other_half_is_made_again(uplinked: OvsRig, wire: Wire) -> None:
    port = vlan(1, network(), 100)
    a = await wired(uplinked, port)
    await uplinked.ofctl("del-flows", bridge="br-physnet")
    await uplinked.restart()
    await uplinked.switch.wire(port)
    assert await frames.pass_soon(a, wire.fd, arp(A, IP_A, IP_FAR), arrives=tagged(arp(A, IP_A, IP_FAR), 100)) == []


async def test_a_physical_network_without_a_device_is_named(ovs: OvsRig) -> None:
    port = vlan(1, network(), 100, physical="other")
    await plugged(ovs, port)
    with pytest.raises(SwitchError, match=r"'other'.*host\.bridge_mappings"):
        await ovs.switch.wire(port)


async def test_the_device_comes_back_at_the_end(tmp_path: Path, wire: Wire) -> None:
    rig = OvsRig(tmp_path / "switch", Host(bridge_mappings={"a-long-physical-network": wire.device}))
    await rig.open()
    assert not privileged.link_exists(wire.device)
    await rig.close()
    assert privileged.link_exists(wire.device)


async def test_a_mapping_that_is_gone_takes_its_bridge_along(tmp_path: Path, wire: Wire) -> None:
    rig = OvsRig(tmp_path / "switch", Host(bridge_mappings={"physnet": wire.device}))
    try:
        await rig.open()
        rig.settings = Host()
        await rig.restart()
        assert rig.switch._database.bridges("br-") == ["br-int"]
    finally:
        await rig.close()


@pytest.mark.parametrize(
    "device, message", [("nosuchdevice", "no network device 'nosuchdevice'"), ("with address", "carries this machine's address")]
)
async def test_a_device_that_cannot_be_used_is_refused(tmp_path: Path, wire: Wire, device: str, message: str) -> None:
    if device == "with address":
        device = wire.device
        netlink.add_address(device, "192.0.2.77", 32)
    rig = OvsRig(tmp_path / "switch", Host(bridge_mappings={"physnet": device}))
    try:
        with pytest.raises(StartupError, match=message):
            await rig.open()
    finally:
        await rig.close()


# --- DHCP devices --------------------------------------------------------------------------------------------------------

SERVER_MAC, SERVER_IP = "fa:16:3e:ff:00:01", "192.0.2.254"


async def dhcp_socket(namespace: str, device: str) -> socket.socket:
    """A UDP socket of a server inside the namespace."""

    def make() -> socket.socket:
        netlink.add_address(device, SERVER_IP, 24)
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        made.setblocking(False)
        made.bind(("", 67))
        return made

    inside = Namespace(namespace)
    try:
        return await inside.run(make)
    finally:
        inside.close()


async def serve_one(namespace: str, device: str, guest: int) -> None:
    """A server that starts now hears a guest and is heard."""
    with await dhcp_socket(namespace, device) as server:
        await hear_and_answer(server, guest)


async def hear_and_answer(server: socket.socket, guest: int) -> None:
    """A guest's request reaches the server, and its broadcast answer the guest, summed."""
    loop = asyncio.get_running_loop()
    heard = asyncio.ensure_future(loop.sock_recvfrom(server, 2000))
    async with asyncio.timeout(LIMIT):
        while not heard.done():
            send(guest, frames.dhcp_request(A))
            await asyncio.wait([heard], timeout=0.01)
    data, sender = heard.result()
    assert (len(data), sender) == (241, ("0.0.0.0", 68))
    await loop.sock_sendto(server, b"offer", ("192.0.2.255", 68))
    while b"offer" not in (frame := await receive(guest)):
        pass
    assert frame[6:12] == frames.mac(SERVER_MAC)
    assert frames.udp_sum_is_right(frame)


async def test_a_dhcp_server_hears_and_answers_its_network(ovs: OvsRig) -> None:
    one, namespace = network(), ovs.namespace()
    device = await ovs.switch.dhcp_device(one, namespace, SERVER_MAC, 1400)
    a = await wired(ovs, wiring(1, one))
    await serve_one(namespace, device, a)


async def test_a_dhcp_server_is_alone_with_its_own_hosts_guests(uplinked: OvsRig, wire: Wire) -> None:
    """Its twin on another host has the same MAC and address."""
    one, namespace = network(), uplinked.namespace()
    device = await uplinked.switch.dhcp_device(one, namespace, SERVER_MAC, 1400)
    a = await wired(uplinked, vlan(1, one, 100))
    await serve_one(namespace, device, a)
    # The guest's requests went out, the answer did not; from outside nobody gets an answer.
    end = arp(A, IP_A, IP_FAR)
    for question in (arp(FAR, IP_FAR, SERVER_IP), udp(FAR, SERVER_MAC, IP_FAR, SERVER_IP), arp(FAR, IP_FAR, IP_A)):
        send(wire.fd, tagged(question, 100))
    while await receive(a) != arp(FAR, IP_FAR, IP_A):
        pass
    send(a, end)
    heard = await received_until(wire.fd, tagged(end, 100))
    assert {frame[6:12] for frame in heard} == {frames.mac(A)}
    # The guest itself does get one.
    send(a, arp(A, IP_A, SERVER_IP))
    while (frame := await receive(a))[6:12] != frames.mac(SERVER_MAC):
        pass
    assert frame[12:14] == b"\x08\x06"


async def test_a_dhcp_device_outlives_a_killed_switch(ovs: OvsRig) -> None:
    one, namespace = network(), ovs.namespace()
    port = wiring(1, one)
    device = await ovs.switch.dhcp_device(one, namespace, SERVER_MAC, 1400)
    a = await wired(ovs, port)
    back = asyncio.Event()
    ovs.switch.on_reset = back.set
    with await dhcp_socket(namespace, device) as server:
        await hear_and_answer(server, a)
        ovs.kill("ovs-vswitchd")
        await asyncio.wait_for(back.wait(), LIMIT)
        await ovs.switch.wire(port)
        # The server has noticed nothing.
        await hear_and_answer(server, a)
    ovs.switch.on_reset = None
    ovs.kill("ovs-vswitchd")
    await ovs.switch.remove_dhcp_device(one, namespace)
    _, text = await run_in_namespace(namespace, ["ip", "-brief", "link"], limit=LIMIT)
    assert text.split()[0] == "lo" and len(text.splitlines()) == 1


async def test_a_dhcp_device_has_its_mac_and_mtu(ovs: OvsRig) -> None:
    one, namespace = network(), ovs.namespace()
    device = await ovs.switch.dhcp_device(one, namespace, SERVER_MAC, 1342)
    code, text = await run_in_namespace(namespace, ["ip", "link", "show", device], limit=LIMIT)
    assert code == 0
    assert SERVER_MAC in text and "mtu 1342" in text and ",UP" in text
    await wired(ovs, wiring(1, one))
    assert await ovs.switch.dhcp_device(one, namespace, "fa:16:3e:ff:00:02", 1400) == device
    code, text = await run_in_namespace(namespace, ["ip", "link", "show", device], limit=LIMIT)
    assert "fa:16:3e:ff:00:02" in text and "mtu 1400" in text


async def test_a_dhcp_device_whose_namespace_was_made_anew_is_made_anew(ovs: OvsRig) -> None:
    one, namespace = network(), ovs.namespace()
    a = await wired(ovs, wiring(1, one))
    device = await ovs.switch.dhcp_device(one, namespace, SERVER_MAC, 1400)
    privileged.delete_namespace(namespace)
    privileged.create_namespace(namespace)
    await ovs.switch.dhcp_device(one, namespace, SERVER_MAC, 1400)
    await serve_one(namespace, device, a)
    other = ovs.namespace()
    await ovs.switch.dhcp_device(one, other, SERVER_MAC, 1400)
    await serve_one(other, device, a)


async def test_a_namespace_that_is_not_there_is_named(ovs: OvsRig) -> None:
    with pytest.raises(SwitchError, match="namespace pileustest-none"):
        await ovs.switch.dhcp_device(network(), "pileustest-none", SERVER_MAC, 1400)


# --- Coming and going ----------------------------------------------------------------------------------------------------


async def test_what_a_killed_process_left_is_removed(ovs: OvsRig) -> None:
    """Killed between the steps of unplugging, and between TAP and port: flows without a port, a TAP without either."""
    one, other = network(), network()
    kept, half, lost = wiring(1, one), wiring(2, one), wiring(3, other)
    a = await wired(ovs, kept)
    for port in (half, lost):
        await ovs.switch.open_tap(port.port_id, 1400)
        await ovs.switch.plug(port)
        await ovs.switch.wire(port)
    os.close((await ovs.switch.open_tap(wiring(9, one).port_id, 1400)).fd)
    await ovs.switch._make_pair("dhcp-nobodys", ovs.namespace(), SERVER_MAC, 1400)
    await ovs.switch._database.delete_ports([tap_name(half.port_id), tap_name(lost.port_id)])
    await ovs.restart()
    assert [port.port_id for port in await ovs.switch.ports()] == [kept.port_id]
    text = await ovs.ofctl("dump-groups")
    assert text.count("group_id") == 2 and text.count("bucket_id:") == 1
    await ovs.switch.unplug([kept.port_id, half.port_id, lost.port_id])
    assert not any((await ovs.leftovers()).values())
    with pytest.raises(OSError, match="File descriptor in bad state"):
        send(a, arp(A, IP_A, IP_B))


async def test_daemons_that_died_meanwhile_are_started_and_ports_are_to_be_wired_again(ovs: OvsRig) -> None:
    port = wiring(1, network())
    await wired(ovs, port)
    await ovs.switch.close()
    for program in ("ovs-vswitchd", "ovsdb-server"):
        ovs.kill(program)
    await ovs.restart()
    assert (await found(ovs.switch))[port.port_id].wired == 0
    await ovs.switch.wire(port)
    assert (await found(ovs.switch))[port.port_id].wired == 1


async def test_the_daemons_outlive_us_and_are_adopted(ovs: OvsRig) -> None:
    before = [pid_of(ovs.folder, program) for program in ("ovs-vswitchd", "ovsdb-server")]
    assert None not in before
    for pid in before:
        assert os.getsid(pid or 0) == pid
    await ovs.restart()
    assert [pid_of(ovs.folder, program) for program in ("ovs-vswitchd", "ovsdb-server")] == before


async def test_a_guest_that_holds_its_tap_keeps_the_switch_folder_alive(ovs: OvsRig) -> None:
    port = wiring(1, network())
    await wired(ovs, port)
    await ovs.switch.close()
    await stop_daemons(ovs.folder)
    assert privileged.namespace_exists(namespace_name(ovs.folder))
    await ovs.restart()
    assert [there.port_id for there in await ovs.switch.ports()] == [port.port_id]
    opened = await ovs.switch.open_tap(port.port_id, 1400)
    assert opened.fd == -1, "the guest holds it"


async def test_flows_that_others_removed_are_not_believed_in(ovs: OvsRig) -> None:
    one = network()
    port, other = wiring(1, one), wiring(2, one)
    a, b = await wired(ovs, port), await wired(ovs, other)
    await ovs.ofctl("del-flows")
    assert (await found(ovs.switch))[port.port_id].wired == 0
    await ovs.restart()
    for again in (port, other):
        await ovs.switch.wire(again)
    assert await frames.pass_soon(a, b, arp(A, IP_A, IP_B)) == []


async def test_a_switch_that_stays_away_is_an_error_and_one_that_comes_back_is_used(ovs: OvsRig, monkeypatch: pytest.MonkeyPatch) -> None:
    port, back = wiring(1, network()), asyncio.Event()
    await plugged(ovs, port)
    ovs.switch.on_reset = back.set
    monkeypatch.setattr(openvswitch, "_BACK_LIMIT", 0.1)
    with monkeypatch.context() as without_programs:
        without_programs.setenv("PATH", "/nonexistent")
        ovs.kill("ovs-vswitchd")
        for call in (ovs.switch.wire(port), ovs.switch.plug(port), ovs.switch.unplug(["another"])):
            with pytest.raises(SwitchError, match="was not there"):
                await call
    await asyncio.wait_for(back.wait(), LIMIT)
    await ovs.switch.wire(port)
    assert (await found(ovs.switch))[port.port_id].wired == 1


async def test_a_bridge_that_somebody_removed_is_made_again(ovs: OvsRig) -> None:
    await wired(ovs, wiring(1, network()))
    back = asyncio.Event()
    ovs.switch.on_reset = back.set
    await ovs.switch._database.remove_bridge("br-int")
    await asyncio.wait_for(back.wait(), LIMIT)
    assert await ovs.switch.ports() == []
    await wired(ovs, wiring(1, network()))
    assert [port.wired for port in await ovs.switch.ports()] == [1]


async def test_a_row_that_somebody_spoilt_is_none_of_ours(ovs: OvsRig) -> None:
    port, other = wiring(1, network()), wiring(2, network())
    await wired(ovs, port)
    await wired(ovs, other)
    row = ovs.switch._database.plugged[tap_name(port.port_id)]
    notes = {"pileus-bridge": "br-int", "pileus-network": port.network_id, "pileus-tag": "many"}
    await ovs.switch._database._transact([rows.update_notes(row.uuid, notes)])
    assert list(await found(ovs.switch)) == [other.port_id]


async def test_a_full_switch_says_so(ovs: OvsRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pileus.host.switch.tags.LAST", 2)
    for _ in range(2):
        await plugged(ovs, wiring(1, network()))
    with pytest.raises(SwitchError, match="no local tag is left"):
        await plugged(ovs, wiring(1, network()))


async def test_what_the_switch_refuses_is_told_and_harms_no_neighbour(ovs: OvsRig) -> None:
    """Requests share a transaction; the one that the database refuses (a map of texts with a number in it) fails alone."""
    one = network()
    good = [wiring(number, one) for number in range(1, 5)]
    bad = wiring(9, one, mac=5)
    results = await asyncio.gather(*(wired(ovs, port) for port in (*good, bad)), return_exceptions=True)
    assert isinstance(results[-1], SwitchError) and "expected string" in str(results[-1])
    assert {port.wired for port in await ovs.switch.ports()} == {1}
    assert len(await ovs.switch.ports()) == 4


async def test_two_ports_whose_ids_begin_alike_are_not_confused(ovs: OvsRig) -> None:
    one = network()
    port = wiring(1, one)
    await plugged(ovs, port)
    with pytest.raises(SwitchError, match=port.port_id):
        await ovs.switch.plug(wiring(2, one, port_id=port.port_id[:11] + "f-4000-8000-000000000000"))


async def test_a_deep_folder(tmp_path: Path) -> None:
    """Socket addresses hold 108 bytes; a state folder may lie deeper."""
    rig = OvsRig(tmp_path / ("x" * 60) / ("y" * 60) / "switch")
    try:
        await rig.open()
        await wired(rig, wiring(1, network()))
    finally:
        await rig.close()


async def test_two_switches_on_one_machine(ovs: OvsRig, tmp_path: Path) -> None:
    second = OvsRig(tmp_path / "second")
    try:
        await second.open()
        port = wiring(1, network())
        await wired(ovs, port)
        await wired(second, port)
        assert len(await ovs.switch.ports()) == len(await second.switch.ports()) == 1
    finally:
        await second.close()


async def test_not_root_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(StartupError, match="needs root"):
        await OpenVSwitch(tmp_path / "switch", Host()).start()


async def test_open_vswitch_not_installed_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    try:
        with pytest.raises(StartupError, match="openvswitch-switch"):
            await OpenVSwitch(tmp_path / "switch", Host()).start()
    finally:
        await stop_daemons(tmp_path / "switch")


@pytest.mark.parametrize(
    "where, message", [("tcp:127.0.0.1:6640", "unix:PATH"), ("unix:{folder}/db.sock", "no Open vSwitch database answers")]
)
async def test_a_database_that_is_not_there_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, message: str
) -> None:
    monkeypatch.setattr(openvswitch, "_CONNECT_LIMIT", 0.05)
    with pytest.raises(StartupError, match=message):
        await OpenVSwitch(tmp_path, Host(switch_db=where.format(folder=tmp_path))).start()


GUEST_OF_ANOTHER_SWITCH = """
import asyncio, pathlib, sys
from pileus.host.switch.openvswitch import OpenVSwitch
from pileus.settings import Host
from tests.host.switch.rigs import wiring

async def main():
    switch = OpenVSwitch(pathlib.Path("unused"), Host(switch_db=sys.argv[1], bridge="br-other"))
    await switch.start()
    port = wiring(1, "4f2b9a7e-5b3c-4b1e-9d1a-000000000001")
    await switch.open_tap(port.port_id, 1400)
    await switch.plug(port)
    await switch.wire(port)
    print("wired", [found.wired for found in await switch.ports()])
    await switch.unplug([port.port_id])
    print("left", await switch.ports())
    await switch.close()

asyncio.run(main())
"""


async def test_a_running_switch_of_somebody_else_is_used_beside_its_own_ports(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    await start_daemons(folder)
    theirs = OvsRig(folder)
    try:
        await theirs.open()
        await wired(theirs, wiring(5, network()))
        code, text = await run_in_namespace(
            namespace_name(folder), [sys.executable, "-c", GUEST_OF_ANOTHER_SWITCH, f"unix:{folder}/db.sock"], limit=LIMIT
        )
        assert (code, text) == (0, "wired [1]\nleft []\n")
        assert [port.wired for port in await theirs.switch.ports()] == [1]
        assert sorted(theirs.switch._database.bridges("br-")) == ["br-int", "br-other"]
    finally:
        await theirs.close()
