"""What the machine is and what runs on it, read from /proc and statvfs (proc(5))."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path

from pileus.errors import StartupError
from pileus.host.hypervisor import Capacity

VERSION_LIMIT = 10.0
"""Seconds for `qemu --version`."""


def machine_capacity(folder: Path, emulator: str) -> Capacity:
    """What this machine can give to guests that keep their disks in `folder`. Raises StartupError."""
    disk = os.statvfs(folder)
    usable = (disk.f_blocks - disk.f_bfree + disk.f_bavail) * disk.f_frsize
    return Capacity(
        type="QEMU",
        version=emulator_version(emulator),
        vcpus=len(os.sched_getaffinity(0)),
        memory_mb=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        disk_gb=usable >> 30,
        cpu_info=cpu_info(Path("/proc/cpuinfo").read_text()),
    )


def emulator_version(emulator: str) -> int:
    """QEMU's version as one number: 7.2.22 is 7002022. Raises StartupError."""
    try:
        told = subprocess.run([emulator, "--version"], capture_output=True, text=True, timeout=VERSION_LIMIT, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise StartupError(f"{emulator} does not run: {error}") from None
    number = re.search(r"version (\d+)\.(\d+)(?:\.(\d+))?", told.stdout)
    if number is None:
        raise StartupError(f"{emulator} --version tells no version: {told.stdout.strip()!r}")
    major, minor, micro = (int(part or 0) for part in number.groups())
    return major * 1_000_000 + minor * 1_000 + micro


def cpu_info(text: str) -> dict[str, str]:
    """Vendor, model and architecture of the first processor of /proc/cpuinfo."""
    fields = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    first = {name.strip(): value.strip() for name, _, value in fields}
    return {
        "arch": platform.machine(),
        "vendor": first.get("vendor_id", "unknown"),
        "model": first.get("model name", "unknown"),
    }


def processes_of(server_ids: Collection[str], folder: Path | None = None) -> dict[str, int]:
    """The running QEMU process of each of these guests, by server id. One look at all processes of the machine; those alone that have
    files of `folder` open: several hosts may run on one machine, and a server that was evacuated has a guest on each of two for a while.

    No pid is kept in a file: between the start of a process and the writing of one there would be a moment in which our
    end leaves a guest that nobody finds again.
    """
    if not server_ids:
        return {}
    wanted = {server_id.encode(): server_id for server_id in server_ids}
    found: dict[str, int] = {}
    for pid in _pids():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"-uuid" in words:
                server_id = wanted.get(words[words.index(b"-uuid") + 1])
                if server_id is not None and (folder is None or _uses(pid, folder)):
                    found[server_id] = pid
    return found


def _uses(pid: int, folder: Path) -> bool:
    """Whether a process has a file in this folder open."""
    within = f"{folder.resolve()}/"
    return any(str(entry.readlink()).startswith(within) for entry in Path(f"/proc/{pid}/fd").iterdir())


def user_ids_in_use() -> set[int]:
    """The user ids that processes of this machine run under."""
    found: set[int] = set()
    for pid in _pids():
        with contextlib.suppress(OSError):
            found.add(Path(f"/proc/{pid}").stat().st_uid)
    return found


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())
