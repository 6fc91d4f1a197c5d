"""The tiny guest: a kernel and an initramfs made of the distribution's own packages, for the demo, the tests and KVM's proof.

`build` downloads the kernel and busybox-static by apt (nothing is installed), takes from them what it needs and writes the
initramfs itself. The guest prints PILEUS-GUEST-READY on its serial console as soon as it is in userspace, then
`PILEUS-GUEST-ADDRESS eth0 10.0.0.5/24` for each interface that DHCP gave an address, echoes what is sent to TCP port 7, and
has a root shell on the console. Its scripts are in the folder `guest`.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pileus.errors import StartupError

READY = "PILEUS-GUEST-READY"
ADDRESS = "PILEUS-GUEST-ADDRESS"
ECHO_PORT = 7
COMMAND_LINE = "console=ttyS0 quiet nokaslr mitigations=off no_timer_check cryptomgr.notests"
"""What makes it boot fast under emulation: each line on an emulated serial port costs a millisecond, self-tests cost more.
There is nothing in this guest to protect."""

_KERNELS = ("linux-image-cloud-amd64", "linux-image-kvm", "linux-image-virtual", "linux-image-generic")
"""Packages that depend on the newest kernel made for virtual machines: Debian's, then Ubuntu's."""

_NEEDED = ("virtio_pci", "virtio_net", "virtio_blk")
_USEFUL = ("isofs", "button", "evdev", "virtio_rng")
"""For config drives, for the power button, and against waiting for randomness."""

_SCRIPTS = {
    "init": "init",
    "etc/inittab": "inittab",
    "etc/rc": "rc",
    "etc/profile": "profile",
    "etc/udhcpc": "udhcpc",
    "etc/acpi/PWRF/00000080": "power-button",
}
_FOLDERS = (
    "bin",
    "sbin",
    "dev",
    "proc",
    "sys",
    "etc",
    "run",
    "tmp",
    "root",
    "media",
    "var",
    "var/run",
    "modules",
    "etc/acpi",
    "etc/acpi/PWRF",
)
_LIMIT = 300.0


@dataclass(frozen=True)
class TinyGuest:
    """Kernel and ramdisk, as files that anybody may read."""

    kernel: Path
    ramdisk: Path


class _Manifest(msgspec.Struct):
    packages: list[str]
    kernel_size: int
    ramdisk_size: int


def default_folder() -> Path:
    """Where the guest is kept when nobody says otherwise."""
    if os.geteuid() == 0:
        return Path("/var/cache/pileus")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pileus"


def find(folder: Path) -> TinyGuest | None:
    """The guest that `build` made there with these very scripts, if it is whole."""
    home = folder / f"tinyguest-{_recipe()}"
    guest = TinyGuest(home / "vmlinuz", home / "initramfs")
    try:
        manifest = msgspec.json.decode((home / "manifest.json").read_bytes(), type=_Manifest)
        whole = (guest.kernel.stat().st_size, guest.ramdisk.stat().st_size) == (manifest.kernel_size, manifest.ramdisk_size)
    except (OSError, msgspec.MsgspecError):
        return None
    return guest if whole else None


def build(folder: Path) -> TinyGuest:
    """Make the guest in `folder`, or find it there. Takes seconds once. Raises StartupError in one line."""
    if (guest := find(folder)) is not None:
        return guest
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tinyguest-", dir=folder) as scratch:
            _make(Path(scratch))
            home = folder / f"tinyguest-{_recipe()}"
            shutil.rmtree(home, ignore_errors=True)
            made = Path(scratch) / "made"
            try:
                made.rename(home)
            except OSError:
                if find(folder) is None:  # somebody else's, made at the same time, is as good
                    raise
        for old in folder.glob("tinyguest-*"):
            if old != home:
                shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise StartupError(f"tiny guest: {error}") from None
    guest = find(folder)
    if guest is None:
        raise StartupError(f"tiny guest: {folder} was changed while it was being made; try again")
    return guest


def cpio(entries: Iterable[tuple[str, int, bytes, int]]) -> bytes:
    """A cpio archive in the `newc` format that the kernel unpacks (initramfs buffer format): name, mode, content, device."""
    archive = bytearray()
    for number, (name, mode, data, device) in enumerate([*entries, ("TRAILER!!!", 0, b"", 0)], start=1):
        encoded = name.encode() + b"\0"
        fields = (
            number, mode, 0, 0, 1, 0, len(data), 0, 0, os.major(device), os.minor(device), len(encoded), 0,
        )  # fmt: skip
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        archive += bytes(-len(archive) % 4)
        archive += data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def _make(scratch: Path) -> None:
    """Download, unpack and write everything into `scratch`/made."""
    packages = _packages()
    _run(["apt-get", "download", "-qq", *(["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []), *packages], cwd=scratch)
    files: dict[str, bytes] = {}
    for package in scratch.glob("*.deb"):
        files.update(_unpack(package, _is_wanted))
    kernel = next((data for name, data in files.items() if name.startswith("boot/vmlinuz")), None)
    busybox = next((data for name, data in files.items() if name.endswith("bin/busybox")), None)
    if kernel is None or busybox is None:
        raise StartupError(f"tiny guest: no kernel or no busybox in the packages {', '.join(packages)}")
    made = scratch / "made"
    made.mkdir()
    ramdisk = cpio(_contents(busybox, _modules(files), _applets(scratch, busybox)))
    manifest = _Manifest(packages, len(kernel), len(ramdisk))
    for name, data in (("vmlinuz", kernel), ("initramfs", ramdisk), ("manifest.json", msgspec.json.encode(manifest))):
        with (made / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        (made / name).chmod(0o644)
    made.chmod(0o755)


def _packages() -> list[str]:
    """The names of the packages to take the guest from. Raises StartupError."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise StartupError("tiny guest: it is made of Debian's or Ubuntu's packages, and there is no apt-get here")
    for wanted in _KERNELS:
        image = _dependency(wanted, r"linux-image-\d\S*")
        if image:
            modules = _dependency(image, r"linux-modules-\d\S*")
            return [image, *([modules] if modules else []), "busybox-static"]
    raise StartupError("tiny guest: apt knows no kernel package; run `apt-get update` first")


