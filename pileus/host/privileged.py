"""What needs root: processes under other user ids, TAPs and namespaces. Small, so that it can become a process of its own."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

# --- Processes under another user id -------------------------------------------------------------------------------------


def spawn_as(uid: int, arguments: Sequence[str], *, inherit: Collection[int], output: int) -> subprocess.Popen[bytes]:
    """Start a program as the numeric user and group `uid`, in a session of its own, so that nothing which ends us ends it.

    It inherits the descriptors `inherit`, an empty environment, and `output` as standard output and error; it can gain no
    right again. Blocks for less than a millisecond. Raises OSError.

    setpriv changes the user because a child that does so itself, before exec, cannot be made by vfork: with a parent of
    150 MB the copy of its page tables costs 8 ms, setpriv 1 ms.
    """
    drop = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs", "--"]
    return subprocess.Popen(
        [_program(drop[0]), *drop[1:], _program(arguments[0]), *arguments[1:]],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=tuple(inherit),
        start_new_session=True,
        env={},
        cwd="/",
    )


def kvm_for_all_in_this_thread() -> None:
    """Make /dev/kvm usable for every user id, for what this thread starts from now on, and for nothing else.

    Where the device is root's (or a group's) alone, the thread gets a mount namespace of its own with another node of the
    same device over it; the machine's own node keeps its rights. Raises OSError.
    """
    device = Path("/dev/kvm")
    there = device.stat()
    if there.st_mode & 0o006 == 0o006:
        return
    _check(_libc().unshare(_CLONE_NEWNS), "a mount namespace for /dev/kvm")
    _mount("none", "/", "", _MS_REC | _MS_SLAVE)
    with tempfile.TemporaryDirectory(prefix="pileus-kvm-") as folder:
        _mount("tmpfs", folder, "tmpfs", 0)
        try:
            node = Path(folder) / "kvm"
            os.mknod(node, stat.S_IFCHR | 0o666, there.st_rdev)
            node.chmod(0o666)
            _mount(str(node), str(device), "", _MS_BIND)
        finally:
            _check(_libc().umount2(folder.encode(), _MNT_DETACH), "unmounting a folder for /dev/kvm")


_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_SLAVE = 4096, 16384, 1 << 19
_MNT_DETACH = 2


def _mount(source: str, target: str, kind: str, flags: int) -> None:
    code = _libc().mount(source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), None)
    _check(code, f"mounting {target}")


def _check(code: int, what: str) -> None:
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@functools.cache
def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, f"{name} is not installed")
    return found
