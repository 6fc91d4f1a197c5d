"""A guest as a QEMU command line. Pure: everything that is opened, is opened by the caller and named here by its number.

QEMU gets each file as a descriptor, so a guest's process needs no right to any path of the host.
Reference: QEMU's manual, "Invocation"; fd sets: `-add-fd`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pileus.messages import GuestSpec, PortWiring

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

CPU_MODEL = {"kvm": "host", "tcg": "max"}
"""The most that each acceleration can show to a guest."""


@dataclass(frozen=True)
class Disk:
    """An open disk file; `backing` is the open base image below an overlay."""

    fd: int
    format: str
    backing: Disk | None = None


@dataclass(frozen=True)
class Opened:
    """The descriptors that a guest starts with. `monitor` and `serial` are listening sockets, `log` is open for appending."""

    monitor: int
    serial: int
    log: int
    disk: Disk | None = None
    config: int | None = None
    kernel: int | None = None
    ramdisk: int | None = None
    taps: Sequence[tuple[PortWiring, int]] = ()

    def descriptors(self) -> list[int]:
        """All that the process must inherit."""
        disks = [disk.fd for disk in (self.disk, self.disk.backing if self.disk else None) if disk]
        optional = [fd for fd in (self.config, self.kernel, self.ramdisk) if fd is not None]
        return [self.monitor, self.serial, self.log, *disks, *optional, *(fd for _, fd in self.taps)]


def qemu_arguments(spec: GuestSpec, opened: Opened, *, acceleration: str) -> list[str]:
    """QEMU's arguments (without the program) for a guest that waits, paused, for `cont`."""
    return [
        *("-name", spec.server_id, "-uuid", spec.server_id),
        *("-S", "-nodefaults", "-no-user-config", "-display", "none", "-sandbox", SANDBOX),
        *("-machine", "q35,usb=off,vmport=off,graphics=off", "-accel", acceleration, "-cpu", CPU_MODEL[acceleration]),
        *("-smp", str(spec.vcpus), "-m", f"{spec.memory_mb}M", "-rtc", "base=utc"),
        *("-smbios", "type=1,manufacturer=Pileus,product=Pileus"),
        *_monitor(opened),
        *_serial(opened),
        *("-object", "rng-builtin,id=random", "-device", "virtio-rng-pci,rng=random"),
        *_disks(spec, opened),
        *_networks(opened),
        *_kernel(spec, opened),
    ]


def _monitor(opened: Opened) -> list[str]:
    return ["-chardev", f"socket,id=monitor,fd={opened.monitor},server=on,wait=off", "-mon", "chardev=monitor,mode=control"]


def _serial(opened: Opened) -> list[str]:
    socket = f"socket,id=serial,fd={opened.serial},server=on,wait=off,logfile=/dev/fdset/1,logappend=on"
    return [*_fdset(1, opened.log), "-chardev", socket, "-serial", "chardev:serial"]


def _disks(spec: GuestSpec, opened: Opened) -> list[str]:
    arguments: list[str] = []
    if opened.disk is not None:
        if opened.disk.backing is not None:
            # "backing": null: whatever name a base image's header holds, nothing of that name is opened.
            arguments += _fdset(3, opened.disk.backing.fd)
            arguments += _file_node("base-file", 3, read_only=True)
            arguments += _format_node("base", opened.disk.backing.format, "base-file", read_only=True, backing=None)
        arguments += _fdset(2, opened.disk.fd) + _file_node("root-file", 2)
        backing = "base" if opened.disk.backing else None
        arguments += _format_node("root", opened.disk.format, "root-file", backing=backing)
        boot = "" if opened.kernel is not None else ",bootindex=0"
        arguments += ["-device", f"virtio-blk-pci,drive=root,serial={spec.server_id.replace('-', '')[:20]}{boot}"]
    if opened.config is not None:
        arguments += _fdset(4, opened.config) + _file_node("config-file", 4, read_only=True)
        arguments += _format_node("config", "raw", "config-file", read_only=True, backing=None)
        arguments += ["-device", "virtio-blk-pci,drive=config,serial=config-2"]
    return arguments


def _networks(opened: Opened) -> list[str]:
    arguments: list[str] = []
    for index, (port, fd) in enumerate(opened.taps):
        device = f"virtio-net-pci,netdev=net{index},mac={port.mac},host_mtu={port.mtu},romfile="
        arguments += ["-netdev", f"tap,id=net{index},fd={fd},vhost=off", "-device", device]
    return arguments


def _kernel(spec: GuestSpec, opened: Opened) -> list[str]:
    """QEMU reads kernel and ramdisk by plain open(2), so they are named by the process's own descriptors."""
    if opened.kernel is None:
        return []
    words = spec.boot.command_line
    if not any(word.startswith("console=") for word in words.split()):
        words = f"{words} console=ttyS0".strip()
    arguments = ["-kernel", f"/dev/fd/{opened.kernel}", "-append", words]
    if opened.ramdisk is not None:
        arguments += ["-initrd", f"/dev/fd/{opened.ramdisk}"]
    return arguments


def _fdset(number: int, fd: int) -> list[str]:
    return ["-add-fd", f"fd={fd},set={number}"]


def _file_node(name: str, fdset: int, *, read_only: bool = False) -> list[str]:
    node = {"driver": "file", "node-name": name, "filename": f"/dev/fdset/{fdset}", "read-only": read_only}
    return _blockdev(node if read_only else {**node, "discard": "unmap"})


def _format_node(name: str, driver: str, file: str, *, read_only: bool = False, backing: str | None) -> list[str]:
    node: dict[str, Any] = {"driver": driver, "node-name": name, "file": file, "read-only": read_only}
    if driver == "qcow2":
        node["backing"] = backing
    return _blockdev(node if read_only else {**node, "discard": "unmap"})


def _blockdev(node: dict[str, Any]) -> list[str]:
    return ["-blockdev", json.dumps(node, separators=(",", ":"))]
