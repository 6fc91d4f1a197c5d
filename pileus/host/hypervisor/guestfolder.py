"""The folder of one guest: what it was made from, how far it has come, its disk, its logs and its sockets.

The folder belongs to root, and a guest's process is handed its files open, so a guest that breaks out of QEMU can reach
nothing here by name. The folder's *group* is the guest's numeric user id: that is where the id is kept durably.
A folder without a readable spec is half made and may be removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pileus.host.hypervisor import HypervisorError, Images
from pileus.host.hypervisor.arguments import Disk
from pileus.host.hypervisor.qcow2 import read_header, virtual_size, write_overlay
from pileus.messages import GuestSpec

GIB = 1 << 30
BLOCK = 4096
_FALLOC_KEEP_SIZE_AND_PUNCH_HOLE = 0x01 | 0x02


class GuestFolder:
    """The files of one guest. Nothing is kept in memory; every method blocks and belongs in a thread."""

    def __init__(self, guests: Path, server_id: str) -> None:
        self.server_id = server_id
        self.path = guests / server_id
        self.spec = self.path / "spec.json"
        self.generation = self.path / "generation"
        self.blank = self.path / "disk.raw"
        self.overlay = self.path / "disk.qcow2"
        self.config = self.path / "config.iso"
        self.console = self.path / "console.log"
        self.output = self.path / "qemu.log"
        self.monitor_socket = self.path / "monitor.sock"
        self.console_socket = self.path / "console.sock"

    def make(self, uid: int) -> None:
        """The folder, for the guest that runs as `uid`. Raises OSError."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        os.chown(self.path, 0, uid)

    def uid(self) -> int:
        """The guest's user id. Raises FileNotFoundError."""
        return self.path.stat().st_gid

    def look(self) -> tuple[bool, int]:
        """Whether there is a whole guest here, and its user id (0: none was given yet)."""
        try:
            return self.read_spec() is not None, self.uid()
        except FileNotFoundError:
            return False, 0

    def remove(self) -> int:
        """Spec first: a removal that is cut short leaves a folder that counts as half made. The user id that is free now."""
        uid = self.look()[1]
        self.spec.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)
        return uid

    def write_spec(self, spec: GuestSpec, generation: int) -> None:
        self.write_generation(generation)
        _replace(self.spec, msgspec.json.encode(spec))

    def write_generation(self, generation: int) -> None:
        _replace(self.generation, b"%d\n" % generation)

    def read_spec(self) -> GuestSpec | None:
        """None where it is not there or cannot be read."""
        try:
            return msgspec.json.decode(self.spec.read_bytes(), type=GuestSpec)
        except (OSError, msgspec.MsgspecError):
            return None

    def read_generation(self) -> int:
        """0 where it is not there or cannot be read: the next message then counts as new."""
        try:
            return int(self.generation.read_bytes())
        except (OSError, ValueError):
            return 0

    def keep(self) -> None:
        """Bring the spec, if there is one, and the folder to the disk itself: a power cut then leaves a guest that is whole."""
        for path in (self.spec, self.path):
            with contextlib.suppress(FileNotFoundError), open_fd(path, os.O_RDONLY) as fd:
                os.fsync(fd)

    @contextlib.contextmanager
    def open_disk(self, spec: GuestSpec, images: Images, uid: int) -> Iterator[Disk | None]:
        """The root disk, open, made if it is not there. None: this guest has no disk.

        Raises HypervisorError (image larger than the disk, unusable image) and OSError.
        """
        with contextlib.ExitStack() as stack:
            if images.disk is None and not self.overlay.exists():
                if spec.disk_gb == 0:
                    yield None
                    return
                fd = stack.enter_context(_own_file(self.blank, uid))
                if os.fstat(fd).st_size == 0:
                    os.truncate(fd, spec.disk_gb * GIB)
                yield Disk(fd, "raw")
                return
            fd = stack.enter_context(_own_file(self.overlay, uid))
            header = read_header(fd)
            base, base_format = (images.disk, images.disk_format) if images.disk else (Path(header.backing if header else ""), "")
            base_fd = stack.enter_context(_open_base(base))
            base_format = base_format or ("raw" if read_header(base_fd) is None else "qcow2")
            if header is None:
                write_overlay(fd, _overlay_size(base_fd, base_format, spec.disk_gb), base.absolute(), base_format)
            yield Disk(fd, "qcow2", Disk(base_fd, base_format))

    def last_words(self) -> str:
        """The last line that QEMU wrote, without its own name in front; empty where it wrote nothing."""
        lines = [line for line in tail(self.output, BLOCK).splitlines() if line.strip()]
        if not lines:
            return ""
        program, colon, rest = lines[-1].partition(": ")
        return (rest if colon and program.startswith("qemu") else lines[-1]).strip()


