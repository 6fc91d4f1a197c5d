"""Real hosts: what is on the machine, read from the machine, against what is written down."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from pileus import tinyguest
from pileus.host.privileged import tap_name
from pileus.host.switch.tables import NETWORK_KIND, PORT_KIND, cookie, kind_of
from tests.chaos.faults import Scene
from tests.chaos.load import Load
from tests.chaos.truth import Told
from tests.engines.cluster import LIMIT, Cluster
from tests.host.switch.underlays import Underlay
from tests.real.machine import Machine
from tests.real.rig import command

BOOT_LIMIT = 60.0


async def machines(cluster: Cluster, stack: AsyncExitStack) -> dict[str, Machine]:
    """The hosts h1 and h2 with an underlay between them; when the stack ends, nothing of them is left on the machine."""
    underlay = Underlay()
    stack.callback(underlay.close)
    found: dict[str, Machine] = {}
    for number, roles in enumerate((("host@h1",), ("host/compute@h2", "host/network@h2")), 1):
        device = underlay.device()
        for role in roles:
            cluster.place("host.tunnel_address", f"198.51.100.{number}/24", only=role)
            cluster.place("host.tunnel_device", device, only=role)
        found[f"h{number}"] = Machine(cluster.folder / f"host@h{number}")
    stack.push_async_callback(_take_all_down, cluster, {"host@h1": found["h1"], "host/compute@h2": found["h2"]})
    return found


async def _take_all_down(cluster: Cluster, machines: Mapping[str, Machine]) -> None:
    """Raises AssertionError where something stays, when none is worked on any more."""
    works = [asyncio.to_thread(take_down, cluster, role, machine) for role, machine in machines.items()]
    for outcome in await asyncio.gather(*works, return_exceptions=True):
        if outcome is not None:
            raise outcome


def take_down(cluster: Cluster, role: str, machine: Machine) -> None:
    """Remove all that a host has on the machine. Raises AssertionError where something stays."""
    arguments = command("down", "--guests", "--state", str(machine.state))
    done = subprocess.run(arguments, env=cluster.environ(role), capture_output=True, text=True, timeout=120, check=False)
    left = machine.everything_left()
    machine.force_away()
    assert (done.returncode, left) == (0, []), f"{machine.state.name}: {left}\n{done.stdout}{done.stderr}"


async def lies(scene: Scene, told: Told) -> dict[str, Any]:
    wrong: dict[str, Any] = {}
    for host, machine in scene.machines.items():
        for what, (here, there) in (await asyncio.to_thread(compared, machine, host, told)).items():
            if here != there:
                wrong[f"{what} of {host}: on the machine, and written down"] = (sorted(here - there), sorted(there - here))
    return wrong


def compared(machine: Machine, host: str, told: Told) -> dict[str, tuple[set[Any], set[Any]]]:
    """What there is of each kind, and what there must be."""
    guests, networks, loose = told.guests(host), told.networks(host), told.loose()
    unsure = {server for server, (_, power) in guests.items() if power == "error"}
    ports = set(told.ports(host))
    running = {server for server, (_, power) in guests.items() if power == "running"}
    processes = [(server, len(machine.qemus(server))) for server in {*guests, *machine.guest_folders()} - unsure]
    cookies = {int(found[1], 16) for flow in machine.flows() if (found := re.search(r"cookie=(0x[0-9a-f]+)", flow))}
    taps, loose_taps = {tap_name(port) for port in ports}, {tap_name(port) for port in loose}
    loose_cookies = {cookie(PORT_KIND, port) for port in loose}
    # A port that is wired here, rightly or not, has its network here.
    strays = {network for port, network in loose.items() if cookie(PORT_KIND, port) in cookies} - networks

    def servers(what: str, count: int) -> tuple[set[Any], set[Any]]:
        return {(what, count)}, {(what, min(max(count, len(networks)), len(networks | strays)))}

    return {
        "processes": ({(server, count) for server, count in processes if count}, {(server, 1) for server in running}),
        "guest folders": (set(machine.guest_folders()) - unsure, set(guests) - unsure),
        "TAPs": (set(machine.taps()) - loose_taps, taps),
        "switch ports": ({name for name in machine.switch_ports() if name.startswith("tap")} - loose_taps, taps),
        "flows of ports": (
            {one for one in cookies if kind_of(one) == PORT_KIND} - loose_cookies,
            {cookie(PORT_KIND, port) for port in ports},
        ),
        "flows of networks": (
            {one for one in cookies if kind_of(one) == NETWORK_KIND} - {cookie(NETWORK_KIND, network) for network in strays},
            {cookie(NETWORK_KIND, network) for network in networks},
        ),
        "DHCP entries": ({file.name.split(".")[0] for file in machine.state.glob("dhcp/*/hosts/*.*")} - loose.keys(), ports),
        "DHCP servers": servers("dnsmasq", len(machine.dnsmasq())),
        "DHCP namespaces": servers("namespaces", len(machine.dhcp_namespaces())),
    }


async def guests_have_addresses(scene: Scene, load: Load) -> dict[str, Any]:
    """After all that, a guest that boots on each host has its address by DHCP."""
    guest = await asyncio.to_thread(tinyguest.build, tinyguest.default_folder())
    kernel = await _upload(load, "kernel", "aki", guest.kernel)
    ramdisk = await _upload(load, "ramdisk", "ari", guest.ramdisk)
    names = {"kernel_id": kernel, "ramdisk_id": ramdisk, "os_command_line": tinyguest.COMMAND_LINE}
    image = await _upload(load, "tiny", "ami", None, **names)
    made = {host: await load.create_on(host, image) for host in scene.machines}
    return {
        f"the guest on {host} has no address": said for host, server in made.items() if (said := await _console(load, server)) is not None
    }


async def _console(load: Load, server: str) -> str | None:
    """None when it has its address; else what it said."""
    body: Mapping[str, Any] = {"os-getConsoleOutput": {}}
    said, loop = "", asyncio.get_running_loop()
    ends = loop.time() + BOOT_LIMIT
    while loop.time() < ends:
        try:
            said = str((await load.ask("POST", f"/compute/v2.1/servers/{server}/action", body))["output"])
        except RuntimeError as error:
            said = str(error)
        if f"{tinyguest.ADDRESS} eth0 " in said:
            return None
        await asyncio.sleep(0.2)
    return said[-1000:]


async def _upload(load: Load, name: str, disk_format: str, file: Path | None, **properties: str) -> str:
    body = {"name": name, "disk_format": disk_format, "container_format": disk_format, **properties}
    image = str((await load.ask("POST", "/image/v2/images", body))["id"])
    data = await asyncio.to_thread(file.read_bytes) if file else bytes(1 << 20)
    await load.upload(f"/image/v2/images/{image}/file", data, LIMIT)
    return image
