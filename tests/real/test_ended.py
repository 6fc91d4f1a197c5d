"""Pileus itself ended, by force or kindly, and started again: guests run on, and what was under way comes to its end."""

from __future__ import annotations

import os
import signal

import pytest

from tests.real.conftest import Neighbours
from tests.real.machine import session_of
from tests.real.rig import Rig, until

DAEMONS = ("ovs-vswitchd", "ovsdb-server")
both = pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "ended"])


@both
def test_guests_are_adopted(cloud: Rig, neighbours: Neighbours, number: signal.Signals) -> None:
    before = {server_id: cloud.machine.qemu(server_id) for server_id in (neighbours.a, neighbours.b, neighbours.stranger)}
    switch, dhcp = cloud.machine.daemon("ovs-vswitchd"), cloud.machine.dnsmasq()
    devices, flows = cloud.machine.taps(), len(cloud.machine.flows())
    with cloud.console(neighbours.a) as console:
        console.run(f"ping -i 0.2 -w 60 {neighbours.b_address} >/tmp/ping & true")
    cloud.restart(number)
    assert {server_id: cloud.machine.qemu(server_id) for server_id in before} == before
    assert (cloud.machine.daemon("ovs-vswitchd"), cloud.machine.dnsmasq()) == (switch, dhcp)
    assert (cloud.machine.taps(), len(cloud.machine.flows())) == (devices, flows)
    for server_id, pid in before.items():
        assert cloud.server(server_id)["status"] == "ACTIVE" and session_of(pid) == pid
    with cloud.console(neighbours.a) as console:
        console.run("killall -INT ping; wait")
        said = console.run("cat /tmp/ping")[1]
    assert ", 0% packet loss" in said, said
    assert cloud.says_over_tcp(neighbours.a, neighbours.b_address)


@both
@pytest.mark.parametrize("moment", ["accepted", "made"])
def test_what_was_being_made_is_made_once(cloud: Rig, number: signal.Signals, moment: str) -> None:
    ids = [cloud.create(f"middle-{n}") for n in range(3)]
    if moment == "made":
        until(lambda: any(cloud.machine.qemus(server_id) for server_id in ids), every=0.001)
    cloud.restart(number)
    for server_id in ids:
        assert cloud.become(server_id, "ACTIVE")["OS-EXT-STS:power_state"] == 1
        assert len(cloud.machine.qemus(server_id)) == 1
        [port] = cloud.ports(server_id)
        assert port["status"] == "ACTIVE" and f"tap{port['id'][:11]}" in cloud.machine.taps()
    claims = cloud.call("GET", "/placement/resource_providers")["resource_providers"]
    [provider] = claims
    usage = cloud.call("GET", f"/placement/resource_providers/{provider['uuid']}/allocations")["allocations"]
    assert all(server_id in usage for server_id in ids)
    ports = {port["id"] for server_id in ids for port in cloud.ports(server_id)}
    cloud.delete(*ids)
    assert not [server_id for server_id in ids if cloud.machine.qemus(server_id) or server_id in cloud.machine.guest_folders()]
    assert not [port for port in ports if cloud.machine.port_flows(port) or f"tap{port[:11]}" in cloud.machine.taps()]


def test_deletes_under_way_are_finished(cloud: Rig) -> None:
    ids = [cloud.create(f"gone-{n}") for n in range(3)]
    for server_id in ids:
        cloud.become(server_id, "ACTIVE")
    for server_id in ids:
        cloud.call("DELETE", f"/compute/v2.1/servers/{server_id}")
    cloud.restart(signal.SIGKILL)
    for server_id in ids:
        until(lambda each=server_id: cloud.ask("GET", f"/compute/v2.1/servers/{each}").status_code == 404)  # type: ignore[misc]
        assert not cloud.machine.qemus(server_id) and server_id not in cloud.machine.guest_folders()


@pytest.mark.parametrize("verb", ["stop", "start", "reboot", "pause"])
def test_what_was_being_done_is_done(cloud: Rig, verb: str) -> None:
    """A stop waits for the guest's own power-off when Pileus is killed; the others are just under way."""
    server_id = cloud.create(verb)
    cloud.become(server_id, "ACTIVE")
    if verb == "start":
        os.kill(cloud.machine.qemu(server_id), signal.SIGKILL)
        cloud.become(server_id, "SHUTOFF")
    body = {"reboot": {"type": "HARD"}}
    cloud.action(server_id, {"stop": "os-stop", "start": "os-start"}.get(verb, verb), body.get(verb))
    cloud.restart(signal.SIGKILL)
    if verb == "stop":
        os.kill(cloud.machine.qemu(server_id), signal.SIGKILL)
    cloud.become(server_id, {"stop": "SHUTOFF", "pause": "PAUSED"}.get(verb, "ACTIVE"))
    assert len(cloud.machine.qemus(server_id)) == (verb != "stop")
    assert bool(cloud.machine.port_flows(cloud.ports(server_id)[0]["id"])) == (verb != "stop")
    cloud.delete(server_id)


def test_what_died_meanwhile(cloud: Rig, neighbours: Neighbours) -> None:
    """A guest, the switch and the DHCP servers end while no Pileus runs: the next one sees it, and brings back what must be there."""
    server_id = cloud.create("dies-alone")
    cloud.become(server_id, "ACTIVE")
    [port] = cloud.ports(server_id)
    guest, daemons, dhcp = cloud.machine.qemu(server_id), [cloud.machine.daemon(name) for name in DAEMONS], cloud.machine.dnsmasq()
    cloud.end(signal.SIGKILL)
    for pid in (guest, *daemons, *dhcp):
        os.kill(pid, signal.SIGKILL)
    cloud.start()
    assert cloud.become(server_id, "SHUTOFF", 10.0)["OS-EXT-STS:power_state"] == 4
    until(lambda: cloud.ports(server_id)[0]["status"] == "DOWN")
    assert not cloud.machine.port_flows(port["id"]) and f"tap{port['id'][:11]}" not in cloud.machine.taps()
    until(lambda: len(cloud.machine.dnsmasq()) == len(dhcp))
    assert cloud.pings(neighbours.a, neighbours.b_address)
    assert cloud.says_over_tcp(neighbours.b, neighbours.a_address)
    with cloud.console(neighbours.b) as console:
        code, said = console.run("udhcpc -n -q -i eth0 -s /etc/udhcpc -t 8 -T 1")
    assert code == 0 and neighbours.b_address in said, said
    cloud.action(server_id, "os-start")
    cloud.become(server_id, "ACTIVE")
    cloud.delete(server_id)
