"""Real guests on several hosts: each `pileus serve host` with an Open vSwitch of its own, joined by an underlay, one control plane."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from pileus.tinyguest import ADDRESS
from tests.engines.cluster import Cluster, Process
from tests.host.switch.underlays import Underlay
from tests.real.console import Console
from tests.real.machine import Machine
from tests.real.rig import BOOT_LIMIT, QUICK, Rig, command, until

SETTINGS = {
    **{name.removeprefix("PILEUS_").lower().replace("__", "."): value for name, value in QUICK.items()},
    "host.hypervisor": "qemu",
    "network.members_interval": "2",
}
SAME_ADDRESS = "10.0.0.50"


class Hosts(Rig):
    """The cloud's API as `Rig` asks it; its hosts are processes of a cluster."""

    def __init__(self, cluster: Cluster, underlay: Underlay) -> None:
        super().__init__(cluster.folder / "api")
        self.cluster = cluster
        self.underlay = underlay
        self.machines: dict[str, Machine] = {}
        self._http = httpx.Client(base_url=cluster.url, timeout=60.0, trust_env=False)

    def start(self) -> None:
        self.log = self.cluster.processes["api"].log
        self.process = self.cluster.processes["api"]._process
        until(self._signed_in, 40.0)

    def join(self, *names: str) -> None:
        """Hosts that come, at once."""
        added: list[Process] = []
        for name in names:
            number = len(self.machines) + 1
            own = {"host.tunnel_address": f"198.51.100.{number}/24", "host.tunnel_device": self.underlay.device()}
            added.append(self.cluster.add(f"host@{name}", **own))
            self.machines[name] = Machine(self.cluster.folder / f"host@{name}")
            added[-1].start()
        asyncio.run(_all_ready(added))
        for name in names:
            until(lambda each=name: self._is_host_up(each), 40.0)  # type: ignore[misc]

    def _is_host_up(self, name: str) -> bool:
        found = self.call("GET", "/compute/v2.1/os-services?binary=nova-compute")["services"]
        return any((service["host"], service["state"]) == (name, "up") for service in found)

    def on(self, host: str, name: str, network: str, address: str = "") -> str:
        wanted = {"uuid": network} | ({"fixed_ip": address} if address else {})
        return self.boot(name, availability_zone=f"nova:{host}", networks=[wanted])

    @contextmanager
    def console(self, server_id: str) -> Iterator[Console]:
        [socket] = [found for m in self.machines.values() if (found := m.state / "guests" / server_id / "console.sock").exists()]
        with Console(socket) as console:
            yield console

    def sends_to(self, host: str) -> set[str]:
        """The addresses of the hosts that this one's switch sends what is for all to."""
        groups = f"{self.machines[host].switch}/br-int.mgmt"
        dumped = subprocess.run(["ovs-ofctl", "-OOpenFlow15", "dump-groups", groups], capture_output=True, text=True, check=True)
        return set(re.findall(r"set_field:([0-9a-f.:]+)->tun_dst", dumped.stdout))

    def everybody_has_an_address(self, servers: Sequence[str]) -> None:
        for server_id in servers:
            self.become(server_id, "ACTIVE", BOOT_LIMIT)
        for server_id in servers:
            self.shell_is_there(server_id)
            assert f"{ADDRESS} eth0 {self.address(server_id)}/20" in self.console_log(server_id)

    def take_down(self) -> list[str]:
        """End guests, switches and DHCP of all hosts; what is left of them."""
        left = []
        for name, machine in self.machines.items():
            environ = self.cluster.processes[f"host@{name}"]._environ
            arguments = command("down", "--guests", "--state", str(machine.state))
            done = subprocess.run(arguments, env=environ, capture_output=True, text=True, timeout=120, check=False)
            left += machine.everything_left() + ([] if done.returncode == 0 else [done.stdout + done.stderr])
            machine.force_away()
        return left


