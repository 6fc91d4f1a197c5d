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
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from pathlib import Path

import structlog

from pileus import settings
from pileus.errors import StartupError
from pileus.host import privileged
from pileus.host.chores import Chores
from pileus.host.hypervisor import Acceleration, Capacity, FoundGuest, HypervisorError, Images
from pileus.host.hypervisor.acceleration import Accelerator
from pileus.host.hypervisor.guestfolder import GuestFolder, connect_unix, cut, tail
from pileus.host.hypervisor.launch import Boot, in_words, launch
from pileus.host.hypervisor.machine import machine_capacity, processes_of, user_ids_in_use
from pileus.host.hypervisor.monitor import LAST_EVENTS_LIMIT, Guest
from pileus.host.hypervisor.userids import UserIds
from pileus.host.switch import Tap
from pileus.messages import BootSource, GuestSpec, PowerState

log = structlog.get_logger(__name__)

TRIM_INTERVAL = 5.0
"""Seconds between two looks at the size of the guests' logs."""

PROOF_MEMORY_MB = 128

START_THREADS = 4
"""Threads that make disks and start processes; each start keeps one for about a millisecond."""


@dataclasses.dataclass
class _Slot:
    """What is known of one guest. `whole`: it was made, or found; `process` is None while it is stopped; `ending`: we
    asked for its end ourselves."""

    folder: GuestFolder
    whole: bool = False
    lock: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    process: Guest | None = None
    watcher: asyncio.Task[None] | None = None
    ending: bool = False
    crashed: bool = False


