"""Overlays as QEMU's own tools see them, and base images that are not what they seem."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from pathlib import Path

import pytest

from pileus.host.hypervisor.guestfolder import open_fd
from pileus.host.hypervisor.qcow2 import overlay, read_header, virtual_size, write_overlay

GIB = 1 << 30


def run(*arguments: str | Path) -> str:
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("size", [512, 10 * GIB, 20_000 * GIB])
@pytest.mark.parametrize("backing_format", ["raw", "qcow2"])
def test_qemu_img_finds_an_overlay_whole(tmp_path: Path, size: int, backing_format: str) -> None:
    base, top = tmp_path / "base", tmp_path / "top"
    run("qemu-img", "create", "-q", "-f", backing_format, base, "64k")
    with open_fd(top, os.O_RDWR | os.O_CREAT) as fd:
        write_overlay(fd, size, base, backing_format)
    told = json.loads(run("qemu-img", "info", "--output=json", top))
    assert told["virtual-size"] == size
    assert told["full-backing-filename"] == str(base)
    assert told["backing-filename-format"] == backing_format
    assert told["format-specific"]["data"]["compat"] == "1.1"
    check = json.loads(run("qemu-img", "check", "--output=json", top))
    assert (check.get("corruptions", 0), check.get("leaks", 0), check["check-errors"]) == (0, 0, 0)
    assert top.stat().st_blocks * 512 <= 1 << 20


def test_an_overlay_shows_its_base_and_takes_writes(tmp_path: Path) -> None:
    base, top = tmp_path / "base", tmp_path / "top"
    base.write_bytes(b"\x05" * (1 << 20))
    with open_fd(top, os.O_RDWR | os.O_CREAT) as fd:
        write_overlay(fd, GIB, base, "raw")
    for command in ("read -P 5 0 1M", "read -P 0 1M 64k", "write -P 6 512k 64k", "write -P 7 900M 64k"):
        assert "failed" not in run("qemu-io", "-f", "qcow2", "-c", command, top)
    for command in ("read -P 6 512k 64k", "read -P 5 576k 64k", "read -P 7 900M 64k"):
        assert "failed" not in run("qemu-io", "-f", "qcow2", "-c", command, top)
    run("qemu-img", "check", top)
    assert base.read_bytes() == b"\x05" * (1 << 20)


def test_what_the_format_cannot_hold_is_refused() -> None:
    for size, name in ((513, "/base"), (1 << 62, "/base"), (GIB, "/" + "x" * 1023)):
        with pytest.raises(ValueError, match=r"multiple|larger|name"):
            overlay(size, name, "raw")


@pytest.mark.parametrize(("options", "size"), [(["-o", "compat=0.10"], 3 << 20), (["-o", "cluster_size=512"], 3 << 20), ([], 3 << 20)])
def test_the_size_of_a_base_image_is_read_from_it(tmp_path: Path, options: list[str], size: int) -> None:
    image = tmp_path / "image"
    run("qemu-img", "create", "-q", "-f", "qcow2", *options, image, str(size))
    with open_fd(image, os.O_RDONLY) as fd:
        assert virtual_size(fd, "qcow2") == size


def test_the_size_of_a_raw_image_is_rounded_up_to_a_sector(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(700))
    with open_fd(image, os.O_RDONLY) as fd:
        assert virtual_size(fd, "raw") == 1024
        assert read_header(fd) is None


def test_an_image_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    base, backed, external = tmp_path / "base", tmp_path / "backed", tmp_path / "external"
    base.write_bytes(bytes(65536))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", backed)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", external, "1M")
    for image in (backed, external):
        with open_fd(image, os.O_RDONLY) as fd, pytest.raises(ValueError, match="another file"):
            virtual_size(fd, "qcow2")


@pytest.mark.parametrize("data", [b"", b"QFI\xfb", b"QFI\xfb" + struct.pack(">I", 3), b"not an image" * 100])
def test_what_is_no_qcow2_is_refused(tmp_path: Path, data: bytes) -> None:
    image = tmp_path / "image"
    image.write_bytes(data)
    with open_fd(image, os.O_RDONLY) as fd, pytest.raises(ValueError, match="not a qcow2"):
        virtual_size(fd, "qcow2")


def test_kernels_are_no_disks(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x")
    with open_fd(image, os.O_RDONLY) as fd, pytest.raises(ValueError, match="aki"):
        virtual_size(fd, "aki")
