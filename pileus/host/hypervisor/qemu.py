"""The QEMU hypervisor: one process a guest, paused until its network is wired, driven by its monitor.

Each guest has a folder (guestfolder.py), a numeric user id of its own and a session of its own, so guests outlive us and
are adopted by the next one. All calls on one guest are in order; calls on different guests do not wait for one another.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog

from pileus import settings
from pileus.errors import StartupError
from pileus.host import privileged
from pileus.host.hypervisor import Acceleration, Capacity, FoundGuest, HypervisorError, Images
from pileus.host.hypervisor.acceleration import Accelerator
from pileus.host.hypervisor.arguments import Opened, qemu_arguments
from pileus.host.hypervisor.guestfolder import GuestFolder, connect_unix, cut, listen_unix, open_fd, open_log, tail
from pileus.host.hypervisor.machine import machine_capacity, processes_of
from pileus.host.hypervisor.monitor import Exit, Guest
from pileus.host.switch import Tap
from pileus.messages import GuestSpec, PowerState

log = structlog.get_logger(__name__)

TRIM_INTERVAL = 5.0
"""Seconds between two looks at the size of the guests' logs."""

START_THREADS = 4
"""Threads that make disks and start processes; each start keeps one for about a millisecond."""


@dataclasses.dataclass
class _Slot:
    """What is known of one guest. `process` is None while it is stopped; `ending`: we asked for its end ourselves."""

    folder: GuestFolder
    lock: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    process: Guest | None = None
    watcher: asyncio.Task[None] | None = None
    ending: bool = False
    crashed: bool = False


class Qemu:
    """Implements `pileus.host.hypervisor.Hypervisor`; its docstrings are the contract."""

    def __init__(
        self,
        folder: Path,
        host: settings.Host,
        compute: settings.Compute,
        *,
        proof_guest: Callable[[], tuple[Path, Path] | None],
    ) -> None:
        """`folder` holds the guests. `proof_guest` gives kernel and ramdisk of a guest that says PILEUS-GUEST-READY."""
        self.on_exit: Callable[[str, PowerState, str], None] | None = None
        self._folder = folder
        self._host = host
        self._compute = compute
        self._slots: dict[str, _Slot] = {}
        self._uids: set[int] = set()
        self._next_uid = 0
        self._capacity: Capacity | None = None
        self._trimmer: asyncio.Task[None] | None = None
        self._chores: set[asyncio.Task[Any]] = set()
        self._threads = {
            "tcg": ThreadPoolExecutor(START_THREADS, "guest-start"),
            "kvm": ThreadPoolExecutor(START_THREADS, "guest-start-kvm", privileged.kvm_for_all_in_this_thread),
        }
        self._accelerator = Accelerator(folder, host, self._proof_spawn, proof_guest)

    async def start(self) -> None:
        self._capacity = await asyncio.to_thread(self._prepare)
        self._trimmer = asyncio.create_task(self._trim_for_ever())
        self._accelerator.start(self._capacity)

    def _prepare(self) -> Capacity:
        if os.geteuid() != 0:
            raise StartupError("real guests need root; start as root, or use --hypervisor simulated")
        for program in (self._host.guest_emulator, "setpriv"):
            if shutil.which(program) is None:
                raise StartupError(f"{program} is not installed; install it, or use --hypervisor simulated")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._uids |= {path.stat().st_gid for path in self._folder.iterdir() if path.is_dir()}
        self._uids |= privileged.user_ids_in_use()
        # Two clouds on one machine begin at different places, so that their guests share no user id.
        self._next_uid = self._folder.stat().st_ino % self._host.guest_uid_count
        return machine_capacity(self._folder, self._host.guest_emulator)

    async def close(self) -> None:
        tasks = [task for task in (self._trimmer, *(slot.watcher for slot in self._slots.values())) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, self._accelerator.close(), return_exceptions=True)
        await asyncio.gather(*self._chores, return_exceptions=True)
        await asyncio.gather(*(slot.process.close() for slot in self._slots.values() if slot.process))
        self._slots.clear()
        for threads in self._threads.values():
            await asyncio.to_thread(threads.shutdown)

    def capacity(self) -> Capacity:
        assert self._capacity is not None, "start() reads the capacity"
        return self._capacity

    def acceleration(self) -> Acceleration:
        return self._accelerator.current

    async def found(self) -> list[FoundGuest]:
        folders = await asyncio.to_thread(self._folders)
        pids = await asyncio.to_thread(processes_of, [folder.server_id for folder in folders])
        found = await asyncio.gather(*(self._adopt(folder, pids.get(folder.server_id)) for folder in folders))
        return [guest for guest in found if guest is not None]

    def _folders(self) -> list[GuestFolder]:
        return [GuestFolder(self._folder, path.name) for path in sorted(self._folder.iterdir()) if path.is_dir()]

    async def _adopt(self, folder: GuestFolder, pid: int | None) -> FoundGuest | None:
        slot = self._slots.setdefault(folder.server_id, _Slot(folder))
        async with slot.lock:
            spec = await asyncio.to_thread(folder.read_spec)
            if slot.process is None and pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    self._take_over(slot, Guest(pid, None, folder.monitor_socket))
            if spec is None:
                await self._remove(slot)
                return None
            power = await self._power(slot)
            if slot.process is not None and power in ("stopped", "crashed"):
                await self._end(slot)
            return FoundGuest(spec, await asyncio.to_thread(folder.read_generation), power)

    async def create(self, spec: GuestSpec, generation: int, images: Images, taps: Mapping[str, Tap]) -> None:
        slot = self._slots.setdefault(spec.server_id, _Slot(GuestFolder(self._folder, spec.server_id)))
        async with slot.lock:
            if slot.process is not None and slot.process.alive:
                return
            await self._await_end(slot)
            known = await asyncio.to_thread(slot.folder.read_spec) is not None
            try:
                await self._boot(slot, spec, generation, images, taps)
            except BaseException as error:
                await self._settle(self._end(slot) if known else self._remove(slot))
                if isinstance(error, OSError | BrokenExecutor | ValueError):
                    raise HypervisorError(f"the guest cannot be started: {_sentence(error)}") from None
                raise

    async def _boot(
        self, slot: _Slot, spec: GuestSpec, generation: int, images: Images, taps: Mapping[str, Tap]
    ) -> None:
        loop = asyncio.get_running_loop()
        acceleration = self._accelerator.current.name
        uid = await asyncio.to_thread(self._uid_of, slot.folder)
        job = loop.run_in_executor(
            self._threads[acceleration], self._launch, slot.folder, uid, spec, generation, images, taps, acceleration
        )
        child = await self._settle(job)
        process = Guest(child.pid, child, slot.folder.monitor_socket)
        self._take_over(slot, process)
        kept = loop.run_in_executor(None, slot.folder.keep)
        try:
            await process.connect(connect_unix(slot.folder.monitor_socket), self._compute.start_limit)
        except TimeoutError:
            raise HypervisorError(f"QEMU was not ready within {self._compute.start_limit:g} s") from None
        except HypervisorError as error:
            await process.kill()
            words = await asyncio.to_thread(slot.folder.last_words)
            raise HypervisorError(words or str(error)) from None
        finally:
            await self._settle(kept)
        slot.crashed = False
