"""docs/MANY-MACHINES.md on three machines made of namespaces: real PostgreSQL, NATS with TLS and keys, QEMU, Open vSwitch and tunnels, each
role started by its unit, files where the commands wrote them. The tests are one story, in this order."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pileus import tinyguest
from pileus.hosts import missing_for_real
from pileus.settings import Settings
from tests.deploy.machines import Machine
from tests.deploy.walkthrough import HOSTS, STATE, ThreeMachines, programs_missing, three_machines
from tests.real.console import Console

MISSING = missing_for_real(Settings()) or programs_missing()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"the walk-through needs real machines' parts: {MISSING}")
SERVERS = {"first": "compute1", "second": "compute2"}
STANDING = ("qemu-system", "ovs-vswitchd", "ovsdb-server", "dnsmasq")
LIMIT = 60.0


def until(question: Callable[[], Any], limit: float = LIMIT) -> Any:
    ends = time.monotonic() + limit
    while not (answer := question()):
        assert time.monotonic() < ends, f"not so within {limit:g} s; last answer: {answer!r}"
        time.sleep(0.05)
    return answer


class Cloud:
    """The walk-through up to its two servers."""

    def __init__(self, three: ThreeMachines) -> None:
        self.three = three
        self.control = three.control
        self.where = dict(SERVERS)
        three.follow(until="pileus status")
        until(self.both_are_up)
        three.follow(until="openstack server create")
        self.status = three.said
        self.control.run(f"{sys.executable} -m tests.deploy.tinyimage")
        three.follow(until="openstack server list")
        until(self.are_active)
        three.follow(until="systemctl restart")
        self.shown = three.said
        servers = self.servers()
        self.ids: dict[str, str] = {server["name"]: server["id"] for server in servers}
        self.addresses: dict[str, str] = {server["name"]: server["addresses"]["demo"][0]["addr"] for server in servers}

    def request(self, method: str, service: str, path: str) -> Any:
        """By the cloud's own small client: quicker than `openstack`."""
        script = f"""
import json
from pathlib import Path
from pileus.cli.client import Client
with Client.of_state(Path("/var/lib/pileus")) as client:
    answer = client.request({method!r}, {service!r}, {path!r})
    print(json.dumps(answer.json() if answer.content else None))
"""
        return json.loads(self.control.run(f"{sys.executable} -c {shlex.quote(script)}"))

    def servers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.request("GET", "compute", "/servers/detail")["servers"]
        return found

    def are_active(self) -> bool:
        found = {server["status"] for server in self.servers()}
        assert "ERROR" not in found
        return found == {"ACTIVE"}

    def both_are_up(self) -> bool:
        hosts = self.request("GET", "pileus", "/v1/status")["hosts"]
        return sorted(host["name"] for host in hosts if host["up"]) == list(HOSTS)

    def host(self, name: str) -> Machine:
        return self.three.machines[self.where[name]]

    def guest(self, name: str) -> Path:
        return self.host(name).root / STATE / "guests" / self.ids[name]

    def has_shell(self, name: str) -> bool:
        log = (self.guest(name) / "console.log").read_text(errors="replace")
        return tinyguest.ADDRESS in log and "guest# " in log

    def ping(self, source: str, target: str) -> bool:
        address = self.addresses[target]
        with Console(self.guest(source) / "console.sock") as console:
            return console.run(f"ping -c 1 -W 2 {address} || ping -c 3 -W 2 {address}")[0] == 0

    def is_on(self, name: str, host: str, status: str) -> bool:
        [server] = [server for server in self.servers() if server["name"] == name]
        assert server["status"] != "ERROR", server
        return (server["status"], server["OS-EXT-SRV-ATTR:host"], server["OS-EXT-STS:task_state"]) == (status, host, None)

    def standing(self, host: str) -> dict[str, list[int]]:
        """What must outlive the host's process."""
        machine = self.three.machines[host]
        return {word: machine.pids(word) for word in STANDING}


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    tinyguest.build(tinyguest.default_folder())
    with tempfile.TemporaryDirectory(prefix="pl-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with three_machines(folder) as three:
            yield Cloud(three)


def test_the_document_brings_up_both_hosts_and_their_servers(cloud: Cloud) -> None:
    assert [re.findall(rf"^{host}\s+(up)\s", cloud.status, re.MULTILINE) for host in HOSTS] == [["up"], ["up"]], cloud.status
    found = {server["name"]: (server["status"], server["OS-EXT-SRV-ATTR:host"]) for server in cloud.servers()}
    assert found == {name: ("ACTIVE", host) for name, host in SERVERS.items()}
    listed = re.findall(r"^\| [0-9a-f-]{36} \| (\w+) +\| (\w+) ", cloud.shown, re.MULTILINE)
    assert sorted(each for each in listed if each[1] == "ACTIVE") == [("first", "ACTIVE"), ("second", "ACTIVE")]
    assert "create of first on host compute1: done" in cloud.shown


def test_guests_on_different_hosts_reach_one_another(cloud: Cloud) -> None:
    for name in SERVERS:
        until(partial(cloud.has_shell, name))
    assert cloud.ping("first", "second")
    assert cloud.ping("second", "first")


def test_the_console_of_a_guest_on_its_host(cloud: Cloud) -> None:
    command = "pileus console {} --state /var/lib/pileus-host"
    said = cloud.host("first").run(f"echo 'echo this-is-$((40+2)); hostname' | {command.format(cloud.ids['first'])}")
    assert "this-is-42" in said
    refused = cloud.host("first").run(f"! {command.format('first')} 2>&1; ! {command.format(cloud.ids['second'])} 2>&1")
    assert refused.count("there is no guest") == 2


def test_the_control_plane_has_no_rights(cloud: Cloud) -> None:
    for unit in ("pileus-nats", "pileus-api", "pileus-worker", "pileus-network-rpc"):
        status = cloud.control.run(f"cat /proc/$(cat /run/units/{unit}.pid)/status")
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE), status


