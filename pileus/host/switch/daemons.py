"""Our own ovsdb-server and ovs-vswitchd, with everything of theirs in one folder and in a network namespace of their own.

The namespace because the userspace datapath needs it: the kernel goes on handling the packets of devices that it switches, so that in the
machine's own namespace a guest would reach the machine itself past all flows; and one namespace can hold one such datapath only, so
that two clouds on one machine would be in each other's way. They run in a session of their own and outlive us.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pileus.errors import StartupError
from pileus.host import privileged
from pileus.host.privileged import Namespace

NAMESPACE_PREFIX = "pileus-"

_DATABASE = "conf.db"
_BORROWED = "borrowed-devices"
_START_LIMIT = 20.0
_STOP_LIMIT = 5.0
_DAEMONS = {"ovs-vswitchd": "unix:db.sock", "ovsdb-server": _DATABASE}
"""In the order of stopping."""


def namespace_name(folder: Path) -> str:
    """The network namespace that belongs to a switch folder."""
    return NAMESPACE_PREFIX + hashlib.blake2b(str(folder.resolve()).encode(), digest_size=4).hexdigest()


def database_socket(folder: Path) -> Path:
    return folder / "db.sock"


def pid_of(folder: Path, program: str) -> int | None:
    """The daemon's process id while it runs. Its command line names the folder, so a number given to somebody else is not taken."""
    pid = _noted_pid(folder, program)
    command = _read_process(pid, "cmdline")
    return pid if os.fsencode(folder.resolve()) in command else None


async def start_daemons(folder: Path) -> None:
    """Start what does not run yet; what runs is adopted. Returns when both answer. Raises StartupError."""
    if os.geteuid() != 0:
        raise StartupError("Open vSwitch needs root; run as root, or use the simulated hypervisor (host.hypervisor)")
    name = namespace_name(folder)
    try:
        await asyncio.to_thread(_prepare, folder, name)
    except OSError as error:
        raise StartupError(f"switch folder {folder}: {error.strerror or error}") from None
    namespace = Namespace(name)
    try:
        for program in reversed(_DAEMONS):
            await _see_off(folder, program)
            if pid_of(folder, program) is None:
                await namespace.run(_start, folder, program)
    finally:
        namespace.close()


async def stop_daemons(folder: Path) -> None:
    """End both daemons, give back the devices they borrowed, and remove namespace, database and sockets.

    While a guest still holds a TAP, namespace and database stay: the next start goes on with them.
    """
    for program in _DAEMONS:
        pid = pid_of(folder, program)
        if pid is not None:
            await _stop(pid)
    await asyncio.to_thread(_forget_sockets, folder)
    name = namespace_name(folder)
    if not privileged.namespace_exists(name):
        return
    namespace = Namespace(name)
    try:
        held = await namespace.run(lambda: any(privileged.tap_is_held(tap) for tap in privileged.list_taps()))
        if not held:
            await namespace.run(_give_back, folder)
            await asyncio.to_thread(privileged.delete_namespace, name)
            await asyncio.to_thread((folder / _DATABASE).unlink, missing_ok=True)
    finally:
        namespace.close()


def borrow_device(folder: Path, device: str, setting: str) -> None:
    """Move a device of the machine, which the setting names, into the switch's namespace, to be given back at the end.
    Raises StartupError."""
    if not privileged.link_exists(device):
        raise StartupError(f"{setting}: there is no network device {device!r}")
    if privileged.has_address(device):
        raise StartupError(f"{setting}: {device!r} carries this machine's address; give Pileus a device of its own")
    with (folder / _BORROWED).open("a") as file:
        file.write(device + "\n")
    try:
        privileged.move_link(device, namespace_name(folder))
    except OSError as error:
        raise StartupError(f"{setting}: {device!r} cannot be taken: {error.strerror}") from None


def _give_back(folder: Path) -> None:
    """Runs inside the switch's namespace."""
    file = folder / _BORROWED
    if file.exists():
        for device in dict.fromkeys(file.read_text().split()):
            if privileged.link_exists(device):
                privileged.move_link(device, "")
        file.unlink()


def _prepare(folder: Path, namespace: str) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not privileged.namespace_exists(namespace):
        # After a restart of the machine: no TAP is left, so what the database says of ports is of the past.
        (folder / _DATABASE).unlink(missing_ok=True)
        privileged.create_namespace(namespace, ipv6=False)
    if not (folder / _DATABASE).exists():
        fresh = folder / f".{_DATABASE}"
        fresh.unlink(missing_ok=True)
        (folder / f".{_DATABASE}.~lock~").unlink(missing_ok=True)
        _run(["ovsdb-tool", "create", str(fresh)], folder)
        fresh.rename(folder / _DATABASE)


def _start(folder: Path, program: str) -> None:
    arguments = [program, _DAEMONS[program], "--detach", "--no-chdir", f"--pidfile={folder.resolve()}/{program}.pid"]
    arguments += [f"--log-file={folder.resolve()}/{program}.log", "-vconsole:off", "-vsyslog:off", "-vfile:warn"]
    if program == "ovsdb-server":
        arguments.append("--remote=punix:db.sock")
    _run(arguments, folder)


def _run(arguments: list[str], folder: Path) -> None:
    place = str(folder.resolve())
    environment = {f"OVS_{kind}DIR": place for kind in ("RUN", "DB", "LOG", "SYSCONF")}
    try:
        subprocess.run(
            arguments,
            cwd=place,
            env={**os.environ, **environment},
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_START_LIMIT,
        )
    except FileNotFoundError:
        raise StartupError(f"{arguments[0]} is not installed (Debian package openvswitch-switch)") from None
    except subprocess.TimeoutExpired:
        raise StartupError(f"{arguments[0]} was not ready within {_START_LIMIT:.0f} s; its log is in {folder}") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise StartupError(f"{arguments[0]} did not start: {lines[-1] if lines else f'see its log in {folder}'}") from None


def _forget_sockets(folder: Path) -> None:
    for pattern in ("*.sock", "*.mgmt", "*.snoop", "*.ctl", "*.pid", ".*.~lock~"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _noted_pid(folder: Path, program: str) -> int:
    """The process id that the daemon wrote down; 0 where it never did."""
    try:
        return int((folder / f"{program}.pid").read_text())
    except (OSError, ValueError):
        return 0


def _read_process(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


async def _see_off(folder: Path, program: str) -> None:
    """Wait for a daemon that is just dying: its successor must not meet its locks and devices."""
    pid = _noted_pid(folder, program)
    if _read_process(pid, "comm").strip() == program.encode():
        pending = re.search(rb"^ShdPnd:\s*([0-9a-f]+)", _read_process(pid, "status"), re.MULTILINE)
        killed = pending is not None and bool(int(pending.group(1), 16) & 1 << (signal.SIGKILL - 1))
        # The command line goes first when a process ends, its files later.
        if killed or not _read_process(pid, "cmdline"):
            await _signal_and_wait(pid, ())


async def _stop(pid: int) -> None:
    await _signal_and_wait(pid, (signal.SIGTERM, signal.SIGKILL))


async def _signal_and_wait(pid: int, signals: Sequence[int]) -> None:
    """Send one signal after the other until the process has ended; without any, wait for its end."""
    loop = asyncio.get_running_loop()
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        for sign in signals or (0,):
            signal.pidfd_send_signal(handle, sign)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_LIMIT):
                    await ended.wait()
                return
    except ProcessLookupError:
        return
    finally:
        loop.remove_reader(handle)
        os.close(handle)
