"""The image service as compute and the hosts see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from pileus.context import Context
from pileus.messages import DiskFormat


@dataclass(frozen=True)
class ImageInfo:
    """An image that the caller may use. Sizes in bytes, `min_disk` in GiB, `min_ram` in MiB; `sha512` of its data, hex."""

    id: str
    name: str
    status: str
    disk_format: DiskFormat | Literal[""]
    """Empty until it is set; an active image has one."""
    size: int
    virtual_size: int
    sha512: str
    min_disk: int = 0
    min_ram: int = 0
    kernel_id: str | None = None
    ramdisk_id: str | None = None
    command_line: str = ""


class ImageClient(Protocol):
    async def show(self, context: Context, image_id: str) -> ImageInfo:
        """Raises NotFound where the caller cannot see it."""
        ...

    async def ticket(self, image_id: str) -> str:
        """A signed statement that whoever shows it may read this image's data for a while."""
        ...
