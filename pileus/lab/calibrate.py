"""What a real switch's steps take on this machine, so that simulated ones take as long.

The product's own switch driver (pileus/host/switch/openvswitch.py) on an Open vSwitch of its own, in a network namespace of its own; and
a statement on a PostgreSQL of its own. Medians. Kept with version and machine.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

import pileus
from pileus.errors import StartupError
from pileus.lab import switchend
from pileus.lab.janitor import swept

NAME = "calibration.json"
PORTS = 40
"""Ports that are measured, after a few that are not."""
WARM = 5
RULES = 60
"""Rules of a port with many flows."""
MEMBERS = 500
LIMIT = 120.0
SIMULATED = ("plug", "wire", "unplug", "delete_flow", "delete_flow_bundled", "add_member")
"""Fields that are settings of hollow hosts (`simulated.…`)."""


class Calibration(msgspec.Struct, frozen=True):
    """Seconds. `delete_flow`: of one flow by a call of its own; `delete_flow_bundled`: of one among others in a bundle; `add_member`: one
    address of a security group's set; `statement`: a database statement without any way between."""

    version: str
    made_at: float
    machine: dict[str, Any]
    switch: str
    plug: float
    wire: float
    unplug: float
    delete_flow: float
    delete_flow_bundled: float
    add_member: float
    statement: float

    def simulated(self) -> dict[str, float]:
        """The settings of hollow hosts' switches."""
        return {name: getattr(self, name) for name in SIMULATED}

    def flows_of_port(self, flows: int) -> dict[str, float]:
        """How long the removal of a port with so many flows takes, by `network.flow_deletion`."""
        bundled = self.unplug + flows * self.delete_flow_bundled
        return {"blocking": self.unplug + flows * self.delete_flow, "bundled": bundled, "deferred": bundled}

    def words(self) -> str:
        day = time.strftime("%Y-%m-%d", time.gmtime(self.made_at))
        return (
            f"{self.switch}, Pileus {self.version}, {day}, {self.machine.get('cores', '?')} cores: plug {self.plug * 1000:.2f} ms, wire "
            f"{self.wire * 1000:.2f}, unplug {self.unplug * 1000:.2f}, a flow deleted by itself {self.delete_flow * 1000:.3f} and in a "
            f"bundle {self.delete_flow_bundled * 1000:.4f}, a member {self.add_member * 1000:.3f}"
        )


def place() -> Path:
    """Where this user's calibration is kept."""
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "pileus" / NAME


