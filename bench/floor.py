"""The floor of a real boot: TAP, `qemu -S` with the very arguments, disk, sandbox and uid of ours, port, flows, `cont`. Nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from pileus.host.hypervisor import Images
from pileus.host.hypervisor.guestfolder import GuestFolder, connect_unix
from pileus.host.hypervisor.launch import Boot, launch
from pileus.host.switch.daemons import stop_daemons
from pileus.host.switch.openvswitch import OpenVSwitch
from pileus.messages import BootSource, FixedIP, GuestSpec, ImageRef, PortWiring
from pileus.settings import Settings

UID = 1_999_000_000


@dataclass
class Floor:
    switch: OpenVSwitch
    guests: Path
    base: Path
    emulator: str
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))


@contextlib.asynccontextmanager
async def opened(folder: Path, settings: Settings) -> AsyncIterator[Floor]:
    """A switch and a blank base image of the floor's own."""
    guests, base = folder / "guests", folder / "blank"
    guests.mkdir(parents=True)
    base.write_bytes(bytes(1 << 20))
    switch = OpenVSwitch(folder / "switch", settings.host)
    await switch.start()
    try:
        yield Floor(switch, guests, base, settings.host.guest_emulator)
    finally:
        await switch.close()
        await stop_daemons(folder / "switch")


async def one(floor: Floor) -> float:
    """Seconds from nothing to a guest that runs on a wired port; it is removed afterwards."""
    taken, remove = await _boot(floor)
    await remove()
    return taken


async def several(floor: Floor, count: int) -> float:
    """Seconds until `count` at once run."""
    started = time.perf_counter()
    slots = asyncio.Semaphore(os.cpu_count() or 1)

    async def limited() -> Remove:
        async with slots:
            return (await _boot(floor))[1]

    removals = await asyncio.gather(*[limited() for _ in range(count)])
    taken = time.perf_counter() - started
    for remove in removals:
        await remove()
    return taken


class Remove:
    def __init__(self, floor: Floor, port: PortWiring, folder: GuestFolder, child: subprocess.Popen[bytes]) -> None:
        self._floor, self._port, self._folder, self._child = floor, port, folder, child

    async def __call__(self) -> None:
        self._child.kill()
        await asyncio.to_thread(self._child.wait)
        await self._floor.switch.unplug([self._port.port_id])
        await asyncio.to_thread(self._folder.remove)


async def _boot(floor: Floor) -> tuple[float, Remove]:
    number = next(floor.numbers)
    port = _port(number)
    spec = _spec(port)
    folder = GuestFolder(floor.guests, spec.server_id)
    started = time.perf_counter()
    tap = await floor.switch.open_tap(port.port_id, port.mtu)
    boot = Boot(spec, 1, Images(disk=floor.base, disk_format="raw"), {port.port_id: tap}, "tcg", durable=False)

    async def connect() -> None:
        await floor.switch.plug(port)
        await floor.switch.wire(port)

    child, _ = await asyncio.gather(asyncio.to_thread(launch, floor.emulator, folder, UID + number % 1000, boot), connect())
    os.close(tap.fd)
    monitor = connect_unix(folder.monitor_socket)
    monitor.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=monitor)
    await reader.readline()
    for command in ("qmp_capabilities", "cont"):
        writer.write(json.dumps({"execute": command}).encode())
        while "return" not in json.loads(await reader.readline()):
            pass
    taken = time.perf_counter() - started
    writer.close()
    return taken, Remove(floor, port, folder, child)


def _port(number: int) -> PortWiring:
    return PortWiring(
        port_id=str(uuid.uuid4()),
        generation=1,
        network_id="00000000-0000-0000-0000-00000000f100",
        network_type="local",
        physical_network=None,
        segmentation_id=None,
        mtu=1500,
        mac=f"fa:16:3e:ff:{number >> 8 & 255:02x}:{number & 255:02x}",
        fixed_ips=[FixedIP("floor", f"10.250.{number >> 8 & 255}.{number & 255}")],
        subnets=[],
    )


def _spec(port: PortWiring) -> GuestSpec:
    image = ImageRef(str(uuid.uuid4()), "raw", 1 << 20, "", 1 << 20)
    return GuestSpec(str(uuid.uuid4()), "floor", "floor", "p", 1, 128, 0, BootSource(image=image), [port])