class Qemu:
    """Implements `pileus.host.hypervisor.Hypervisor`; its docstrings are the contract.

    To end guests (`found`, `stop`, `destroy`) it need not be started.
    """

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
        self._uids = UserIds(host.guest_uid_base, host.guest_uid_count)
        self._capacity: Capacity | None = None
        self._trimmer: asyncio.Task[None] | None = None
        self._chores = Chores()
        self._proof_id = str(uuid.uuid4())
        self._threads = {
            "tcg": ThreadPoolExecutor(START_THREADS, "guest-start"),
            "kvm": ThreadPoolExecutor(START_THREADS, "guest-start-kvm", privileged.kvm_for_all_in_this_thread),
        }
        self._accelerator = Accelerator(folder, host, self._boot_proof, proof_guest)

    async def start(self) -> None:
        self._capacity = await asyncio.to_thread(self._prepare)
        self._trimmer = asyncio.create_task(self._trim_for_ever())
        await self._accelerator.start(self._capacity)

    def _prepare(self) -> Capacity:
        if os.geteuid() != 0:
            raise StartupError("real guests need root; start as root, or use --hypervisor simulated")
        for program in (self._host.guest_emulator, "setpriv"):
            if shutil.which(program) is None:
                raise StartupError(f"{program} is not installed; install it, or use --hypervisor simulated")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        taken = {folder.uid() for folder in self._folders()} | user_ids_in_use()
        self._uids.begin(taken, place=self._folder.stat().st_ino)
        return machine_capacity(self._folder, self._host.guest_emulator)

    async def close(self) -> None:
        tasks = [task for task in (self._trimmer, *(slot.watcher for slot in self._slots.values())) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, self._accelerator.close(), return_exceptions=True)
        await self._chores.close()
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
        folders = [folder for folder in await asyncio.to_thread(self._folders) if folder.server_id != self._proof_id]
        pids = await asyncio.to_thread(processes_of, [folder.server_id for folder in folders], self._folder)
        found = await asyncio.gather(*(self._adopt(folder, pids.get(folder.server_id)) for folder in folders))
        return [guest for guest in found if guest is not None]

    async def create(self, spec: GuestSpec, generation: int, images: Images, taps: Mapping[str, Tap]) -> None:
        async with self._locked(spec.server_id, make=True) as slot:
            assert slot is not None
            await self._start_paused(slot, Boot(spec, generation, images, taps, self._accelerator.current.name))

    async def resume(self, server_id: str) -> None:
        async with self._running(server_id) as process:
            await process.resume()

    async def pause(self, server_id: str) -> None:
        async with self._running(server_id) as process:
            await process.command("stop")

    async def stop(self, server_id: str, *, hard: bool) -> None:
        if not hard:
            try:
                await self._power_off(server_id)
            except HypervisorError as error:
                log.warning("guest cannot be asked to power off, it is ended", server=server_id, error=str(error))
        async with self._locked(server_id) as slot:
            if slot is not None:
                await self._chores.settle(self._end(slot))
                slot.crashed = False

    async def reset(self, server_id: str, *, hard: bool) -> bool:
        """A soft reset keeps the process: the guest powers off, QEMU holds it halted and resets it. False for a guest that
        does not run, cannot power off because it is paused, or does not do so in time: it is left as it is."""
        async with self._locked(server_id) as slot:
            if slot is None:
                raise HypervisorError(f"guest {server_id} is not on this host")
            process = slot.process
            if process is None or (not hard and await process.power() != "running"):
                return False
        if not hard and not await process.halt(self._compute.shutdown_timeout):
            return False
        async with self._locked(server_id) as slot:
            if slot is None or slot.process is not process:
                return False
            await process.command("system_reset")
            await process.resume()
            return True

    async def destroy(self, server_id: str) -> None:
        async with self._locked(server_id) as slot:
            if slot is not None:
                await self._chores.settle(self._remove(slot))

    async def set_generation(self, server_id: str, generation: int) -> None:
        async with self._locked(server_id) as slot:
            if slot is None:
                raise HypervisorError(f"guest {server_id} is not on this host")
            await asyncio.to_thread(slot.folder.write_generation, generation)

    async def power(self, server_id: str) -> PowerState:
        slot = self._slots.get(server_id)
        return "absent" if slot is None else await self._power(slot)

    async def console(self, server_id: str, lines: int | None) -> str:
        slot = self._slots.get(server_id)
        if slot is None:
            return ""
        text = await asyncio.to_thread(tail, slot.folder.console, self._host.console_cap)
        return text if lines is None else "".join(text.splitlines(keepends=True)[-lines:] if lines > 0 else [])

    def console_socket(self, server_id: str) -> Path | None:
        slot = self._slots.get(server_id)
        return slot.folder.console_socket if slot is not None and slot.process is not None else None

    async def trim_logs(self) -> None:
        """Cut every guest's logs to the size that is kept."""
        folders = [slot.folder for slot in self._slots.values()]
        for path in [path for folder in folders for path in (folder.console, folder.output)]:
            await asyncio.to_thread(cut, path, self._host.console_cap)

    async def acceleration_settled(self) -> None:
        """Wait until `acceleration()` is final."""
        await self._accelerator.settled()

    # --- one guest's process: all of these are called with its lock held ---

    async def _start_paused(self, slot: _Slot, boot: Boot) -> None:
        if slot.process is not None and slot.process.alive:
            return
        await self._end(slot)
        known, uid = await asyncio.to_thread(slot.folder.look)
        uid = uid or self._uids.take()
        try:
            slot.ending = True
            await self._chores.settle(self._spawn(slot, uid, boot))
            await self._wait_for_monitor(slot)
        except BaseException as error:
            await self._chores.settle(self._end(slot) if known else self._remove(slot, uid))
            if isinstance(error, OSError | BrokenExecutor | ValueError):
                log.warning("guest cannot be started", server=slot.folder.server_id, error=repr(error))
                raise HypervisorError(f"the guest cannot be started: {in_words(error)}") from None
            raise
        slot.ending = slot.crashed = False
        slot.whole = True

    async def _spawn(self, slot: _Slot, uid: int, boot: Boot) -> None:
        threads = self._threads[boot.acceleration]
        job = asyncio.get_running_loop().run_in_executor(threads, launch, self._host.guest_emulator, slot.folder, uid, boot)
        child = await job
        self._take_over(slot, Guest(child.pid, child, slot.folder.monitor_socket))

    async def _wait_for_monitor(self, slot: _Slot) -> None:
        """The spec goes to the disk itself meanwhile: QEMU takes longer than that."""
        process, limit = slot.process, self._compute.start_limit
        assert process is not None
        kept = asyncio.get_running_loop().run_in_executor(None, slot.folder.keep)
        try:
            await process.connect(limit)
            if not process.alive:
                raise HypervisorError("QEMU ended at once")
        except TimeoutError:
            raise HypervisorError(f"QEMU was not ready within {limit:g} s") from None
        except HypervisorError as error:
            by_itself = await process.wait(LAST_EVENTS_LIMIT)  # a monitor is out of reach because its process is just ending
            await process.kill()
            cause = process.exit.result().cause if by_itself else str(error)
            raise HypervisorError(await asyncio.to_thread(slot.folder.last_words) or cause) from None
        finally:
            await self._chores.settle(kept)

    def _take_over(self, slot: _Slot, process: Guest) -> None:
        slot.process = process
        slot.watcher = asyncio.create_task(self._watch(slot, process))
        process.on_stop = lambda: self._chores.start(self._look_at_stop(process))

    async def _watch(self, slot: _Slot, process: Guest) -> None:
        """Clean up after the process, whenever it ends, and tell of an end that we did not ask for."""
        end = await process.exit
        slot.process = None
        if slot.ending:
            return
        slot.crashed = end.power == "crashed"
        words = await asyncio.to_thread(slot.folder.last_words) if slot.crashed else ""
        if self.on_exit is not None:
            self.on_exit(slot.folder.server_id, end.power, f"{end.cause}: {words}" if words else end.cause)

    async def _look_at_stop(self, process: Guest) -> None:
        """A CPU that the accelerator cannot run stops the guest for good; nobody asked for that."""
        with contextlib.suppress(HypervisorError):
            if await process.power() == "crashed":
                process.fail("the guest's processor failed; see the host's log of QEMU")

    async def _power(self, slot: _Slot) -> PowerState:
        """A QEMU that does not answer its monitor counts as running: it holds the disk, and may be busy."""
        if slot.process is None:
            return "crashed" if slot.crashed else "stopped"
        try:
            return await slot.process.power()
        except HypervisorError as error:
            log.warning("guest's monitor does not answer", server=slot.folder.server_id, error=str(error))
            return "running" if slot.process is not None else "crashed" if slot.crashed else "stopped"

    async def _power_off(self, server_id: str) -> None:
        """Ask the guest, and wait without the lock: whoever wants it gone at once need not wait for our patience."""
        async with self._locked(server_id) as slot:
            if slot is None or slot.process is None or await self._power(slot) != "running":
                return
            process = slot.process
        slot.ending = True
        try:
            await process.press_power_button(self._compute.shutdown_timeout)
        except BaseException:
            slot.ending = False
            raise

    async def _end(self, slot: _Slot, *, kill: bool = False) -> None:
        slot.ending = True
        if slot.process is not None:
            await (slot.process.kill() if kill else slot.process.end())
        if slot.watcher is not None:
            await asyncio.gather(slot.watcher, return_exceptions=True)
            slot.watcher = None

    async def _remove(self, slot: _Slot, uid: int = 0) -> None:
        await self._end(slot, kill=True)
        uid = await asyncio.to_thread(slot.folder.remove) or uid
        self._uids.free(uid)
        slot.whole = False

    async def _adopt(self, folder: GuestFolder, pid: int | None) -> FoundGuest | None:
        async with self._locked(folder.server_id, make=True) as slot:
            assert slot is not None
            spec = await asyncio.to_thread(folder.read_spec)
            slot.whole = True
            if slot.process is None and pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    self._take_over(slot, Guest(pid, None, folder.monitor_socket))
            if spec is None:
                await self._chores.settle(self._remove(slot))
                return None
            power = await self._power(slot)
            if slot.process is not None and power in ("stopped", "crashed"):
                await self._end(slot)
            return FoundGuest(spec, await asyncio.to_thread(folder.read_generation), power)

    # --- helpers ---

    def _folders(self) -> list[GuestFolder]:
        names = [path.name for path in self._folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        return [GuestFolder(self._folder, name) for name in sorted(names)]

    @contextlib.asynccontextmanager
    async def _locked(self, server_id: str, *, make: bool = False) -> AsyncIterator[_Slot | None]:
        """The guest, to ourselves. None where it is unknown (unless `make`). One that went while we waited is looked up anew."""
        while True:
            slot = self._slots.get(server_id)
            if slot is None and make:
                slot = self._slots[server_id] = _Slot(GuestFolder(self._folder, server_id))
            if slot is None:
                yield None
                return
            async with slot.lock:
                if self._slots.get(server_id) is slot:
                    try:
                        yield slot
                    finally:
                        if not slot.whole:
                            self._slots.pop(server_id, None)
                    return

    @contextlib.asynccontextmanager
    async def _running(self, server_id: str) -> AsyncIterator[Guest]:
        """The guest's process, to ourselves. Raises HypervisorError where there is none."""
        async with self._locked(server_id) as slot:
            if slot is None:
                raise HypervisorError(f"guest {server_id} is not on this host")
            if slot.process is None:
                raise HypervisorError(f"guest {server_id} is not running")
            yield slot.process

    @contextlib.asynccontextmanager
    async def _boot_proof(self, kernel: Path, ramdisk: Path) -> AsyncIterator[asyncio.StreamReader]:
        """The proof guest takes the way of every other one, but leaves no spec: whatever cuts it short, it is cleaned up."""
        boot = BootSource(kernel=None, ramdisk=None)
        spec = GuestSpec(self._proof_id, "kvm-proof", "kvm-proof", "", 1, PROOF_MEMORY_MB, 0, boot, [])
        writer: asyncio.StreamWriter | None = None
        async with self._locked(self._proof_id, make=True) as slot:
            assert slot is not None
            images = Images(kernel=kernel, ramdisk=ramdisk)
            await self._start_paused(slot, Boot(spec, 0, images, {}, "kvm", durable=False))
        try:
            reader, writer = await asyncio.open_connection(sock=connect_unix(slot.folder.console_socket))
            await self.resume(self._proof_id)
            yield reader
        finally:
            if writer is not None:
                writer.close()
            await self.destroy(self._proof_id)

    async def _trim_for_ever(self) -> None:
        while True:
            await asyncio.sleep(TRIM_INTERVAL)
            try:
                await self.trim_logs()
            except OSError as error:
                log.warning("guests' logs cannot be cut", error=str(error))
