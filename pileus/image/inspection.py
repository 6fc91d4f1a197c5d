"""Is an upload what it is said to be, and harmless? An image that names other files would be opened by QEMU with the host's rights."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pileus.errors import BadRequest
from pileus.host.hypervisor import qcow2


async def inspect(path: Path, disk_format: str) -> int:
    """The size in bytes of the disk that a guest would see. Raises BadRequest that says what is wrong and what to change."""
    return await asyncio.to_thread(_inspect, path, disk_format)


def _inspect(path: Path, disk_format: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        header = qcow2.read_header(fd)
        size = os.fstat(fd).st_size
    finally:
        os.close(fd)
    if disk_format != "qcow2":
        if header is not None:
            raise BadRequest(
                f"The data is a qcow2 image, but the image's disk_format is {disk_format}: make an image with disk_format qcow2."
            )
        return size
    if header is None:
        raise BadRequest("The data is not a qcow2 image, but the image's disk_format is qcow2: make an image with the data's own format.")
    if header.backing or header.external_data:
        what = "a backing file" if header.backing else "an external data file"
        raise BadRequest(f"The qcow2 image refers to {what}; make it stand alone (qemu-img convert -O qcow2) and upload that.")
    return header.size
