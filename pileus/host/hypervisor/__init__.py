"""The hypervisor seam: what a host asks of whatever runs its guests. Implementations: `qemu`, `simulated`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pileus.host.switch import Tap
from pileus.messages import GuestSpec, PowerState


class HypervisorError(Exception):
    """A guest could not be made or changed. The text names the cause in one line; it ends up in the server's fault."""


@dataclass(frozen=True)
class Acceleration:
    """`name` is kvm, tcg or simulated; `reason` says in a sentence why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Capacity:
    """What the hypervisor can give to guests. Memory in MiB, disk in GiB. `version` is a number as Nova shows it (7002000)."""

    type: str
    version: int
    vcpus: int
    memory_mb: int
    disk_gb: int
    cpu_info: Mapping[str, str]


@dataclass(frozen=True)
class Images:
    """Local, verified, read-only files that a guest starts from (the host's image cache prepared them). None: not used."""

    disk: Path | None = None
    disk_format: str = "raw"
    kernel: Path | None = None
    ramdisk: Path | None = None


@dataclass(frozen=True)
class FoundGuest:
    """A guest met at start-up: its folder holds the spec it was made from and the generation it had reached."""

    spec: GuestSpec
    generation: int
    power: PowerState


class Hypervisor(Protocol):
    """Every call is idempotent and safe to cancel; a call that fails leaves nothing of its own behind.

    A guest is known by its server id. `on_exit` is called (from the event loop) when a guest that should run ends by itself:
    with the power state ("stopped": it shut itself down, "crashed": it died) and a cause in words.
    """

    on_exit: Callable[[str, PowerState, str], None] | None

    async def start(self) -> None:
        """Check what is needed and become ready. Raises StartupError in one line. Never waits for acceleration's proof."""

    async def close(self) -> None:
        """Let go of everything; guests go on running."""

    def capacity(self) -> Capacity: ...

    def acceleration(self) -> Acceleration: ...

    async def found(self) -> list[FoundGuest]:
        """All guests whose folder exists (running or not), connections to the running ones re-established. Half-made ones
        (no readable spec) are removed."""

    async def create(self, spec: GuestSpec, generation: int, images: Images, taps: Mapping[str, Tap]) -> None:
        """Make the guest's disk and start it paused. `taps` by port id; their fds stay the caller's to close. An existing
        stopped guest is started paused again on its own disk. A guest that is already there paused or running: nothing.
        Raises HypervisorError."""

    async def resume(self, server_id: str) -> None: ...

    async def pause(self, server_id: str) -> None: ...

    async def stop(self, server_id: str, *, hard: bool) -> None:
        """End the guest process, keep the disk. Soft: ask by ACPI, after a configured patience end it."""

    async def reset(self, server_id: str, *, hard: bool) -> bool:
        """Reboot in place. True when done; False where the process must be made anew (it does not run, or did not
        shut down in time). Unknown guest: HypervisorError."""

    async def destroy(self, server_id: str) -> None:
        """End the process and remove every trace of the guest. Unknown guest: nothing."""

    async def set_generation(self, server_id: str, generation: int) -> None:
        """Note durably which generation the guest has reached."""

    async def power(self, server_id: str) -> PowerState: ...

    async def console(self, server_id: str, lines: int | None) -> str:
        """The end of the serial log (all that is kept when None). Unknown guest: empty."""

    def console_socket(self, server_id: str) -> Path | None:
        """The unix socket of the interactive serial console; None where there is none."""
