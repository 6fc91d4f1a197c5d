"""What needs root: processes under other user ids, TAPs and namespaces. Small, so that it can become a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import shutil
import socket
import stat
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from pileus.host import netlink

P = ParamSpec("P")
T = TypeVar("T")

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


# --- TAPs ----------------------------------------------------------------------------------------------------------------

TAP_PREFIX = "tap"

_TUN = "/dev/net/tun"
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_SIOCGIFADDR, _SIOCETHTOOL = 0x8915, 0x8946
_ETHTOOL_STXCSUM = 0x17
_DELETE_GROUP = 0x70696C65
"""Link group that devices are put into to be removed together."""


def tap_name(port_id: str) -> str:
    """The name of a port's TAP: 14 characters, as Linux allows 15."""
    return TAP_PREFIX + port_id[:11]


def open_tap(name: str, mtu: int) -> int:
    """Make a persistent TAP (or attach to it), set its MTU, bring it up; an fd without vnet header, open on it.

    -1 where the TAP is there and another process (its guest) holds it: a TAP has one holder. Raises OSError.
    """
    fd = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    except OSError as error:
        os.close(fd)
        if error.errno != errno.EBUSY or not link_exists(name):
            raise
        fd = -1
    try:
        _mute(name)
        netlink.set_link(name, mtu=mtu, up=True)
    except OSError:
        if fd >= 0:
            os.close(fd)
        raise
    return fd


def tap_is_held(name: str) -> bool:
    """Whether a process has this TAP open. False when it is not there."""
    if not link_exists(name):
        return False
    fd = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise
    finally:
        os.close(fd)
    return False


def list_taps() -> list[str]:
    """All devices here that are named like our TAPs."""
    return [name for name in netlink.link_names() if name.startswith(TAP_PREFIX)]


# --- Network devices -----------------------------------------------------------------------------------------------------


def link_index(name: str) -> int:
    """The kernel's number of a device, another one for each device of the same name; 0 where there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def link_exists(name: str) -> bool:
    return link_index(name) != 0


def delete_links(names: Sequence[str]) -> None:
    """Remove devices, those held open too; what is not there is skipped. Several go in one batch. Raises OSError."""
    there = [name for name in names if link_exists(name)]
    if len(there) == 1:
        with _unless_gone():
            netlink.delete_link(there[0])
    elif there:
        for name in there:
            with _unless_gone():
                netlink.set_link(name, group=_DELETE_GROUP)
        with _unless_gone():
            netlink.delete_group(_DELETE_GROUP)


def has_address(name: str) -> bool:
    """Whether a device carries an IPv4 address of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        try:
            fcntl.ioctl(channel, _SIOCGIFADDR, struct.pack("16s24x", name.encode()))
        except OSError:
            return False
    return True


def move_link(name: str, namespace: str, *, mac: str | None = None, mtu: int | None = None) -> None:
    """Move a device from the calling thread's namespace into a named one ("": ours), with MAC and MTU; it is down there.

    Raises OSError.
    """
    path = namespace_path(namespace) if namespace else "/proc/self/ns/net"
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        netlink.set_link(name, mac=mac, mtu=mtu, namespace_fd=handle)
    finally:
        os.close(handle)


def ensure_pair(name: str, namespace: str, *, mtu: int) -> int:
    """A pair of devices of this name, one end here and up, the other in a namespace; the index of the end here. Raises OSError.

    A pair that is there is kept, with the addresses that the other end has.
    """
    handle = os.open(namespace_path(namespace), os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not (link_exists(name) and _in_namespace(handle, lambda: link_exists(name))):
            delete_links([name])
            _in_namespace(handle, lambda: delete_links([name]))
            netlink.create_veth(name, name, handle)
    finally:
        os.close(handle)
    _mute(name)
    netlink.set_link(name, mtu=mtu, up=True)
    return link_index(name)


def set_end(name: str, *, mac: str, mtu: int) -> None:
    """MAC and MTU of a pair's other end, and up; it sums its packets itself, as nobody behind the switch would. Raises OSError."""
    netlink.set_link(name, mac=mac, mtu=mtu, up=True)
    value = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_STXCSUM, 0), 8)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        fcntl.ioctl(channel, _SIOCETHTOOL, struct.pack("16sP16x", name.encode(), ctypes.addressof(value)))


