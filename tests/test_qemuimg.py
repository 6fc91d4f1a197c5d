"""Looking into disk images: sound ones of every kind qemu-img makes, and hostile ones."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pileus import qemuimg
from pileus.errors import Unavailable
from pileus.qemuimg import ImageInfo, ImageRefused
from pileus.settings import Image

MIB = 1 << 20
LIMITS = Image()


def made(folder: Path, *options: str, size: str = "10M", name: str = "disk.qcow2") -> Path:
    path = folder / name
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, size], check=True)
    path.chmod(0o600)
    return path


def patched(path: Path, at: int, data: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
    return path


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-o", "compat=0.10"],
        ["-o", "cluster_size=512"],
        ["-o", "cluster_size=2M"],
        ["-o", "compression_type=zstd"],
        ["-o", "extended_l2=on"],
        ["-o", "lazy_refcounts=on"],
        ["-o", "refcount_bits=64"],
    ],
)
async def test_sound_images(tmp_path: Path, options: list[str]) -> None:
    found = await qemuimg.inspect(made(tmp_path, *options), "qcow2", LIMITS)
    assert found == ImageInfo("qcow2", 10 * MIB)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder, first in PATH, from which anybody may run programs."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        yield Path(folder)


async def test_the_file_is_looked_at_as_nobody_and_is_as_before(tmp_path: Path, programs: Path) -> None:
    path = made(tmp_path)
    spy = programs / "qemu-img"
    spy.write_text(
        '#!/bin/sh\nexec 2>&1; echo \'{"format": "x", "virtual-size": 1,\'; '
        'echo "\\"backing-filename\\": \\"$(id -u) $(id -g) $(grep CapBnd /proc/self/status | cut -f2) '
        '$(ulimit -v) $(ulimit -f) $(ulimit -t) $(env | wc -l)\\"}"\n'
    )
    spy.chmod(0o755)
    limits = Image(inspect_memory=512 * MIB, inspect_timeout=7)
    uid, gid, bounding, memory, file_size, cpu, *_ = (await qemuimg.info(path, "qcow2", limits)).backing_file.split()
    if os.geteuid() == 0:
        assert (uid, gid, int(bounding, 16)) == (str(qemuimg.INSPECTOR_ID), str(qemuimg.INSPECTOR_ID), 0)
    else:
        assert uid == str(os.geteuid())
    assert (memory, file_size, cpu) == (str(512 * 1024), "0", "7")
    after = path.stat()
    assert (stat.S_IMODE(after.st_mode), after.st_uid, after.st_gid) == (0o600, os.geteuid(), os.getegid())


async def test_raw_is_its_own_size_whatever_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"QFI\xfb" + bytes(1000))
    assert await qemuimg.inspect(path, "raw", LIMITS) == ImageInfo("raw", 1024)
    assert await qemuimg.inspect(path, "aki", LIMITS) == ImageInfo("aki", 1024)


async def test_backing_file(tmp_path: Path) -> None:
    base = made(tmp_path, name="base.qcow2")
    path = made(tmp_path, "-b", str(base), "-F", "qcow2")
    with pytest.raises(ImageRefused, match=r"backing file.*stands alone"):
        await qemuimg.inspect(path, "qcow2", LIMITS)
    with pytest.raises(ImageRefused, match="backing file"):
        qemuimg.check_safe(await qemuimg.info(path, "qcow2", LIMITS))


async def test_backing_file_that_would_read_a_secret(tmp_path: Path) -> None:
    path = made(tmp_path)
    name = b"/etc/shadow"
    patched(path, 8, struct.pack(">QI", 512, len(name)))
    patched(path, 512, name)
    with pytest.raises(ImageRefused, match="backing file"):
        await qemuimg.inspect(path, "qcow2", LIMITS)


async def test_data_file(tmp_path: Path) -> None:
    path = made(tmp_path, "-o", f"data_file={tmp_path}/data,data_file_raw=on")
    with pytest.raises(ImageRefused, match="another file"):
        await qemuimg.inspect(path, "qcow2", LIMITS)


async def test_data_file_named_without_the_feature(tmp_path: Path) -> None:
    """CVE-2024-4467 is of this kind: the extension alone must be enough to refuse."""
    path = made(tmp_path)
    header = path.read_bytes()[:104]
    (length,) = struct.unpack_from(">I", header, 100)
    name = b'json:{"driver":"file","filename":"/etc/shadow"}'.ljust(48)
    patched(path, length, struct.pack(">II", 0x44415441, len(name)) + name + bytes(8))
    with pytest.raises(ImageRefused, match="another file"):
        await qemuimg.inspect(path, "qcow2", LIMITS)


@pytest.mark.parametrize(
    ("at", "data", "words"),
    [
        (0, b"NOPE", "not a qcow2"),
        (4, struct.pack(">I", 1), "version 2 or 3"),
        (20, struct.pack(">I", 30), "version 2 or 3"),
        (32, struct.pack(">I", 2), "encrypted"),
        (72, struct.pack(">Q", 2), "corrupt"),
        (72, struct.pack(">Q", 4), "another file"),
        (72, struct.pack(">Q", 1 << 40), "not known here"),
        (100, struct.pack(">I", 13), "damaged"),
        (112, struct.pack(">II", 0x1234, 0xFFFFFFF0), "damaged"),
        (100, struct.pack(">I", 0xFFFFFFF8), "damaged"),
    ],
)
async def test_headers_that_are_refused(tmp_path: Path, at: int, data: bytes, words: str) -> None:
    path = patched(made(tmp_path), at, data)
    with pytest.raises(ImageRefused, match=words):
        await qemuimg.inspect(path, "qcow2", LIMITS)


@pytest.mark.parametrize("length", [0, 3, 71, 80])
async def test_files_that_are_cut_off(tmp_path: Path, length: int) -> None:
    path = made(tmp_path)
    os.truncate(path, length)
    with pytest.raises(ImageRefused):
        await qemuimg.inspect(path, "qcow2", LIMITS)


async def test_what_only_qemu_notices(tmp_path: Path) -> None:
    path = patched(made(tmp_path), 40, struct.pack(">Q", 12345))  # an L1 table that begins amid a cluster
    with pytest.raises(ImageRefused, match="qemu-img could not read the image as qcow2"):
        await qemuimg.inspect(path, "qcow2", LIMITS)


async def test_memory_limit(tmp_path: Path) -> None:
    with pytest.raises(ImageRefused, match="qemu-img could not read"):
        await qemuimg.info(made(tmp_path), "qcow2", Image(inspect_memory=4 * MIB))


async def test_time_limit(tmp_path: Path, programs: Path) -> None:
    path = made(tmp_path)
    program = programs / "qemu-img"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    begun = time.monotonic()
    with pytest.raises(ImageRefused, match=r"within 0\.2 seconds"):
        await qemuimg.info(path, "qcow2", Image(inspect_timeout=0.2))
    assert time.monotonic() - begun < 5


async def test_without_qemu_img_the_header_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert await qemuimg.inspect(path, "qcow2", LIMITS) == ImageInfo("qcow2", 10 * MIB)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="cannot be run"):
        await qemuimg.info(path, "qcow2", LIMITS)


async def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(ImageRefused, match="vmdk is not supported"):
        await qemuimg.inspect(made(tmp_path), "vmdk", LIMITS)
