"""Parts of the host killed under a running cloud: guests, the switch's daemons, the DHCP server."""

from __future__ import annotations

import os
import signal

import pytest

from pileus.host.switch.tables import BASE_KIND, DHCP_KIND, NETWORK_KIND, PORT_KIND
from tests.real.conftest import Neighbours
from tests.real.rig import Rig, until


def test_a_killed_guest_is_shown_within_two_seconds_and_starts_again(cloud: Rig) -> None:
    server_id = cloud.create("dies")
    cloud.become(server_id, "ACTIVE")
    [port] = cloud.ports(server_id)
    os.kill(cloud.machine.qemu(server_id), signal.SIGKILL)
    server = cloud.become(server_id, "SHUTOFF", 2.0)
    assert server["OS-EXT-STS:power_state"] == 6
    why = cloud.call("GET", f"/pileus/v1/servers/{server_id}/timeline")["server"]["fault"]
    assert "died on host" in why and "SIGKILL" in why
    until(lambda: not cloud.machine.port_flows(port["id"]))
    until(lambda: f"tap{port['id'][:11]}" not in {*cloud.machine.taps(), *cloud.machine.switch_ports()})
    until(lambda: cloud.ports(server_id)[0]["status"] == "DOWN")
    cloud.action(server_id, "os-start")
    assert "fault" not in cloud.become(server_id, "ACTIVE")
    assert cloud.address(server_id) == port["fixed_ips"][0]["ip_address"]
    assert cloud.machine.port_flows(port["id"])
    cloud.delete(server_id)


def test_a_guest_that_powers_off_is_shown(cloud: Rig) -> None:
    server_id = cloud.boot("leaves")
    cloud.become(server_id, "ACTIVE")
    cloud.shell_is_there(server_id)
    with cloud.console(server_id) as console:
        console.type("poweroff -f")
        until(lambda: not cloud.machine.qemus(server_id))
    server = cloud.become(server_id, "SHUTOFF", 2.0)
    assert "fault" not in server and server["OS-EXT-STS:power_state"] == 4
    cloud.delete(server_id)


def test_guests_that_hang_hold_up_nothing(cloud: Rig) -> None:
    """Their monitors do not answer: the host goes on to say that it lives, makes other servers, and removes these."""
    hung = [cloud.create(f"hung-{n}") for n in range(3)]
    for server_id in hung:
        cloud.become(server_id, "ACTIVE")
        os.kill(cloud.machine.qemu(server_id), signal.SIGSTOP)
    try:
        beats = {_beat(cloud)}
        until(lambda: len(beats.add(_beat(cloud)) or beats) > 4, 15.0)  # type: ignore[func-returns-value]
        other = cloud.create("other")
        cloud.become(other, "ACTIVE", 5.0)
        cloud.delete(other, *hung)
    finally:
        for server_id in hung:
            for pid in cloud.machine.qemus(server_id):
                os.kill(pid, signal.SIGCONT)
    assert not [server_id for server_id in hung if cloud.machine.qemus(server_id) or server_id in cloud.machine.guest_folders()]


def _beat(cloud: Rig) -> str:
    [service] = cloud.call("GET", "/compute/v2.1/os-services?binary=nova-compute")["services"]
    assert service["state"] == "up"
    return str(service["updated_at"])


@pytest.mark.parametrize("program", ["ovs-vswitchd", "ovsdb-server"])
def test_a_killed_switch_comes_back(cloud: Rig, neighbours: Neighbours, program: str) -> None:
    def flows() -> int:
        """But for what the switch learns, and the members of sets: other tests' servers come and go."""
        return sum(len(cloud.machine.flows_of_kind(kind)) for kind in (PORT_KIND, NETWORK_KIND, DHCP_KIND, BASE_KIND))

    there, ports = flows(), cloud.machine.switch_ports()
    before = cloud.machine.daemon(program)
    os.kill(before, signal.SIGKILL)
    until(lambda: cloud.machine.daemon(program) not in (0, before))
    until(lambda: _answers(cloud) and cloud.machine.switch_ports() == ports)
    until(lambda: flows() == there)
    assert cloud.pings(neighbours.a, neighbours.b_address)
    assert cloud.says_over_tcp(neighbours.b, neighbours.a_address)
    renew = "udhcpc -n -q -i eth0 -s /etc/udhcpc -t 8 -T 1"
    with cloud.console(neighbours.b) as console:
        code, said = console.run(renew)
    assert code == 0 and neighbours.b_address in said, said
    server_id = cloud.create("after")
    cloud.become(server_id, "ACTIVE")
    cloud.delete(server_id)


@pytest.mark.parametrize("program", ["ovs-vswitchd", "ovsdb-server"])
def test_servers_made_while_the_switch_dies(cloud: Rig, program: str) -> None:
    ids = [cloud.create(f"during-{n}") for n in range(2)]
    os.kill(cloud.machine.daemon(program), signal.SIGKILL)
    ids += [cloud.create(f"during-{n}") for n in range(2, 4)]
    for server_id in ids:
        cloud.become(server_id, "ACTIVE", 40.0)
        [port] = cloud.ports(server_id)
        assert cloud.machine.port_flows(port["id"]) and port["status"] == "ACTIVE"
    os.kill(cloud.machine.daemon(program), signal.SIGKILL)
    cloud.delete(*ids)
    until(lambda: not {server_id for server_id in ids if cloud.machine.qemus(server_id)})


def _answers(cloud: Rig) -> bool:
    try:
        cloud.machine.flows()
        cloud.machine.switch_ports()
    except AssertionError:
        return False
    return True


def test_a_killed_dhcp_server_comes_back(cloud: Rig, neighbours: Neighbours) -> None:
    before = cloud.machine.dnsmasq()
    assert len(before) == 2
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(cloud.machine.dnsmasq()) == 2 and not set(cloud.machine.dnsmasq()) & set(before))
    with cloud.console(neighbours.a) as console:
        code, said = console.run("udhcpc -n -q -i eth0 -s /etc/udhcpc -t 8 -T 1")
    assert code == 0 and neighbours.a_address in said, said


def test_an_address_goes_to_its_next_owner_within_the_lease_time(cloud: Rig) -> None:
    network = [{"uuid": cloud.private, "fixed_ip": "10.0.6.6"}]
    first = cloud.boot("first", networks=network)
    cloud.become(first, "ACTIVE")
    assert "10.0.6.6" in cloud.shell_is_there(first)
    [old] = cloud.ports(first)
    cloud.delete(first)
    second = cloud.boot("second", networks=network)
    cloud.become(second, "ACTIVE")
    assert "PILEUS-GUEST-ADDRESS eth0 10.0.6.6/20" in cloud.shell_is_there(second)
    [new] = cloud.ports(second)
    assert new["mac_address"] != old["mac_address"]
    cloud.delete(second)
