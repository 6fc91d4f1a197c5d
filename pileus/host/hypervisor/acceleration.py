"""Which accelerator guests get: KVM where it is proven to carry a real kernel to userspace, else TCG.

That /dev/kvm opens proves little: inside some virtual machines firmware runs on it and every real kernel dies. So a tiny
guest is booted in the background, and until it has reported from its userspace, guests run on TCG. The result is kept for
the same host kernel, QEMU and CPU.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec

from pileus import settings
from pileus.errors import StartupError
from pileus.host.hypervisor import Acceleration, Capacity, HypervisorError

READY = b"PILEUS-GUEST-READY"
"""What the proof guest prints on its serial console when it has reached userspace."""

PROOF_LIMIT = 10.0
"""Seconds that the proof guest may take; on a good KVM it takes less than one."""

KVM = Path("/dev/kvm")

BootProof = Callable[[Path, Path], AbstractAsyncContextManager[asyncio.StreamReader]]
"""Boots kernel and ramdisk on KVM while the context is open; gives the serial console, from its first byte on."""


class Proof(msgspec.Struct, frozen=True):
    """A proof's result and what it holds for."""

    key: str
    proven: bool
    reason: str


class Accelerator:
    """Chooses, and proves KVM in the background. `current` is right at any moment."""

    def __init__(self, folder: Path, host: settings.Host, boot: BootProof, proof_guest: Callable[[], tuple[Path, Path] | None]) -> None:
        self._host = host
        self._file = folder / ".acceleration.json"
        self._boot = boot
        self._proof_guest = proof_guest
        self._task: asyncio.Task[None] | None = None
        self.current = Acceleration("tcg", "KVM is not proven yet")

    async def start(self, capacity: Capacity) -> None:
        """Choose what can be chosen at once; begin the proof where one is needed. Raises StartupError."""
        openable, why = await asyncio.to_thread(_kvm_opens)
        if self._host.acceleration == "tcg":
            self.current = Acceleration("tcg", "the setting host.acceleration says so")
        elif self._host.acceleration == "kvm":
            if not openable:
                raise StartupError(f"host.acceleration is kvm, but {why}; set it to auto or tcg")
            self.current = Acceleration("kvm", "the setting host.acceleration says so")
        elif not openable:
            self.current = Acceleration("tcg", why)
        else:
            self.current = Acceleration("tcg", "KVM is being proven by booting a small guest")
            self._task = asyncio.create_task(self._prove(proof_key(capacity)))

    async def settled(self) -> None:
        """Wait until the proof, if one is under way, has its result."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _prove(self, key: str) -> None:
        kept = await asyncio.to_thread(self._kept, key)
        if kept is not None:
            self.current = self._verdict(kept)
            return
        guest = await asyncio.to_thread(self._proof_guest)
        if guest is None:
            self.current = Acceleration("tcg", "KVM is not proven: the small guest that proves it is not on this machine")
            return
        proof = Proof(key, *await self._try(*guest))
        self.current = self._verdict(proof)
        with contextlib.suppress(OSError):  # one that cannot be kept is made again at the next start
            await asyncio.to_thread(self._keep, proof)

    async def _try(self, kernel: Path, ramdisk: Path) -> tuple[bool, str]:
        try:
            async with asyncio.timeout(PROOF_LIMIT), self._boot(kernel, ramdisk) as console:
                await console.readuntil(READY)
        except (TimeoutError, asyncio.LimitOverrunError):
            return False, f"on KVM a small guest did not reach userspace within {PROOF_LIMIT:g} s"
        except asyncio.IncompleteReadError:
            return False, "on KVM a small guest died before it reached userspace"
        except (HypervisorError, OSError) as error:
            return False, f"on KVM a small guest did not start: {error}"
        return True, "KVM has carried a small guest to userspace"

    def _kept(self, key: str) -> Proof | None:
        try:
            proof = msgspec.json.decode(self._file.read_bytes(), type=Proof)
        except (OSError, msgspec.MsgspecError):
            return None
        return proof if proof.key == key else None

    def _verdict(self, proof: Proof) -> Acceleration:
        if proof.proven:
            return Acceleration("kvm", proof.reason)
        return Acceleration("tcg", f"{proof.reason} (remove {self._file} to have it tried again)")

    def _keep(self, proof: Proof) -> None:
        new = self._file.with_name(self._file.name + ".new")
        new.write_bytes(msgspec.json.encode(proof))
        new.replace(self._file)


def proof_key(capacity: Capacity) -> str:
    """What a proof holds for: this host kernel, this QEMU, this CPU."""
    kernel = os.uname()
    return " / ".join([kernel.release, kernel.version, str(capacity.version), capacity.cpu_info.get("model", "")])


def _kvm_opens() -> tuple[bool, str]:
    try:
        os.close(os.open(KVM, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return False, "this machine has no /dev/kvm"
    except OSError as error:
        return False, f"/dev/kvm does not open: {error.strerror}"
    return True, ""
