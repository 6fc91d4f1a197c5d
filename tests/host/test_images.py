"""The image cache: single flight, verification, failures in words, pruning."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest

from pileus.errors import NotFound
from pileus.host.hypervisor import Images
from pileus.host.images import ImageCache, ImageError
from pileus.messages import BootSource, ImageRef
from pileus.settings import Host

DATA = os.urandom(3_000_000)


def reference(data: bytes = DATA, image_id: str = "image-1", kind: Literal["raw", "qcow2", "aki", "ari", "ami"] = "raw") -> ImageRef:
    return ImageRef(image_id, kind, len(data), hashlib.sha512(data).hexdigest(), len(data))


class Source:
    """Gives `data` in chunks, and counts; `gate` holds the first chunk back."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data = data
        self.reads = 0
        self.now = 0
        self.most = 0
        self.ended = 0
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()

    async def read(self, image_id: str, ticket: str) -> AsyncIterator[bytes]:
        self.reads += 1
        self.now += 1
        self.most = max(self.most, self.now)
        self.begun.set()
        try:
            await self.gate.wait()
            if self.failure is not None:
                raise self.failure
            for at in range(0, len(self.data), 65536):
                yield self.data[at : at + 65536]
        finally:
            self.now -= 1
            self.ended += 1


def cache(folder: Path, source: Source, **changes: Any) -> ImageCache:
    return ImageCache(folder / "images", source, Host(**changes))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "images").iterdir()) if (folder / "images").is_dir() else []


async def test_fetched_once_for_all_and_read_only(tmp_path: Path) -> None:
    source = Source()
    images = cache(tmp_path, source)
    paths = await asyncio.gather(*(images.get(reference()) for _ in range(20)))
    assert set(paths) == {tmp_path / "images" / "image-1"} and source.reads == 1
    assert await asyncio.to_thread(paths[0].read_bytes) == DATA
    modes = [stat.S_IMODE(os.stat(path).st_mode) for path in (paths[0], paths[0].parent)]  # noqa: PTH116
    assert modes == [0o444, 0o700]
    assert await images.get(reference()) == paths[0] and source.reads == 1
    assert names(tmp_path) == ["image-1"]


async def test_survives_a_restart_and_sweeps_what_was_begun(tmp_path: Path) -> None:
    await cache(tmp_path, Source()).get(reference())
    (tmp_path / "images" / ".image-2.1.abc.part").write_bytes(b"half")
    later = Source()
    await cache(tmp_path, later).get(reference())
    assert later.reads == 0 and names(tmp_path) == ["image-1"]


async def test_a_file_of_the_wrong_size_is_fetched_again(tmp_path: Path) -> None:
    source = Source()
    path = await cache(tmp_path, source).get(reference())
    os.truncate(path, 100)
    assert await asyncio.to_thread((await cache(tmp_path, source).get(reference())).read_bytes) == DATA
    assert source.reads == 2


async def test_one_who_gives_up_does_not_spoil_it_for_the_others(tmp_path: Path) -> None:
    source = Source()
    source.gate.clear()
    images = cache(tmp_path, source)
    first, second = (asyncio.create_task(images.get(reference())) for _ in range(2))
    async with asyncio.timeout(5):
        while not (fetch := images._fetches.get("image-1")) or fetch.waiting < 2:
            await asyncio.sleep(0.001)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    source.gate.set()
    assert await second == tmp_path / "images" / "image-1" and source.reads == 1


async def test_the_last_one_to_give_up_ends_the_fetch(tmp_path: Path) -> None:
    source = Source()
    source.gate.clear()
    images = cache(tmp_path, source)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(images.get(reference()), 0.05)
    assert source.ended == 1 and names(tmp_path) == []
    source.gate.set()
    await images.get(reference())
    assert source.reads == 2


async def test_a_failure_is_everybodys_and_the_next_tries_again(tmp_path: Path) -> None:
    source = Source()
    source.failure = NotFound("Image image-1 not found")
    images = cache(tmp_path, source)
    source.gate.clear()
    asking = asyncio.gather(*(images.get(reference()) for _ in range(5)), return_exceptions=True)
    async with asyncio.timeout(5):
        while not (fetch := images._fetches.get("image-1")) or fetch.waiting < 5:
            await asyncio.sleep(0.001)
    source.gate.set()
    results = await asking
    assert [str(result) for result in results] == ["image image-1: Image image-1 not found"] * 5
    assert all(isinstance(result, ImageError) for result in results) and source.reads == 1
    source.failure = None
    await images.get(reference())
    assert source.reads == 2 and names(tmp_path) == ["image-1"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (DATA[:-1] + b"?", "SHA-512"),
        (DATA[:-70000], f"ended after {len(DATA) - 70000} of {len(DATA)} bytes"),
        (DATA + b"more", f"more data than its {len(DATA)} bytes"),
    ],
)
async def test_data_that_is_not_the_images_is_refused(tmp_path: Path, given: bytes, words: str) -> None:
    source = Source(given)
    with pytest.raises(ImageError, match=words):
        await cache(tmp_path, source).get(reference())
    assert names(tmp_path) == [] and source.ended == 1