def _mute(name: str) -> None:
    """Keep the machine's own IPv6 off a device that carries guests' packets."""
    with contextlib.suppress(FileNotFoundError):
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")


@contextlib.contextmanager
def _unless_gone() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.ESRCH):
            raise


# --- Network namespaces --------------------------------------------------------------------------------------------------

_RUN = Path("/run/netns")
_CLONE_NEWNET = 0x40000000


def namespace_path(name: str) -> Path:
    """Where a named network namespace is kept; `ip netns` looks there too."""
    return _RUN / name


def namespace_exists(name: str) -> bool:
    """Whether there is such a namespace. A name without a mount on it is what a killed creation left behind: it does not count."""
    path = namespace_path(name)
    try:
        return path.stat().st_dev != _RUN.stat().st_dev
    except FileNotFoundError:
        return False


def create_namespace(name: str, *, ipv6: bool = True) -> None:
    """Make a named network namespace with `lo` up; nothing happens if it is there. Raises OSError.

    Without `ipv6` the kernel says nothing of its own on devices that come into it.
    """
    if namespace_exists(name):
        return
    _run_in_thread(lambda: _create_namespace(name, ipv6))


def delete_namespace(name: str) -> None:
    """Remove a namespace's name; it ends with the last process in it. Unknown: nothing."""
    path = namespace_path(name)
    with contextlib.suppress(OSError):
        _check(_libc().umount2(str(path).encode(), _MNT_DETACH), f"unmounting {path}")
    path.unlink(missing_ok=True)


def list_namespaces(prefix: str = "") -> list[str]:
    """Named network namespaces whose name starts so."""
    try:
        return sorted(entry.name for entry in _RUN.iterdir() if entry.name.startswith(prefix))
    except FileNotFoundError:
        return []


def enter_namespace(name: str) -> None:
    """The calling thread (and what it spawns) is in that namespace from now on. Raises OSError."""
    handle = os.open(namespace_path(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc().setns(handle, _CLONE_NEWNET), f"entering network namespace {name}")
    finally:
        os.close(handle)


class Namespace:
    """A thread that stays in one network namespace; "" is the one that Pileus runs in. Opening one over and over is what costs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"netns-{name}")
        self._entered = threading.local()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function inside. What it raises comes through; OSError also when the namespace is not there."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: self._call(function, *args, **kwargs))

    def close(self) -> None:
        """Let go of the namespace, without waiting for what still runs."""
        self._thread.shutdown(wait=False)

    def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self.name and not getattr(self._entered, "yes", False):
            enter_namespace(self.name)
            self._entered.yes = True
        return function(*args, **kwargs)


def _create_namespace(name: str, ipv6: bool) -> None:
    """Runs in a thread of its own that ends inside the new namespace."""
    _RUN.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        _mount("none", str(_RUN), "", _MS_SHARED | _MS_REC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Not a mount point yet: it must be one, and shared, for the names to be seen by everybody.
        _mount(str(_RUN), str(_RUN), "", _MS_BIND | _MS_REC)
        _mount("none", str(_RUN), "", _MS_SHARED | _MS_REC)
    path = namespace_path(name)
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
    try:
        _check(_libc().unshare(_CLONE_NEWNET), "a new network namespace")
        netlink.set_link("lo", up=True)
        if not ipv6:
            _mute("default")
        _mount("/proc/thread-self/ns/net", str(path), "", _MS_BIND)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _in_namespace(handle: int, function: Callable[[], T]) -> T:
    """Call a function in another namespace, in a thread that ends there."""

    def enter_and_call() -> T:
        _check(_libc().setns(handle, _CLONE_NEWNET), "entering a network namespace")
        return function()

    return _run_in_thread(enter_and_call)


def _run_in_thread(function: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()


# --- Shared --------------------------------------------------------------------------------------------------------------

_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_SLAVE, _MS_SHARED = 4096, 16384, 1 << 19, 1 << 20
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