def load(file: Path | None = None) -> Calibration:
    """The one in the file, else this user's, else the one that came with this Pileus. Raises StartupError."""
    try:
        if file is not None:
            return _decode(file.read_bytes())
        if place().is_file():
            return _decode(place().read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise StartupError(f"calibration {file or place()}: {error}; make a new one with `pileus lab calibrate`") from None
    return shipped()


def shipped() -> Calibration:
    """Made on another machine; its version and machine are in it."""
    return _decode((resources.files("pileus.lab") / NAME).read_bytes())


def save(found: Calibration, file: Path) -> None:
    """Raises StartupError."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    except OSError as error:
        raise StartupError(f"{file}: {error.strerror}") from None


def _decode(data: bytes) -> Calibration:
    return msgspec.json.decode(data, type=Calibration)


async def measure(machine: dict[str, Any], tell: Callable[[str], None], *, ports: int = PORTS) -> Calibration:
    """Needs root, Open vSwitch and PostgreSQL. Raises StartupError."""
    from pileus.hosts import missing_for_real
    from pileus.settings import Settings

    missing = missing_for_real(Settings())
    if missing is not None:
        raise StartupError(f"a real switch cannot be measured here: {missing}")
    with swept(
        memory=False, ending=lambda folder: switchend.command(folder / "switch")
    ) as folder:  # a database on a disk, as hosts have it
        tell("Open vSwitch: ports, flows, members")
        async with asyncio.timeout(LIMIT):
            steps = await _switch(folder / "switch", ports)
    tell("PostgreSQL: statements")
    statement = await _statement()
    return Calibration(
        version=pileus.__version__, made_at=time.time(), machine=machine, switch=await _version(), statement=statement, **steps
    )


async def _switch(folder: Path, count: int) -> dict[str, float]:
    from pileus.host.switch.daemons import stop_daemons
    from pileus.host.switch.openvswitch import OpenVSwitch
    from pileus.settings import Host

    switch = OpenVSwitch(folder, Host())
    try:
        await switch.start()
        return await _steps(switch, count, folder)
    finally:
        await switch.close()
        await stop_daemons(folder)


async def _steps(switch: Any, count: int, folder: Path) -> dict[str, float]:
    from pileus.host.switch import Filter
    from pileus.messages import SecurityRule

    few = Filter()
    many = Filter(rules=tuple(SecurityRule("ingress", 4, 6, port, port) for port in range(1000, 1000 + RULES)))
    plugs, wires = [], []
    ids = [_port(number).port_id for number in range(WARM + 4 * count)]
    warm, rest = ids[:WARM], ids[WARM:]
    for number in range(len(ids)):
        port, heavy = _port(number), number >= WARM + 3 * count
        os.close((await switch.open_tap(port.port_id, port.mtu)).fd)
        plugs.append(await _timed(switch.plug(port)))
        taken = await _timed(switch.wire(port, many if heavy else few))
        if not heavy:
            wires.append(taken)
    before = await _flows(folder)
    blocking, bundled = [], []
    for number in range(count):  # in turns, so that whatever else the machine does is in both
        blocking.append(await _timed(switch.unplug([rest[number]], deletion="blocking")))
        bundled.append(await _timed(switch.unplug([rest[count + number]], deletion="bundled")))
    flows = (before - (between := await _flows(folder))) / (2 * count)
    light_s = await _timed(switch.unplug(rest[2 * count : 3 * count], deletion="bundled"))
    light = between - (between := await _flows(folder))
    heavy_s = await _timed(switch.unplug(rest[3 * count :], deletion="bundled"))
    more = between - await _flows(folder) - light
    await switch.unplug(warm)
    a_flow = max(0.0, (heavy_s - light_s) / max(1, more))
    one, other = statistics.median(bundled), statistics.median(blocking)
    return {
        "plug": statistics.median(plugs[WARM:]),
        "wire": statistics.median(wires[WARM:]),
        "unplug": max(0.0, one - a_flow * flows),
        "delete_flow": max(0.0, other - one) / max(1.0, flows) + a_flow,
        "delete_flow_bundled": a_flow,
        "add_member": await _member(switch),
    }


async def _member(switch: Any) -> float:
    from pileus.host.switch import Filter
    from pileus.messages import SecurityRule

    set_id, port = str(uuid.uuid4()), _port(9999)
    os.close((await switch.open_tap(port.port_id, port.mtu)).fd)
    await switch.plug(port)
    await switch.address_set(set_id, [])
    await switch.wire(port, Filter(rules=(SecurityRule("ingress", 4, remote_set=set_id),)))
    addresses = [f"10.{number >> 8 & 255}.{number & 255}.7" for number in range(MEMBERS)]
    taken = await _timed(switch.address_set(set_id, addresses))
    await switch.unplug([port.port_id])
    await switch.drop_sets([set_id])
    return taken / MEMBERS


def _port(number: int) -> Any:
    from pileus.messages import FixedIP, PortWiring

    network = uuid.uuid5(uuid.NAMESPACE_DNS, "calibrate")
    return PortWiring(
        port_id=str(uuid.uuid5(network, str(number))),
        generation=1,
        network_id=str(network),
        network_type="local",
        physical_network=None,
        segmentation_id=None,
        mtu=1450,
        mac=f"fa:16:3e:00:{number >> 8 & 255:02x}:{number & 255:02x}",
        fixed_ips=[FixedIP(str(network), f"10.99.{number >> 8 & 255}.{number & 255}")],
        subnets=[],
        allowed_pairs=[],
        port_security=True,
        admin_up=True,
        dns_name="",
    )


async def _timed(work: Awaitable[object]) -> float:
    begun = time.perf_counter()
    await work
    return time.perf_counter() - begun


async def _flows(folder: Path) -> int:
    told = await _said("ovs-ofctl", "-OOpenFlow15", "dump-flows", f"unix:{folder}/br-int.mgmt")
    return sum("cookie=" in line for line in told.splitlines())


async def _version() -> str:
    return (await _said("ovs-vswitchd", "--version")).splitlines()[0]


async def _said(*words: str) -> str:
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL)
    async with asyncio.timeout(30):
        said, _ = await process.communicate()
    return said.decode(errors="replace")


async def _statement() -> float:
    import subprocess
    import sys

    from pileus.lab.costs import statement_seconds
    from pileus.lab.postgresql import PostgresServer
    from pileus.lab.processes import environment

    server = PostgresServer(tied=True)
    server.start()
    try:
        await server.execute("CREATE DATABASE calibrate OWNER pileus")
        url = server.url("calibrate")
        command: Sequence[str] = [sys.executable, "-m", "pileus", "db", "upgrade"]
        done = await asyncio.to_thread(subprocess.run, command, env=environment({"database.url": url}), capture_output=True, timeout=60)
        if done.returncode:
            raise StartupError(f"db upgrade: {done.stderr.decode(errors='replace')}")
        return await statement_seconds(url)
    finally:
        server.stop()