async def test_a_disk_too_small_is_found_before_anything_is_fetched(tmp_path: Path) -> None:
    source = Source()
    huge = ImageRef("image-1", "raw", 1 << 60, "00", 1 << 60)
    with pytest.raises(ImageError, match=r"image image-1: the disk that holds .*images is full; remove something"):
        await cache(tmp_path, source).get(huge)
    assert source.reads == 0


async def test_a_disk_that_fills_up_on_the_way(tmp_path: Path) -> None:
    source = Source()
    source.failure = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ImageError, match="is full"):
        await cache(tmp_path, source).get(reference())
    assert names(tmp_path) == []


async def test_no_more_fetches_at_once_than_the_setting_allows(tmp_path: Path) -> None:
    source = Source(b"x")
    source.gate.clear()
    images = cache(tmp_path, source, fetch_concurrency=2)
    getting = [asyncio.create_task(images.get(reference(b"x", f"image-{number}"))) for number in range(8)]
    async with asyncio.timeout(5):
        while source.now < 2:
            await asyncio.sleep(0.01)
    source.gate.set()
    await asyncio.gather(*getting)
    assert (source.reads, source.most) == (8, 2)


async def test_an_id_cannot_leave_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be an id"):
        await cache(tmp_path, Source()).get(reference(image_id="../evil"))


async def test_prepare(tmp_path: Path) -> None:
    images = cache(tmp_path, Source(b"x"))
    disk, kernel, ramdisk = (reference(b"x", name) for name in ("disk", "kernel", "ramdisk"))
    folder = tmp_path / "images"
    assert await images.prepare(BootSource()) == Images()
    assert await images.prepare(BootSource(kernel=kernel, ramdisk=ramdisk)) == Images(None, "raw", folder / "kernel", folder / "ramdisk")
    assert await images.prepare(BootSource(disk)) == Images(folder / "disk", "raw")
    assert await images.prepare(BootSource(reference(b"x", "q", "qcow2"))) == Images(folder / "q", "qcow2")
    assert await images.prepare(BootSource(reference(b"x", "a", "ami"))) == Images(folder / "a", "raw")


async def test_prune_removes_what_is_unused_for_long(tmp_path: Path) -> None:
    images = cache(tmp_path, Source(b"x"), remove_unused_original_minimum_age_seconds=1000)
    for name in ("used", "old", "new", "asked"):
        path = await images.get(reference(b"x", name))
        if name != "new":
            os.utime(path, (time.time() - 2000,) * 2)
    await images.get(reference(b"x", "asked"))
    images.used_by(lambda: {"used"})
    await images.prune()
    assert names(tmp_path) == ["asked", "new", "used"]


async def test_prune_at_once_when_the_setting_is_zero(tmp_path: Path) -> None:
    images = cache(tmp_path, Source(b"x"), remove_unused_original_minimum_age_seconds=0)
    used = {"image-1"}
    await images.prune()
    await images.get(reference(b"x"))
    images.used_by(in_use := lambda: set(used))
    await images.prune()
    assert names(tmp_path) == ["image-1"]
    used.clear()
    await images.prune()
    assert names(tmp_path) == []
    await images.left_by(in_use)


async def test_what_any_host_on_the_cache_stands_on_stays_and_one_prunes_for_all(tmp_path: Path) -> None:
    ends: list[str] = []

    async def end() -> None:
        ends.append("source closed")

    images = ImageCache(tmp_path / "images", Source(b"x"), Host(remove_unused_original_minimum_age_seconds=0), at_end=end)
    users = [lambda: {"one"}, lambda: {"two"}]
    for user in users:
        images.used_by(user)
    for name in ("one", "two", "three"):
        await images.get(reference(b"x", name))
    await images.prune(3600)
    assert names(tmp_path) == ["one", "two"]
    await images.get(reference(b"x", "three"))
    await images.prune(3600)
    assert names(tmp_path) == ["one", "three", "two"]  # the next host: not again so soon
    await images.left_by(users[0])
    assert ends == []
    await images.prune()
    assert names(tmp_path) == ["two"]
    await images.left_by(users[1])
    assert ends == ["source closed"]