def tail(path: Path, size: int) -> str:
    """The last `size` bytes of a log as text; empty where there is none. What was cut off its head is left out."""
    try:
        with open_fd(path, os.O_RDONLY) as fd:
            end = os.fstat(fd).st_size
            data = os.pread(fd, size, max(0, end - size))
    except FileNotFoundError:
        return ""
    return data.lstrip(b"\0").decode(errors="replace")


def cut(path: Path, size: int) -> None:
    """Give the disk space of all but about the last `size` bytes of a log back, while somebody appends to it.

    The head becomes a hole: no byte that a writer adds at the same time is lost, as it would be by rewriting the file. On a
    file system without holes the log begins anew.
    """
    try:
        with open_fd(path, os.O_WRONLY) as fd:
            there = os.fstat(fd)
            if there.st_blocks * 512 <= size + BLOCK:
                return
            head = max(0, there.st_size - size) // BLOCK * BLOCK
            try:
                _punch_hole(fd, head)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                os.ftruncate(fd, 0)
    except FileNotFoundError:
        return


def listen_unix(path: Path) -> socket.socket:
    """A listening socket at `path`, however long the path is (an address holds 107 bytes only). Raises OSError."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with open_fd(path.parent, os.O_PATH) as folder:
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        listener.listen(1)
    except BaseException:
        listener.close()
        raise
    return listener


def connect_unix(path: Path) -> socket.socket:
    """A non-blocking connection to the socket at `path`, however long the path is. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        with open_fd(path.parent, os.O_PATH) as folder:
            connection.connect(f"/proc/self/fd/{folder}/{path.name}")
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def open_fd(path: Path, flags: int, mode: int = 0o600) -> Iterator[int]:
    """A descriptor that is closed at the end."""
    fd = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def open_log(path: Path, uid: int) -> Iterator[int]:
    """A log that the guest's process appends to."""
    with open_fd(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as fd:
        os.fchown(fd, uid, uid)
        yield fd


@contextlib.contextmanager
def _own_file(path: Path, uid: int) -> Iterator[int]:
    with open_fd(path, os.O_RDWR | os.O_CREAT) as fd:
        os.fchown(fd, uid, uid)
        yield fd


@contextlib.contextmanager
def _open_base(path: Path) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise HypervisorError(f"the base image {path} of the guest's disk is not there any more") from None
    try:
        yield fd
    finally:
        os.close(fd)


def _overlay_size(base_fd: int, base_format: str, disk_gb: int) -> int:
    try:
        size = virtual_size(base_fd, base_format)
    except ValueError as error:
        raise HypervisorError(str(error)) from None
    if disk_gb == 0:
        return size
    if size > disk_gb * GIB:
        raise HypervisorError(f"the image's disk of {size / GIB:.2f} GiB is larger than the flavor's {disk_gb} GiB; use a larger flavor")
    return disk_gb * GIB


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that a reader finds the old one or the new one, whole."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(data)
    new.replace(path)


def _punch_hole(fd: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    offset, size = ctypes.c_int64(0), ctypes.c_int64(length)
    if libc.fallocate64(fd, _FALLOC_KEEP_SIZE_AND_PUNCH_HOLE, offset, size) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
