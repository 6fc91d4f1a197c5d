"""One start of a guest: its files made and opened, its process spawned. Everything here blocks and belongs in a thread."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pileus.host import configdrive, privileged
from pileus.host.hypervisor import HypervisorError, Images
from pileus.host.hypervisor.arguments import Opened, qemu_arguments
from pileus.host.hypervisor.guestfolder import GuestFolder, listen_unix, open_fd, open_log
from pileus.host.switch import Tap
from pileus.messages import GuestSpec


@dataclass(frozen=True)
class Boot:
    """What a start needs. Without `durable` it leaves no spec, so nobody adopts the guest."""

    spec: GuestSpec
    generation: int
    images: Images
    taps: Mapping[str, Tap]
    acceleration: str
    durable: bool = True


def launch(emulator: str, folder: GuestFolder, uid: int, boot: Boot) -> subprocess.Popen[bytes]:
    """Everything of a start that blocks: folder, disks, sockets, process. Raises HypervisorError, OSError.

    What is half made when it fails is the caller's to remove.
    """
    folder.make(uid)
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(folder.open_disk(boot.spec, boot.images, uid))
        if boot.durable:
            folder.write_spec(boot.spec, boot.generation)
        if boot.spec.config_drive:
            configdrive.build(boot.spec, folder.config)
        opened = Opened(
            monitor=stack.enter_context(listen_unix(folder.monitor_socket)).fileno(),
            serial=stack.enter_context(listen_unix(folder.console_socket)).fileno(),
            log=stack.enter_context(open_log(folder.console, uid)),
            disk=disk,
            config=_open_optional(stack, folder.config if boot.spec.config_drive else None),
            kernel=_open_optional(stack, boot.images.kernel),
            ramdisk=_open_optional(stack, boot.images.ramdisk),
            taps=[(port, _tap(port.port_id, boot.taps)) for port in boot.spec.ports],
        )
        output = stack.enter_context(open_log(folder.output, uid))
        os.truncate(output, 0)
        arguments = qemu_arguments(boot.spec, opened, acceleration=boot.acceleration)
        return privileged.spawn_as(uid, [emulator, *arguments], inherit=opened.descriptors(), output=output)


def _open_optional(stack: contextlib.ExitStack, path: Path | None) -> int | None:
    return None if path is None else stack.enter_context(open_fd(path, os.O_RDONLY))


def _tap(port_id: str, taps: Mapping[str, Tap]) -> int:
    tap = taps.get(port_id)
    if tap is None or tap.fd < 0:
        raise HypervisorError(f"port {port_id} has no network device on this host")
    return tap.fd


def in_words(error: BaseException) -> str:
    """Why a start failed, for whoever asked for the guest."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the host's disk is full"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
