"""Security groups between real guests, told by the API while they run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pileus import tinyguest
from tests.real.conftest import Neighbours
from tests.real.rig import Rig, until

GROUPS, RULES = "/network/v2.0/security-groups", "/network/v2.0/security-group-rules"


@pytest.fixture
def group(cloud: Rig, neighbours: Neighbours) -> Iterator[str]:
    """A group of guest b's own, that lets nobody in; afterwards b is in its former groups again."""
    made = str(cloud.call("POST", GROUPS, {"security_group": {"name": "of b alone"}})["security_group"]["id"])
    [port] = cloud.ports(neighbours.b)
    try:
        put_groups(cloud, port, [made])
        yield made
    finally:
        put_groups(cloud, port, port["security_groups"])
        cloud.call("DELETE", f"{GROUPS}/{made}")
        until(lambda: pings(cloud, neighbours.a, neighbours.b_address))


def put_groups(cloud: Rig, port: dict[str, Any], groups: list[str]) -> None:
    cloud.call("PUT", f"/network/v2.0/ports/{port['id']}", {"port": {"security_groups": groups}})


def allow(cloud: Rig, group: str, **rule: Any) -> str:
    body = {"security_group_rule": {"security_group_id": group, "direction": "ingress", "ethertype": "IPv4", **rule}}
    return str(cloud.call("POST", RULES, body)["security_group_rule"]["id"])


def pings(cloud: Rig, source: str, address: str) -> bool:
    with cloud.console(source) as console:
        return console.run(f"ping -c 1 -W 1 {address}")[0] == 0


def test_a_guest_is_reached_as_its_groups_allow(cloud: Rig, neighbours: Neighbours, group: str) -> None:
    a, b = neighbours.a, neighbours.b
    until(lambda: not pings(cloud, a, neighbours.b_address))
    # It has left the default group, whose members are let in.
    until(lambda: not pings(cloud, b, neighbours.a_address))
    ping = allow(cloud, group, protocol="icmp", remote_ip_prefix=f"{neighbours.a_address}/32")
    until(lambda: pings(cloud, a, neighbours.b_address))
    with cloud.console(a) as console:
        assert "over-42" not in console.run(f"echo over-$((40+2)) | nc -w 1 {neighbours.b_address} {tinyguest.ECHO_PORT}")[1]
    allow(cloud, group, protocol="tcp", port_range_min=tinyguest.ECHO_PORT, port_range_max=tinyguest.ECHO_PORT)
    until(lambda: cloud.says_over_tcp(a, neighbours.b_address))
    with cloud.console(a) as console:
        # What runs goes on while rules change.
        words = [f"word-{number}" for number in range(1, 7)]
        echo = f"nc -w 5 {neighbours.b_address} {tinyguest.ECHO_PORT} > /tmp/talk"
        console.run(f"(for word in {' '.join(words)}; do echo $word; sleep 0.3; done) | {echo} & true")
        cloud.call("DELETE", f"{RULES}/{ping}")
        until(lambda: console.run(f"ping -c 1 -W 1 {neighbours.b_address}")[0] != 0)
        until(lambda: console.run("cat /tmp/talk")[1].split() == words)