def test_what_is_secret_is_roots_alone(cloud: Cloud) -> None:
    etc = cloud.control.root / "etc/pileus"
    for name in ("control.env", "control.creds", "bus/keys/account.nk", "bus/hosts/compute1.creds", "bus/tls/server.key"):
        assert (etc / name).stat().st_mode & 0o077 == 0, name
    assert "password" not in (etc / "control.toml").read_text()
    for host in HOSTS:
        assert (cloud.three.machines[host].root / f"etc/pileus/{host}.creds").stat().st_mode & 0o077 == 0
        known = [file.name for file in (cloud.three.machines[host].root / "etc/pileus").iterdir()]
        assert sorted(known) == ["bus-ca.pem", f"{host}.creds", "host.toml"]


def test_a_restart_of_a_host_ends_no_guest(cloud: Cloud) -> None:
    before = cloud.standing("compute1")
    assert [len(pids) for pids in before.values()] == [1, 1, 1, 1]
    cloud.three.take("systemctl restart")
    assert cloud.standing("compute1") == before
    until(cloud.both_are_up)
    assert cloud.ping("first", "second")


def test_kill_9_of_a_host_ends_no_guest_and_while_it_is_down_the_network_works(cloud: Cloud) -> None:
    before = cloud.standing("compute2")
    machine = cloud.three.machines["compute2"]
    machine.run("systemctl kill pileus-host")
    assert cloud.standing("compute2") == before
    assert cloud.ping("first", "second")
    machine.run("systemctl start pileus-host")
    assert cloud.standing("compute2") == before
    assert cloud.ping("second", "first")


def test_control_is_killed_and_all_goes_on(cloud: Cloud) -> None:
    units = "pileus-nats pileus-api pileus-worker pileus-network-rpc"
    cloud.control.run(f"systemctl kill {units}")
    assert cloud.ping("first", "second")
    cloud.control.run(f"systemctl start {units}")
    until(cloud.both_are_up)


def test_a_removed_host_is_off_the_bus(cloud: Cloud) -> None:
    cloud.three.take("pileus host remove")
    log = cloud.three.machines["compute1"].root / "run/units/pileus-host.log"
    until(lambda: "credentials refused" in log.read_text())
    assert "credentials refused" not in (cloud.three.machines["compute2"].root / "run/units/pileus-host.log").read_text()


def test_a_server_of_a_dead_machine_comes_back_elsewhere(cloud: Cloud) -> None:
    cloud.three.machines["compute1"].close()
    cloud.three.take("server evacuate")
    until(partial(cloud.is_on, "first", "compute2", "SHUTOFF"))
    cloud.three.take("server start")
    until(partial(cloud.is_on, "first", "compute2", "ACTIVE"))
    cloud.where["first"] = "compute2"
    until(partial(cloud.has_shell, "first"))
    assert cloud.ping("second", "first")


def test_a_host_is_emptied_for_a_reboot(cloud: Cloud) -> None:
    cloud.three.take("pileus down")
    assert cloud.three.left == []
    assert "2 guests powered off" in cloud.three.said
    assert "the switch's daemons and its namespace" in cloud.three.said
    assert cloud.standing("compute2") == {word: [] for word in STANDING}
    devices = cloud.three.machines["compute2"].run("ip -o link show; ip netns list")
    assert re.findall(r"^\d+: (\w+)", devices, re.MULTILINE) == ["lo", "eth0", "eth1"]
    assert "pileus-" not in devices
