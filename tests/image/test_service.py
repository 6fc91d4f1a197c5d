"""Uploads and everything that can cut them short: afterwards the image is queued, and no file is left."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pileus.errors import BadRequest, Conflict, Forbidden, NotFound, Stalled, TooLarge
from pileus.image import files, upload
from pileus.image import images as rules
from pileus.image.service import Images
from pileus.image.upload import Gone
from pileus.settings import Image, Settings
from tests.image.conftest import ADMIN, MAX_SIZE, OTHER, OWNER, chunks, qcow2

DATA = os.urandom((2 << 20) + 4321)
SECTORS = -(-len(DATA) // 512) * 512


async def make(images: Images, **values: Any) -> str:
    values = {"name": "image", "disk_format": "raw", "container_format": "bare", **values}
    return str((await images.store.write(rules.create, OWNER, str(uuid.uuid4()), values))["id"])


async def row(images: Images, image_id: str) -> Any:
    return await images.store.read(rules.show, OWNER, image_id)


async def data(images: Images, image_id: str) -> bytes:
    return b"".join([piece async for piece in images.read(image_id)])


def folder(images: Images) -> set[str]:
    return {entry.name for entry in images.files.path("x").parent.iterdir()}


async def check_untouched(images: Images, image_id: str) -> None:
    assert (await row(images, image_id))["status"] == "queued" and folder(images) == set()
    await images.upload(OWNER, image_id, chunks(b"second try"), None)
    assert await data(images, image_id) == b"second try"


async def test_data_comes_back_as_it_went_in(images: Images) -> None:
    image_id = await make(images, kernel_id="k", ramdisk_id="r", os_command_line="quiet", min_disk=1, min_ram=64)
    await images.upload(OWNER, image_id, chunks(DATA), len(DATA))
    assert await data(images, image_id) == DATA
    found = await row(images, image_id)
    assert (found["status"], found["size"], found["checksum"]) == ("active", len(DATA), hashlib.md5(DATA).hexdigest())
    info = await images.show(OWNER, image_id)
    assert info.sha512 == found["os_hash_value"] == hashlib.sha512(DATA).hexdigest()
    assert (info.status, info.disk_format, info.size, info.virtual_size) == ("active", "raw", len(DATA), SECTORS)
    assert (info.kernel_id, info.ramdisk_id, info.command_line, info.min_disk, info.min_ram) == ("k", "r", "quiet", 1, 64)
    assert folder(images) == {image_id}


async def test_parts_of_the_data(images: Images) -> None:
    image_id = await make(images)
    await images.upload(OWNER, image_id, chunks(DATA), None)
    reading = await images.open(image_id, 1000, (1 << 20) + 5)
    assert b"".join([piece async for piece in reading]) == DATA[1000 : 1000 + (1 << 20) + 5]
    with pytest.raises(NotFound):
        await images.open(str(uuid.uuid4()))
    with pytest.raises(NotFound):
        await data(images, str(uuid.uuid4()))


async def test_a_download_goes_on_while_the_image_is_deleted(images: Images) -> None:
    image_id = await make(images)
    await images.upload(OWNER, image_id, chunks(DATA), None)
    reading = await images.open(image_id)
    await images.delete(OWNER, image_id)
    assert b"".join([piece async for piece in reading]) == DATA
    assert folder(images) == set()
    with pytest.raises(NotFound):
        await images.show(OWNER, image_id)


async def test_another_projects_image_is_not_there(images: Images) -> None:
    image_id = await make(images)
    for attempt in (images.show(OTHER, image_id), images.upload(OTHER, image_id, chunks(b"x"), None), images.delete(OTHER, image_id)):
        with pytest.raises(NotFound):
            await attempt
    assert (await images.show(ADMIN, image_id)).id == image_id
    seen = await make(images, visibility="community")
    with pytest.raises(Forbidden):
        await images.upload(OTHER, seen, chunks(b"x"), None)


async def test_a_cut_off_upload(images: Images) -> None:
    async def cut() -> AsyncIterator[bytes]:
        yield DATA
        raise ConnectionResetError("gone")

    image_id = await make(images)
    with pytest.raises(ConnectionResetError):
        await images.upload(OWNER, image_id, cut(), None)
    await check_untouched(images, image_id)


@pytest.mark.parametrize("announced", [len(DATA) - 1, len(DATA) + 1])
async def test_not_as_much_as_announced(images: Images, announced: int) -> None:
    image_id = await make(images)
    with pytest.raises(BadRequest, match="announced"):
        await images.upload(OWNER, image_id, chunks(DATA), announced)
    await check_untouched(images, image_id)


async def test_an_upload_that_stalls(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stall() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    monkeypatch.setattr(files, "STALL", 0.05)
    image_id = await make(images)
    with pytest.raises(Stalled):
        await images.upload(OWNER, image_id, stall(), None)
    await check_untouched(images, image_id)


@pytest.mark.parametrize("announced", [None, MAX_SIZE + 1])
async def test_an_image_that_is_too_large(images: Images, announced: int | None) -> None:
    image_id = await make(images)
    with pytest.raises(TooLarge, match="max_size"):
        await images.upload(OWNER, image_id, chunks(bytes(MAX_SIZE + 1), 1 << 20), announced)
    await check_untouched(images, image_id)


async def test_the_largest_image_that_may_be(images: Images) -> None:
    image_id = await make(images)
    await images.upload(OWNER, image_id, chunks(bytes(MAX_SIZE), 1 << 20), MAX_SIZE)
    assert (await row(images, image_id))["size"] == MAX_SIZE


async def test_a_disk_that_is_full(images: Images) -> None:
    image_id = await make(images)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(TooLarge, match="full"):
            await images.upload(OWNER, image_id, chunks(DATA), None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    await check_untouched(images, image_id)


@pytest.mark.parametrize("moment", [1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30])
async def test_cancelled_at_any_moment_it_is_all_or_nothing(images: Images, moment: int) -> None:
    """Counted in turns of the event loop, so that each cancellation meets another await."""
    image_id = await make(images)
    uploading = asyncio.create_task(images.upload(OWNER, image_id, chunks(DATA, 1 << 20), None))
    for _ in range(moment):
        await asyncio.sleep(0.001)
    uploading.cancel()
    await asyncio.gather(uploading, return_exceptions=True)
    await images.close()
    if (await row(images, image_id))["status"] == "active":
        assert await data(images, image_id) == DATA and folder(images) == {image_id}
    else:
        await check_untouched(images, image_id)


async def test_data_goes_in_once(images: Images) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        begun.set()
        await go_on.wait()
        yield b"first"

    image_id = await make(images)
    first = asyncio.create_task(images.upload(OWNER, image_id, slow(), None))
    await begun.wait()
    with pytest.raises(Conflict):
        await images.upload(OWNER, image_id, chunks(b"second"), None)
    go_on.set()
    await first
    with pytest.raises(Conflict):
        await images.upload(OWNER, image_id, chunks(b"third"), None)
    assert await data(images, image_id) == b"first" and folder(images) == {image_id}


async def test_deleted_while_it_comes_in(images: Images) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        begun.set()
        await go_on.wait()
        yield b"late"

    image_id = await make(images)
    uploading = asyncio.create_task(images.upload(OWNER, image_id, slow(), None))
    await begun.wait()
    await images.delete(OWNER, image_id)
    go_on.set()
    with pytest.raises(Gone):
        await uploading
    assert folder(images) == set()


async def test_formats_must_be_known_before(images: Images) -> None:
    image_id = await make(images, disk_format=None)
    with pytest.raises(BadRequest, match="disk_format"):
        await images.upload(OWNER, image_id, chunks(b"x"), None)


async def test_a_qcow2_image_says_how_large_its_disk_is(images: Images) -> None:
    image_id = await make(images, disk_format="qcow2")
    await images.upload(OWNER, image_id, chunks(qcow2(1 << 30)), None)
    info = await images.show(OWNER, image_id)
    assert info.virtual_size == 1 << 30 and info.size == len(qcow2(1 << 30))


@pytest.mark.parametrize(
    ("declared", "content", "word"),
    [
        ("qcow2", qcow2(1 << 30, backing="/etc/shadow"), "backing file"),
        ("qcow2", qcow2(1 << 30, data_file=True), "another file"),
        ("qcow2", bytes(4096), "not a qcow2 file"),
        ("qcow2", b"", "not a qcow2 file"),
        ("raw", qcow2(1 << 30), "is a qcow2 image"),
    ],
)
async def test_what_is_not_taken(images: Images, declared: str, content: bytes, word: str) -> None:
    image_id = await make(images, disk_format=declared)
    with pytest.raises(BadRequest, match=word):
        await images.upload(OWNER, image_id, chunks(content), None)
    assert (await row(images, image_id))["status"] == "queued" and folder(images) == set()


async def test_a_start_ends_uploads_that_were_cut_off_and_removes_what_has_no_row(images: Images, tmp_path: Path) -> None:
    whole, cut, cleaned = await make(images), await make(images), await make(images)
    await images.upload(OWNER, whole, chunks(DATA), None)
    for image_id in (cut, cleaned):
        await images.store.write(upload.begin, OWNER, image_id, f"killed-{image_id}")
        images.files.part(image_id, f"killed-{image_id}").write_bytes(b"what had come")
    await images.store.write(upload.disown, cleaned, f"killed-{cleaned}")
    (images.files.path("nobodys")).write_bytes(b"left by a crash between a file and its row")
    (images.files.path(cut)).write_bytes(b"left by a crash between the rename and the commit")
    after = Images(images.store, tmp_path / "images", Settings(image=Image(max_size=MAX_SIZE)))
    await after.start()
    assert folder(after) == {whole}
    assert [(await row(after, each))["status"] for each in (cut, cleaned)] == ["queued", "queued"]
    assert await data(after, whole) == DATA
    await check_untouched_beside(after, cut, whole)


async def test_a_start_leaves_alone_what_another_process_is_uploading(images: Images, tmp_path: Path) -> None:
    image_id = await make(images)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield DATA
        begun.set()
        await go_on.wait()

    uploading = asyncio.create_task(images.upload(OWNER, image_id, slow(), None))
    await begun.wait()
    after = Images(images.store, tmp_path / "images", Settings(image=Image(max_size=MAX_SIZE)))
    await after.start()
    assert (await row(after, image_id))["status"] == "saving"
    go_on.set()
    await uploading
    assert await data(after, image_id) == DATA and folder(after) == {image_id}


async def check_untouched_beside(images: Images, image_id: str, other: str) -> None:
    await images.upload(OWNER, image_id, chunks(b"second try"), None)
    assert await data(images, image_id) == b"second try" and folder(images) == {image_id, other}
