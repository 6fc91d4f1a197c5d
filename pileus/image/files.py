"""The folder of images' data: written beside, moved into place when whole, read in pieces. Nothing here blocks the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from pileus.errors import NotFound, Stalled, TooLarge, Unavailable

T = TypeVar("T")

PIECE = 1 << 20
STALL = 60.0
"""Seconds that an upload may bring nothing before it is given up."""
YOUNG = 60.0
"""Seconds in which a new file may not be locked yet by whoever is making it."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True)
class Received:
    """What an upload came to: bytes, and its hashes in hex."""

    size: int
    md5: str
    sha512: str


class Files:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, image_id: str) -> Path:
        return self._folder / image_id

    def part(self, image_id: str, upload: str) -> Path:
        """Where an upload's data is until it is whole."""
        return self._folder / f"{image_id}.{upload}.part"

    def prepare(self) -> None:
        """Blocking. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def create(self, part: Path) -> BinaryIO:
        """A new file, locked for as long as it is open: so other processes that share the folder see that its upload is under
        way, and the lock ends with the process, however that ends. The caller closes it. Raises TooLarge, Unavailable."""
        return await _writing(lambda: _create(part))

    async def receive(self, file: BinaryIO, chunks: AsyncIterator[bytes], limit: int) -> Received:
        """Write what comes, durably.

        Raises TooLarge (more than `limit` bytes, or the disk is full), Stalled, Unavailable, and whatever `chunks` raises.
        """
        return await _receive(file, chunks, limit)

    async def keep(self, part: Path, image_id: str) -> None:
        """Move a whole upload to its place, durably. Raises TooLarge, Unavailable."""
        await _writing(lambda: _keep(part, self.path(image_id)))

    async def remove(self, *paths: Path) -> None:
        """Remove files that may be there."""
        await _in_thread(lambda: _remove(paths))

    async def open(self, image_id: str, start: int = 0, length: int | None = None) -> Reading:
        """An image's data from `start` on. Raises NotFound where there is none."""
        try:
            file = await _in_thread(lambda: self.path(image_id).open("rb", buffering=0))
        except FileNotFoundError:
            raise NotFound(f"The data of image {image_id} is not there.") from None
        return Reading(file, start, length)

    def abandoned(self) -> set[str]:
        """Files that no process is making now: the data of images, and what killed ones left. Blocking. Raises OSError."""
        return {entry.name for entry in self._folder.iterdir() if not _busy(entry)}

    def busy(self, uploads: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of the uploads (image, upload) that a process is working on. Blocking. Raises OSError."""
        return {(image, name) for image, name in uploads if any(_busy(path) for path in (self.part(image, name), self.path(image)))}

    def purge(self, abandoned: Collection[str], keep: Collection[str]) -> set[str]:
        """Remove what is `abandoned` and not the data of the images `keep`; those of them that have none. Blocking.

        What there was is looked at before it is asked what to keep: an upload that ends in between is in both.
        """
        _remove([self._folder / name for name in set(abandoned).difference(keep)])
        return {image_id for image_id in keep if not self.path(image_id).exists()}


class Reading:
    """An open image, a piece at a time."""

    def __init__(self, file: BinaryIO, start: int, length: int | None) -> None:
        self._file, self._at, self._left = file, start, length

    def __aiter__(self) -> Reading:
        return self

    async def __anext__(self) -> bytes:
        wanted = PIECE if self._left is None else min(PIECE, self._left)
        piece = await _in_thread(lambda: os.pread(self._file.fileno(), wanted, self._at)) if wanted else b""
        if not piece:
            await self.aclose()
            raise StopAsyncIteration
        self._at += len(piece)
        if self._left is not None:
            self._left -= len(piece)
        return piece

    async def aclose(self) -> None:
        self._file.close()


async def _receive(file: BinaryIO, chunks: AsyncIterator[bytes], limit: int) -> Received:
    md5, sha512 = hashlib.md5(usedforsecurity=False), hashlib.sha512()
    waiting, size = bytearray(), 0

    def write(data: bytes) -> None:
        md5.update(data)
        sha512.update(data)
        file.write(data)

    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(STALL) as patience:
            async for chunk in chunks:
                size += len(chunk)
                if size > limit:
                    raise TooLarge(f"The image is too large: at most {limit} bytes are taken (setting image.max_size).")
                waiting += chunk
                if len(waiting) >= PIECE:
                    data, waiting = bytes(waiting), bytearray()
                    patience.reschedule(None)
                    await _writing(partial(write, data))
                patience.reschedule(loop.time() + STALL)
    except TimeoutError:
        raise Stalled(f"The upload brought nothing for {STALL:.0f} s and was given up.") from None

    def finish() -> None:
        write(bytes(waiting))
        file.flush()
        os.fsync(file.fileno())

    await _writing(finish)
    return Received(size, md5.hexdigest(), sha512.hexdigest())


async def _writing(work: Callable[[], T]) -> T:
    """`work` in a thread, its failure in words. Raises TooLarge where the disk is full, Unavailable."""
    try:
        return await _in_thread(work)
    except OSError as error:
        if error.errno in _FULL:
            raise TooLarge(f"Image storage media is full: {error.strerror}; delete images or give it more space.") from None
        raise Unavailable(f"The image could not be written: {error.strerror}.") from None


async def _in_thread(work: Callable[[], T]) -> T:
    """`work` in a thread. When cancelled its end is awaited first, so that nobody closes a file under it."""
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise


def _create(part: Path) -> BinaryIO:
    file = part.open("xb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        file.close()
        raise
    return file


def _busy(path: Path) -> bool:
    """Whether some process holds the file locked, or has made it only just now."""
    try:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            there = os.fstat(file.fileno())
            return there.st_size == 0 and time.time() - there.st_mtime < YOUNG
    except FileNotFoundError:
        return False


def _keep(part: Path, place: Path) -> None:
    part.rename(place)
    folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _remove(paths: Collection[Path]) -> None:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