def _dependency(package: str, pattern: str) -> str | None:
    known = subprocess.run(["apt-cache", "depends", package], capture_output=True, text=True, check=False, timeout=_LIMIT)
    found = re.search(rf"^\s*\|?Depends: ({pattern})$", known.stdout, re.MULTILINE)
    return found.group(1) if found else None


def _unpack(package: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """The wanted files of a .deb, by their path without the leading slash."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for member in archive:
                name = member.name.removeprefix("./").removeprefix("usr/")
                if member.isfile() and wanted(name) and (content := archive.extractfile(member)) is not None:
                    yield name, content.read()
    if process.returncode != 0:
        raise StartupError(f"tiny guest: dpkg-deb could not unpack {package.name}")


def _is_wanted(name: str) -> bool:
    return name.startswith("boot/vmlinuz") or name.endswith(("bin/busybox", "modules.builtin")) or ".ko" in name


def _modules(files: dict[str, bytes]) -> list[tuple[str, bytes]]:
    """The modules to load, each after what it depends on. Those built into the kernel are left out. Raises StartupError."""
    paths = {_module_name(path): path for path in files if ".ko" in path}
    builtin = {_module_name(line) for path, data in files.items() if path.endswith("modules.builtin") for line in data.decode().split()}
    ordered: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in builtin or name in ordered:
            return
        data = _decompressed(paths[name], files[paths[name]])
        for dependency in _depends(data):
            add(dependency)
        ordered[name] = data

    for name in (*_NEEDED, *_USEFUL):
        try:
            add(name)
        except KeyError as missing:
            if name in _NEEDED:
                raise StartupError(f"tiny guest: the kernel package has no module {missing}") from None
    return [(f"{name}.ko", data) for name, data in ordered.items()]


def _module_name(path: str) -> str:
    return Path(path).name.partition(".ko")[0].replace("-", "_")


def _depends(module: bytes) -> list[str]:
    """What a module's .modinfo says that it depends on."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return [name.replace("-", "_") for name in found.group(1).decode().split(",") if name] if found else []


def _decompressed(path: str, data: bytes) -> bytes:
    if path.endswith(".xz"):
        return lzma.decompress(data)
    if path.endswith(".zst"):
        if shutil.which("zstd") is None:
            raise StartupError("tiny guest: this kernel's modules are compressed with zstd; install the package zstd")
        return subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=True, timeout=_LIMIT).stdout
    return data


def _applets(scratch: Path, busybox: bytes) -> list[str]:
    program = scratch / "busybox"
    program.write_bytes(busybox)
    program.chmod(0o755)
    return _run([str(program), "--list"], cwd=scratch).split()


def _contents(busybox: bytes, modules: list[tuple[str, bytes]], applets: list[str]) -> Iterator[tuple[str, int, bytes, int]]:
    for folder in _FOLDERS:
        yield folder, stat.S_IFDIR | 0o755, b"", 0
    yield "dev/console", stat.S_IFCHR | 0o600, b"", os.makedev(5, 1)
    yield "bin/busybox", stat.S_IFREG | 0o755, busybox, 0
    for applet in applets:
        if applet != "busybox":
            yield f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox", 0
    for name in ("init", "reboot", "poweroff", "halt"):
        yield f"sbin/{name}", stat.S_IFLNK | 0o777, b"../bin/busybox", 0
    for name, script in _SCRIPTS.items():
        yield name, stat.S_IFREG | 0o755, (_SOURCE / script).read_bytes(), 0
    for name, data in modules:
        yield f"modules/{name}", stat.S_IFREG | 0o644, data, 0
    yield "modules/order", stat.S_IFREG | 0o644, "".join(f"{name}\n" for name, _ in modules).encode(), 0


_SOURCE = Path(__file__).parent / "guest"


def _recipe() -> str:
    """What the guest is made by: this file and the scripts."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for script in _SCRIPTS.values():
        digest.update((_SOURCE / script).read_bytes())
    return digest.hexdigest()[:12]


def _run(command: list[str], cwd: Path) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=_LIMIT)
    except subprocess.TimeoutExpired:
        raise StartupError(f"tiny guest: {command[0]} took longer than {_LIMIT:.0f} s") from None
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        hint = "; run `apt-get update` first" if command[0] == "apt-get" else ""
        raise StartupError(f"tiny guest: {Path(command[0]).name}: {words[-1]}{hint}")
    return done.stdout


def main() -> int:
    """`python -m pileus.tinyguest [FOLDER]`: build the guest and say where it is."""
    parser = argparse.ArgumentParser(prog="python -m pileus.tinyguest", description=main.__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=default_folder())
    begun = time.monotonic()
    try:
        guest = build(parser.parse_args().folder)
    except StartupError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{guest.kernel}\n{guest.ramdisk}\n{time.monotonic() - begun:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
