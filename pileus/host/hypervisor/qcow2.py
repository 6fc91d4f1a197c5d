"""qcow2 version 3, as much as a host needs: an empty overlay over a base image, and what a base image says of itself.

Format: QEMU's docs/interop/qcow2.txt. Writing the few clusters of an empty overlay here saves the start of qemu-img, which
costs more than everything else that is done for a guest's disk.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"QFI\xfb"
CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
SECTOR = 512

_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_EXTENSION = struct.Struct(">II")
_BACKING_FORMAT = 0xE2792ACA
_EXTERNAL_DATA_FILE = 1 << 2
_ENTRIES_OF_L2 = CLUSTER // 8
_REFCOUNTS_OF_BLOCK = CLUSTER // 2
_MAX_NAME = 1023


@dataclass(frozen=True)
class Header:
    """What a qcow2 file says of itself. `size` in bytes; `backing` is empty where the image stands alone."""

    size: int
    backing: str
    external_data: bool


def overlay(size: int, backing: str, backing_format: str) -> dict[int, bytes]:
    """The clusters of an empty overlay of `size` bytes (a multiple of 512), by offset; what lies between is zero.

    Raises ValueError where the format cannot hold it.
    """
    name = backing.encode()
    if len(name) > _MAX_NAME:
        raise ValueError(f"a qcow2 file cannot name a backing file of more than {_MAX_NAME} bytes")
    if size % SECTOR:
        raise ValueError(f"a disk's size must be a multiple of {SECTOR} bytes")
    l1_entries = -(-size // (CLUSTER * _ENTRIES_OF_L2))
    l1_clusters = max(1, -(-l1_entries * 8 // CLUSTER))
    table, block, l1 = CLUSTER, 2 * CLUSTER, 3 * CLUSTER
    used = 3 + l1_clusters
    if used > _REFCOUNTS_OF_BLOCK:
        raise ValueError(f"a disk of {size} bytes is larger than this format holds")
    kind = backing_format.encode()
    extensions = _EXTENSION.pack(_BACKING_FORMAT, len(kind)) + kind.ljust(-(-len(kind) // 8) * 8, b"\0") + bytes(8)
    header = _HEADER.pack(
        MAGIC, 3, _HEADER.size + len(extensions), len(name), CLUSTER_BITS, size, 0, l1_entries, l1, table, 1, 0, 0,
        0, 0, 0, 4, _HEADER.size,
    )  # fmt: skip
    return {
        0: header + extensions + name,
        table: struct.pack(">Q", block),
        block: struct.pack(">H", 1) * used,
        # The file must reach to the end of its last cluster, so the last bytes of an otherwise empty table are named.
        l1 + l1_clusters * CLUSTER - 8: bytes(8),
    }


def write_overlay(fd: int, size: int, backing: Path, backing_format: str) -> None:
    """Fill the empty file `fd` with an overlay. Raises OSError and ValueError."""
    for offset, data in overlay(size, str(backing), backing_format).items():
        os.pwrite(fd, data, offset)


def read_header(fd: int) -> Header | None:
    """What the qcow2 file `fd` says of itself; None where it is none."""
    start = os.pread(fd, CLUSTER, 0)
    if len(start) < 72 or start[:4] != MAGIC:
        return None
    version, name_at, name_size = struct.unpack_from(">IQI", start, 4)
    (size,) = struct.unpack_from(">Q", start, 24)
    incompatible = struct.unpack_from(">Q", start, 72)[0] if version >= 3 and len(start) >= 80 else 0
    backing = os.pread(fd, min(name_size, _MAX_NAME), name_at).decode(errors="replace") if name_at else ""
    return Header(size, backing, bool(incompatible & _EXTERNAL_DATA_FILE))


def virtual_size(fd: int, image_format: str) -> int:
    """The size in bytes of the disk that a guest sees of the image `fd`.

    Raises ValueError where the file is not what `image_format` says, or would make QEMU open files of the image's choice.
    """
    if image_format == "raw":
        return -(-os.fstat(fd).st_size // SECTOR) * SECTOR
    if image_format != "qcow2":
        raise ValueError(f"disk images of format {image_format} cannot be booted; use raw or qcow2")
    header = read_header(fd)
    if header is None:
        raise ValueError("the image is not a qcow2 file")
    if header.backing or header.external_data:
        raise ValueError("the image refers to another file; upload one that stands alone")
    return header.size
