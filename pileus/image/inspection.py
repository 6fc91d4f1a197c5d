"""Is an upload what it is said to be? A qcow2 image that a guest is given as raw could name any file when it is next looked at."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pileus import qemuimg
from pileus.errors import BadRequest
from pileus.settings import Image

_QCOW2 = b"QFI\xfb"


async def inspect(path: Path, disk_format: str, limits: Image) -> int:
    """The size in bytes of the disk that a guest would see. Raises BadRequest that says what is wrong and what to change."""
    if disk_format != "qcow2" and await asyncio.to_thread(_starts, path) == _QCOW2:
        raise BadRequest(f"The data is a qcow2 image, but the image's disk_format is {disk_format}: make an image with disk_format qcow2.")
    return (await qemuimg.inspect(path, disk_format, limits)).virtual_size


def _starts(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_QCOW2))