async def _all_ready(processes: Sequence[Process]) -> None:
    await asyncio.gather(*(process.ready() for process in processes))


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    folder = Path(tempfile.mkdtemp(prefix="pl-", dir="/tmp"))
    folder.chmod(0o755)
    underlay = Underlay()
    cluster = Cluster(folder, SETTINGS, roles=("api", "worker", "network-rpc"))
    made = Hosts(cluster, underlay)
    try:
        with asyncio.Runner() as runner:
            try:
                runner.run(cluster.start())
                made.start()
                made.join("h1", "h2")
                yield made
            finally:
                runner.run(cluster.close())
                left = made.take_down()
        assert left == []
    finally:
        underlay.close()
        shutil.rmtree(folder)


def test_guests_of_several_hosts(hosts: Hosts) -> None:
    """One story, for guests take seconds to boot: two hosts, a stranger with the same addresses, a third host, and ends."""
    elsewhere = hosts.network("elsewhere", "10.0.0.0/20")
    vxlan = hosts.call("POST", "/network/v2.0/networks", {"network": {"name": "vx", "provider:network_type": "vxlan"}})["network"]
    hosts.call("POST", "/network/v2.0/subnets", {"subnet": {"network_id": vxlan["id"], "cidr": "10.0.0.0/20", "ip_version": 4}})
    a, b = hosts.on("h1", "a", hosts.private), hosts.on("h2", "b", hosts.private, SAME_ADDRESS)
    stranger = hosts.on("h2", "stranger", elsewhere, SAME_ADDRESS)
    x, y = hosts.on("h1", "x", vxlan["id"]), hosts.on("h2", "y", vxlan["id"], SAME_ADDRESS)
    hosts.everybody_has_an_address([a, b, stranger, x, y])
    at_a = hosts.address(a)

    # Geneve, and VXLAN beside it with the same addresses.
    assert hosts.pings(a, SAME_ADDRESS) and hosts.says_over_tcp(a, SAME_ADDRESS) and hosts.says_over_tcp(b, at_a)
    assert hosts.pings(x, SAME_ADDRESS) and hosts.says_over_tcp(y, hosts.address(x))
    with hosts.console(a) as console:
        assert "mtu 1442" in console.run("ip link show eth0")[1]
        assert console.run(f"ping -c 1 -s 1414 -W 2 {SAME_ADDRESS}")[0] == 0
    # The stranger meets nobody, though its neighbours have its addresses.
    with hosts.console(stranger) as console:
        assert console.run(f"ping -c 2 -W 1 {at_a}")[0] != 0
        assert "fa:16:3e" not in console.run("cat /proc/net/arp")[1]

    # A third host comes later.
    assert hosts.sends_to("h1") == {"198.51.100.2"}
    hosts.join("h3")
    c = hosts.on("h3", "c", hosts.private)
    hosts.everybody_has_an_address([c])
    for one in (a, b):
        assert hosts.pings(c, hosts.address(one)) and hosts.says_over_tcp(one, hosts.address(c))
    assert hosts.sends_to("h1") == {"198.51.100.2", "198.51.100.3"}

    # A host's process is killed: packets go on, and it comes back to the same.
    killed = hosts.cluster.processes["host@h1"]
    killed.kill()
    assert hosts.pings(b, at_a)
    killed.start()
    asyncio.run(killed.ready())
    assert hosts.pings(b, at_a) and hosts.says_over_tcp(c, at_a)
    assert hosts.sends_to("h1") == {"198.51.100.2", "198.51.100.3"}

    # The third one has no guest of the network any more: the others forget it.
    hosts.delete(c)
    until(lambda: "198.51.100.3" not in hosts.sends_to("h1") | hosts.sends_to("h2"), 10.0)
    assert hosts.pings(b, at_a)

    hosts.delete(a, b, stranger, x, y)
    for machine in hosts.machines.values():
        until(lambda each=machine: each.guests_left() in ([], _tunnels(each)), 20.0)  # type: ignore[misc]
    assert set().union(*(hosts.sends_to(name) for name in hosts.machines)) == set()


def _tunnels(machine: Machine) -> list[str]:
    """The switch's ports that are no guest's."""
    return [f"switch port {name}" for name in machine.switch_ports() if name.startswith("tun-")]
