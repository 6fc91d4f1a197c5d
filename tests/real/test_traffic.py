"""What two servers see of their cloud and of one another, from inside."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pileus.tinyguest import ADDRESS
from tests.real.conftest import STRANGER_ADDRESS, Neighbours
from tests.real.machine import session_of, status_of
from tests.real.rig import Rig, until


def test_addresses_by_dhcp_are_those_of_the_api(cloud: Rig, neighbours: Neighbours) -> None:
    for server_id in (neighbours.a, neighbours.b, neighbours.stranger):
        assert f"{ADDRESS} eth0 {cloud.address(server_id)}/20" in cloud.console_log(server_id)
    assert neighbours.a_address != neighbours.b_address


def test_neighbours_reach_one_another_and_strangers_do_not(cloud: Rig, neighbours: Neighbours) -> None:
    assert cloud.pings(neighbours.a, neighbours.b_address)
    assert cloud.says_over_tcp(neighbours.b, neighbours.a_address)
    with cloud.console(neighbours.stranger) as console:
        assert console.run(f"ping -c 2 -W 1 {neighbours.a_address}")[0] != 0
        assert "fa:16:3e" not in console.run("cat /proc/net/arp")[1]  # not even an answer to who has the address
    with cloud.console(neighbours.a) as console:
        assert console.run(f"ping -c 2 -W 1 {STRANGER_ADDRESS}")[0] != 0


def test_a_server_learns_who_it_is(cloud: Rig, neighbours: Neighbours) -> None:
    """Config drive and user data."""
    log = cloud.console_log(neighbours.a)
    assert f"PILEUS-GUEST-CONFIG-DRIVE {neighbours.a}" in log
    assert re.search(r"user data ran on a\r?\n", log)
    with cloud.console(neighbours.a) as console:
        assert '"colour": "blue"' in re.sub(r'":"', '": "', console.run("cat /media/openstack/latest/meta_data.json")[1])
    assert "CONFIG-DRIVE" not in cloud.console_log(neighbours.b)


def test_the_console_log_by_the_api(cloud: Rig, neighbours: Neighbours) -> None:
    path = f"/compute/v2.1/servers/{neighbours.a}/action"
    with cloud.console(neighbours.a) as console:
        console.run("echo one; echo two; echo three")
    lines = cloud.call("POST", path, {"os-getConsoleOutput": {"length": 4}})["output"].splitlines()
    assert len(lines) == 4 and "three" in "".join(lines)


def test_a_guest_has_no_rights_and_a_session_of_its_own(cloud: Rig, neighbours: Neighbours) -> None:
    pids = [cloud.machine.qemu(server_id) for server_id in (neighbours.a, neighbours.b, neighbours.stranger)]
    uids = {status_of(pid, "Uid") for pid in pids}
    assert len(uids) == 3
    for pid in pids:
        [uid] = set(status_of(pid, "Uid").split())
        assert set(status_of(pid, "Gid").split()) == {uid} and int(uid) > 65536
        assert (status_of(pid, "Seccomp"), status_of(pid, "NoNewPrivs"), session_of(pid)) == ("2", "1", pid)
        assert {status_of(pid, name) for name in ("CapEff", "CapPrm", "CapInh")} == {"0" * 16}


FORGE = {
    "address": "ip addr add 10.0.7.7/20 dev eth0; ping -c 2 -W 1 -I 10.0.7.7 {other}",
    "mac": "ip link set eth0 down; ip link set eth0 address fa:16:3e:00:00:66; ip link set eth0 up; ping -c 2 -W 1 {other}",
}
MEND = "ip addr del 10.0.7.7/20 dev eth0; ip link set eth0 down; ip link set eth0 address {mac}; ip link set eth0 up"


@pytest.mark.parametrize("what", FORGE)
def test_what_a_guest_forges_does_not_get_out(cloud: Rig, neighbours: Neighbours, what: str) -> None:
    """And it would, without port security: so it is the switch that stops it, told while the guest runs."""
    [port], [other] = cloud.ports(neighbours.a), cloud.ports(neighbours.b)

    def secure(port: dict[str, Any], *, secured: bool) -> None:
        """Port security and security groups come and go together."""
        groups = port["security_groups"] if secured else []
        change = {"port_security_enabled": secured, "security_groups": groups}
        cloud.call("PUT", f"/network/v2.0/ports/{port['id']}", {"port": change})

    def forged(*, secured: bool) -> bool:
        secure(port, secured=secured)
        with cloud.console(neighbours.a) as console:
            try:
                return console.run(FORGE[what].format(other=neighbours.b_address))[0] == 0
            finally:
                console.run(MEND.format(mac=port["mac_address"]))

    secure(other, secured=False)  # or its groups would stop what the sender's port does not
    try:
        until(lambda: forged(secured=False))
    finally:
        for one in (port, other):
            secure(one, secured=True)
    with cloud.console(neighbours.b) as console:
        console.run("ip neigh flush dev eth0")
    until(lambda: not forged(secured=True))
    with cloud.console(neighbours.b) as console:
        assert not re.search(r"(10\.0\.7\.7|fa:16:3e:00:00:66)\b.* (REACHABLE|DELAY)", console.run("ip neigh")[1])
    assert cloud.pings(neighbours.a, neighbours.b_address)
