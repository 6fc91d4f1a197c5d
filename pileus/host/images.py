"""The host's image cache: each image is fetched once, however many boots wait for it, verified, and kept read-only."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import hashlib
import math
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import structlog

from pileus import settings
from pileus.host.hypervisor import Images
from pileus.messages import BootSource, ImageRef

log = structlog.get_logger(__name__)

_BATCH = 1 << 20
"""Bytes gathered before a thread writes and hashes them."""

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_PART = ".part"


class ImageError(Exception):
    """An image could not be brought onto this host. The text names image and cause in one line."""


class ImageSource(Protocol):
    """Where images come from: the image service, or whatever stands between it and this host."""

    def read(self, image_id: str, ticket: str) -> AsyncIterator[bytes]:
        """An image's data from its first byte on, for who shows the control plane's ticket. Raises what says in words why not."""
        ...


@dataclass
class _Fetch:
    """One fetch under way and how many wait for it: the last one to give up ends it."""

    task: asyncio.Task[Path]
    waiting: int = 0


class ImageCache:
    """The files of `folder`, each named by its image's id. Several caches in one process may share a folder."""

    def __init__(
        self, folder: Path, source: ImageSource, settings: settings.Host, *, at_end: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._folder = folder
        self._at_end = at_end
        self._source = source
        self._fetching = asyncio.Semaphore(settings.fetch_concurrency)
        self._keep = settings.remove_unused_original_minimum_age_seconds
        self._fetches: dict[str, _Fetch] = {}
        self._swept = False
        self._users: list[Callable[[], set[str]]] = []
        self._pruned = -math.inf

    def used_by(self, in_use: Callable[[], set[str]]) -> None:
        """One more host stands on these files: `in_use` says the ids of those that it needs, guests being made included."""
        self._users.append(in_use)

    async def left_by(self, in_use: Callable[[], set[str]]) -> None:
        """That host needs none any more. After the last one `at_end` is called."""
        self._users.remove(in_use)
        if not self._users and self._at_end is not None:
            await self._at_end()

    async def prepare(self, boot: BootSource) -> Images:
        """Bring all that a guest starts from onto this host. Raises ImageError."""
        references = [boot.image, boot.kernel, boot.ramdisk]
        disk, kernel, ramdisk = await asyncio.gather(*(self._maybe(reference) for reference in references))
        # An `ami` is the raw disk of a guest with a kernel of its own.
        disk_format = "qcow2" if boot.image is not None and boot.image.disk_format == "qcow2" else "raw"
        return Images(disk, disk_format, kernel, ramdisk)

    async def get(self, reference: ImageRef) -> Path:
        """The image's verified file: at once when it is here, else fetched, once for all who ask. Raises ImageError.

        A fetch that fails, fails for all who wait; the next to ask starts another.
        """
        if not _SAFE_ID.fullmatch(reference.id):
            raise ImageError(f"image {reference.id!r}: that cannot be an id")
        fetch = self._fetches.get(reference.id)
        if fetch is None:
            path = await asyncio.to_thread(self._cached, reference)
            if path is not None:
                return path
            fetch = self._fetches.get(reference.id)
        if fetch is None:
            fetch = self._fetches[reference.id] = _Fetch(asyncio.create_task(self._fetch(reference)))
            fetch.task.add_done_callback(functools.partial(self._forget, reference.id, fetch))
        fetch.waiting += 1
        try:
            return await asyncio.shield(fetch.task)
        finally:
            fetch.waiting -= 1
            if not fetch.waiting and not fetch.task.done():
                self._forget(reference.id, fetch, fetch.task)
                fetch.task.cancel()
                await asyncio.wait([fetch.task])

    async def prune(self, interval: float = 0.0) -> None:
        """Remove images that no guest stands on and that nobody has asked for in `remove_unused_original_minimum_age_seconds`.

        Of several hosts on one cache only the first in `interval` seconds does it for all.
        """
        now = time.monotonic()
        if now - self._pruned < interval:
            return
        self._pruned = now
        in_use = set[str]().union(*(used() for used in self._users))
        removed = await asyncio.to_thread(self._prune, in_use | self._fetches.keys())
        if removed:
            log.info("images.pruned", images=removed)

    def _forget(self, image_id: str, fetch: _Fetch, _task: asyncio.Task[Path]) -> None:
        if self._fetches.get(image_id) is fetch:
            del self._fetches[image_id]

    async def _maybe(self, reference: ImageRef | None) -> Path | None:
        return None if reference is None else await self.get(reference)

    async def _fetch(self, reference: ImageRef) -> Path:
        async with self._fetching:
            part = self._folder / f".{reference.id}.{os.getpid()}.{id(self):x}{_PART}"
            try:
                file = await asyncio.to_thread(self._open, reference, part)
                try:
                    digest = await self._receive(reference, file)
                    if digest != reference.checksum.lower():
                        raise ImageError(f"image {reference.id}: the data received does not have its SHA-512; fetch refused")
                    return await asyncio.to_thread(_finish, file, part, self._folder / reference.id)
                finally:
                    file.close()
            except ImageError:
                raise
            except Exception as error:
                raise ImageError(f"image {reference.id}: {_in_words(error, self._folder)}") from error
            finally:
                part.unlink(missing_ok=True)  # at once: this happens when cancelled, too

    async def _receive(self, reference: ImageRef, file: BinaryIO) -> str:
        """Write and hash what the source gives. Never more than the image's size."""
        digest, received, batch = hashlib.sha512(), 0, bytearray()

        def put(data: bytes) -> None:
            digest.update(data)
            file.write(data)

        async with _closed_at_the_end(self._source.read(reference.id, reference.ticket)) as chunks:
            async for chunk in chunks:
                received += len(chunk)
                if received > reference.size:
                    raise ImageError(f"image {reference.id}: more data than its {reference.size} bytes; fetch refused")
                batch += chunk
                if len(batch) >= _BATCH:
                    await asyncio.to_thread(put, bytes(batch))
                    batch.clear()
        if received < reference.size:
            raise ImageError(f"image {reference.id}: the data ended after {received} of {reference.size} bytes")
        await asyncio.to_thread(put, bytes(batch))
        return digest.hexdigest()

    def _cached(self, reference: ImageRef) -> Path | None:
        """The image's file, marked as used now. Its size is enough: a file gets its name only when verified."""
        self._sweep()
        path = self._folder / reference.id
        try:
            if path.stat().st_size != reference.size:
                return None
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    def _open(self, reference: ImageRef, part: Path) -> BinaryIO:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        room = os.statvfs(self._folder)
        if room.f_bavail * room.f_frsize < reference.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return part.open("wb")

    def _sweep(self) -> None:
        """What a process that was killed had begun to fetch goes, once."""
        if not self._swept:
            self._swept = True
            for part in self._folder.glob(f".*{_PART}"):
                if part.suffixes[-3:-2] != [f".{os.getpid()}"]:
                    part.unlink(missing_ok=True)

    def _prune(self, in_use: set[str]) -> list[str]:
        if not self._folder.is_dir():
            return []
        old = time.time() - self._keep
        removed = []
        for path in self._folder.iterdir():
            if _SAFE_ID.fullmatch(path.name) and path.name not in in_use and path.stat().st_mtime <= old:
                path.unlink(missing_ok=True)
                removed.append(path.name)
        return removed


@contextlib.asynccontextmanager
async def _closed_at_the_end(chunks: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
    """A generator that is left in the middle lets go of its connection now, not when the collector finds it."""
    try:
        yield chunks
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


def _finish(file: BinaryIO, part: Path, path: Path) -> Path:
    """The file gets its name when all of it is on the disk. Nobody writes it again, and whoever was handed it open may read it: QEMU opens
    kernel and ramdisk once more by their descriptors, as the guest's user. The folder keeps everybody else out."""
    file.flush()
    os.fchmod(file.fileno(), 0o444)
    os.fsync(file.fileno())
    part.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return path


def _in_words(error: Exception, folder: Path) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk that holds {folder} is full; remove something from it, or give the host a larger one"
    return str(error) or type(error).__name__
