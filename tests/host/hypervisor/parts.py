"""What the hypervisor's tests share: a kernel of 159 bytes, specs, and one harness for each implementation."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from pileus import settings
from pileus.host.hypervisor import Hypervisor, Images
from pileus.host.hypervisor.guestfolder import connect_unix
from pileus.host.hypervisor.machine import processes_of
from pileus.host.hypervisor.qemu import Qemu
from pileus.host.hypervisor.simulated import SimulatedHypervisor
from pileus.messages import BootSource, GuestSpec

READY = "PILEUS-GUEST-READY"

TINY_KERNEL = bytes.fromhex(
    "02b0ad1b00000100fe4f51e4000010000000100000000000000000002000100066ba020666b80001"
    "66efbe8a001000ac84c0740766baf803eeebf466ba000666edf6c401751a66bafd03eca80174ec66"
    "baf803ec3c7274143c6674193c7075db66ba040666b8002066efebcf66baf90cb006eeebc6b9a086"
    "010066baf803b066eee2fdbe8a001000eba550494c4555532d47554553542d52454144590d0a00"
)
"""A multiboot kernel (i386): arms the ACPI power button, prints READY on ttyS0, and then polls.

Power button pressed, or `p` typed: out 0x604, 0x2000 (power off). `r`: out 0xcf9, 6 (reset). `f`: 100,000 × `f` on ttyS0 and
READY again.
"""


def guest(**changes: Any) -> GuestSpec:
    """A guest of 64 MiB with a blank disk; without a kernel its firmware finds nothing to boot and idles."""
    spec: dict[str, Any] = {
        "server_id": str(uuid.uuid4()),
        "name": "one",
        "hostname": "one",
        "project_id": "p",
        "vcpus": 1,
        "memory_mb": 64,
        "disk_gb": 1,
        "boot": BootSource(),
        "ports": [],
    }
    return GuestSpec(**{**spec, **changes})


def tiny_kernel(folder: Path) -> Path:
    path = folder / "tiny-kernel"
    path.write_bytes(TINY_KERNEL)
    path.chmod(0o644)
    return path


async def until(true: Callable[[], Awaitable[bool]], limit: float = 20.0) -> float:
    """Wait for something to be so; how many seconds it took."""
    start = time.monotonic()
    async with asyncio.timeout(limit):
        while not await true():
            await asyncio.sleep(0.01)
    return time.monotonic() - start


class Harness(Protocol):
    """One implementation, as the contract's tests drive it."""

    images: Images

    def make(self) -> Hypervisor:
        """A hypervisor on the same machine as the one before it."""

    async def booted(self, hypervisor: Hypervisor, server_id: str) -> None:
        """Wait until a resumed guest has booted."""

    async def kill(self, hypervisor: Hypervisor, server_id: str) -> None:
        """The guest's process dies."""

    async def shut_down(self, hypervisor: Hypervisor, server_id: str) -> None:
        """The guest powers itself off."""

    def leftovers(self) -> list[str]:
        """What there is of guests."""


class SimulatedHarness:
    images = Images()

    def __init__(self) -> None:
        self.hypervisor: SimulatedHypervisor | None = None

    def make(self) -> SimulatedHypervisor:
        world = self.hypervisor.world if self.hypervisor else None
        self.hypervisor = SimulatedHypervisor(settings.Simulated(start=0.01, stop=0.01), world=world)
        return self.hypervisor

    async def booted(self, hypervisor: Hypervisor, server_id: str) -> None:
        assert "login:" in await hypervisor.console(server_id, None)

    async def kill(self, hypervisor: Hypervisor, server_id: str) -> None:
        assert isinstance(hypervisor, SimulatedHypervisor)
        hypervisor.kill(server_id)

    async def shut_down(self, hypervisor: Hypervisor, server_id: str) -> None:
        assert isinstance(hypervisor, SimulatedHypervisor)
        hypervisor.kill(server_id, "stopped", "the guest shut itself down")

    def leftovers(self) -> list[str]:
        return list(self.hypervisor.world.guests) if self.hypervisor else []


class QemuHarness:
    """Real guests under `folder`. `shutdown_timeout` is short: the tiny kernel powers off at once, firmware never."""

    def __init__(self, folder: Path, **host: Any) -> None:
        self.folder = folder / "guests"
        self.images = Images(kernel=tiny_kernel(folder))
        self.host = settings.Host(**{"acceleration": "tcg", **host})
        self.compute = settings.Compute(shutdown_timeout=5.0)
        self.proof_guest: tuple[Path, Path] | None = None

    def make(self) -> Qemu:
        return Qemu(self.folder, self.host, self.compute, proof_guest=lambda: self.proof_guest)

    async def booted(self, hypervisor: Hypervisor, server_id: str) -> None:
        async def ready() -> bool:
            return READY in await hypervisor.console(server_id, None)

        await until(ready)

    async def kill(self, hypervisor: Hypervisor, server_id: str) -> None:
        os.kill(pid_of(server_id), 9)

    async def shut_down(self, hypervisor: Hypervisor, server_id: str) -> None:
        await type_in(hypervisor, server_id, b"p")

    def leftovers(self) -> list[str]:
        return [path.name for path in self.folder.iterdir() if not path.name.startswith(".")]

    def end_all(self) -> None:
        """What a failed test has left running."""
        if self.folder.exists():
            for pid in processes_of(self.leftovers()).values():
                os.kill(pid, 9)


def pid_of(server_id: str) -> int:
    return processes_of([server_id])[server_id]


async def type_in(hypervisor: Hypervisor, server_id: str, text: bytes) -> None:
    """Type on a guest's serial console."""
    path = hypervisor.console_socket(server_id)
    assert path is not None
    with contextlib.closing(connect_unix(path)) as connection:
        await asyncio.get_running_loop().sock_sendall(connection, text)
