"""The image service in process: what compute and the hosts use (`ImageClient`), uploads, and the store that its API reads."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import structlog

from pileus.clients.image import ImageInfo
from pileus.context import Context
from pileus.errors import BadRequest, StartupError, TooLarge
from pileus.image import images, inspection, upload
from pileus.image.files import Files, Reading, Received
from pileus.image.tickets import Tickets
from pileus.settings import Settings
from pileus.store import Store

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Images:
    """See `pileus.clients.image.ImageClient`. `start` before use."""

    def __init__(self, store: Store, folder: Path, settings: Settings) -> None:
        self.store = store
        self.files = Files(folder)
        self.tickets = Tickets(store, settings.image.ticket_lifetime)
        self._settings = settings.image
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Bring database and files together after whatever ended us. Raises StartupError."""
        files = self.files
        try:
            await asyncio.to_thread(files.prepare)
            abandoned = await asyncio.to_thread(files.abandoned)
            uploads = await self.store.read(upload.under_way)
            busy = await asyncio.to_thread(files.busy, {(image, upload.mark(name)) for image, name in uploads})
            cut_off = [(image, name) for image, name in uploads if (image, upload.mark(name)) not in busy]
            with_data = await self.store.write(upload.recover, cut_off)
            missing = await asyncio.to_thread(files.purge, abandoned, with_data)
        except OSError as error:
            raise StartupError(f"image folder {error.filename}: {error.strerror}") from None
        if missing:
            log.error("images.without_data", images=sorted(missing))

    async def close(self) -> None:
        """Wait for what cleans up behind uploads that were cut off."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def show(self, context: Context, image_id: str) -> ImageInfo:
        return await self.store.read(images.info, context, image_id)

    async def ticket(self, image_id: str) -> str:
        return await self.tickets.issue(image_id)

    async def read(self, image_id: str, ticket: str = "") -> AsyncIterator[bytes]:
        """An image's data, for who is in this process and need show nothing. Raises NotFound."""
        reading = await self.files.open(image_id)
        try:
            async for piece in reading:
                yield piece
        finally:
            await reading.aclose()

    async def open(self, image_id: str, start: int = 0, length: int | None = None) -> Reading:
        """A part of an image's data. Raises NotFound."""
        return await self.files.open(image_id, start, length)

    async def upload(self, context: Context, image_id: str, chunks: AsyncIterator[bytes], size: int | None) -> None:
        """Take an image's data; `size` in bytes where the sender says it. Fails whole: the image is queued again, no file is left.

        Raises NotFound, Forbidden, Conflict, BadRequest, TooLarge, Unavailable, Stalled, Gone, and what `chunks` raises.
        """
        if size is not None and size > self._settings.max_size:
            raise TooLarge(f"The image is too large: at most {self._settings.max_size} bytes are taken (setting image.max_size).")
        await self.store.read(images.for_change, context, image_id)
        mark = uuid.uuid4().hex
        part = self.files.part(image_id, mark)
        # Locked before the image says `saving`: whoever starts meanwhile must see that it is being worked on.
        try:
            file = await self._whole(self.files.create(part))
        except asyncio.CancelledError:
            await self._whole(self.files.remove(part))
            raise
        try:
            image = await self._whole(self.store.write(upload.begin, context, image_id, mark))
            received = await self.files.receive(file, chunks, self._settings.max_size)
            if size is not None and received.size != size:
                raise BadRequest(f"{size} bytes were announced, {received.size} came: upload it again.")
            virtual_size = await inspection.inspect(part, image["disk_format"], self._settings)
        except BaseException:
            await self._whole(self._abandon(image_id, mark, file))
            raise
        await self._whole(self._finish(image_id, mark, file, received, virtual_size))

    async def delete(self, context: Context, image_id: str) -> None:
        """Raises NotFound, Forbidden."""
        await self.store.write(images.remove, context, image_id)
        await self._whole(self.files.remove(self.files.path(image_id)))

    async def _finish(self, image_id: str, mark: str, file: BinaryIO, received: Received, virtual_size: int) -> None:
        try:
            await self.files.keep(self.files.part(image_id, mark), image_id)
            await self.store.write(upload.finish, image_id, mark, received, virtual_size)
        except Exception:
            await self._abandon(image_id, mark, file, placed=True)
            raise
        file.close()

    async def _abandon(self, image_id: str, mark: str, file: BinaryIO, *, placed: bool = False) -> None:
        """The image stays `saving`, by an upload that failed, until its data is gone: so no other upload's is removed. The lock is
        let go of last."""
        try:
            whose = await self.store.write(upload.disown, image_id, mark)
            if placed and whose != "not ours":
                await self.files.remove(self.files.path(image_id))
            await self.files.remove(self.files.part(image_id, mark))
            if whose == "ours":
                await self.store.write(upload.requeue, image_id, mark)
        finally:
            file.close()

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Let `work` come to its end even when the caller is cancelled; the caller goes on only then."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise
