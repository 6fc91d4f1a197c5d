"""Looking into uploaded disk images. They are hostile until proven otherwise: a qcow2 file can name other files for QEMU to open.

First the header is read here (QEMU's docs/interop/qcow2.txt), and whatever refers to another file, is encrypted or uses
what we don't know is refused, before any program of QEMU's sees it. Then `qemu-img info` says what QEMU makes of it: with
the format given, never guessed, as a user id of nobody's, without rights, within limits of memory, time and file size.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pileus.errors import BadRequest, Unavailable
from pileus.settings import Image

INSPECTOR_ID = 1_999_999_999
"""User and group that qemu-img runs as where we are root: nobody's, just below those of the guests."""

SECTOR = 512
_MAGIC = b"QFI\xfb"
_ANSWER_CAP = 1 << 20
_EXTENSIONS_CAP = 1 << 16
_HEADER_V2, _HEADER_V3 = 72, 104
_EXTENSION_END = 0
_KNOWN_FEATURES = 0b11001
"""Incompatible features that a sound image may have: dirty refcounts, a compression type, extended L2 entries."""

_BACKING, _ELSEWHERE, _ENCRYPTED, _CORRUPT = (
    "it has a backing file",
    "its data lies in another file",
    "it is encrypted",
    "it is marked as corrupt",
)
_REFUSED_FEATURES = {1 << 1: _CORRUPT, 1 << 2: _ELSEWHERE}
_REFUSED_EXTENSIONS = {0x44415441: _ELSEWHERE, 0x0537BE77: _ENCRYPTED}
_PLAIN_FORMATS = ("raw", "aki", "ari", "ami")


class ImageRefused(BadRequest):
    """The file is not an image that guests may start from. The text says why and what to upload instead."""


@dataclass(frozen=True)
class ImageInfo:
    """What an image is. `virtual_size` is the disk that a guest sees, in bytes; empty texts: there is no such file."""

    format: str
    virtual_size: int
    backing_file: str = ""
    data_file: str = ""
    encrypted: bool = False
    corrupt: bool = False


async def inspect(path: Path, image_format: str, limits: Image) -> ImageInfo:
    """Everything: header, qemu-img where it is installed, verdict. Raises ImageRefused, and Unavailable when qemu-img cannot be run."""
    found = await asyncio.to_thread(read_header, path, image_format)
    if image_format in _PLAIN_FORMATS or shutil.which("qemu-img") is None:
        return found
    seen = await info(path, image_format, limits)
    check_safe(seen)
    if seen.virtual_size != found.virtual_size:
        raise ImageRefused("The image contradicts itself about its size; upload a sound copy.")
    return seen


def read_header(path: Path, image_format: str) -> ImageInfo:
    """What the file says of itself, checked. Blocks for two small reads. Raises ImageRefused and OSError."""
    with path.open("rb") as file:
        if image_format in _PLAIN_FORMATS:
            size = os.fstat(file.fileno()).st_size
            return ImageInfo(image_format, -(-size // SECTOR) * SECTOR)
        if image_format != "qcow2":
            raise ImageRefused(f"Disk format {image_format} is not supported; convert the image to qcow2 or raw.")
        return _qcow2_header(file.read(_HEADER_V3 + _EXTENSIONS_CAP))


def check_safe(info: ImageInfo) -> None:
    """Refuse what must never reach a guest. Raises ImageRefused."""
    found = ((info.backing_file, _BACKING), (info.data_file, _ELSEWHERE), (info.encrypted, _ENCRYPTED), (info.corrupt, _CORRUPT))
    for bad, reason in found:
        if bad:
            raise _refused(reason)


async def info(path: Path, image_format: str, limits: Image) -> ImageInfo:
    """What qemu-img says of a file of this format. Raises ImageRefused, and Unavailable when qemu-img cannot be run.

    The limits are those of the settings `image.inspect_memory` and `image.inspect_timeout`.
    """
    with _readable(path) as fd:
        code, answer, words = await _run(_command(fd, image_format, limits), fd, limits.inspect_timeout)
    if code != 0:
        raise ImageRefused(f"qemu-img could not read the image as {image_format}: {_last_line(words)}")
    try:
        return _parse(msgspec.json.decode(answer))
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        raise Unavailable("qemu-img gave an answer that Pileus does not understand.") from None


def _command(fd: int, image_format: str, limits: Image) -> list[str]:
    drop = [
        "setpriv", f"--reuid={INSPECTOR_ID}", f"--regid={INSPECTOR_ID}", "--clear-groups", "--bounding-set=-all",
        "--inh-caps=-all", "--no-new-privs", "--",
    ]  # fmt: skip
    seconds = max(1, round(limits.inspect_timeout))
    limited = ["prlimit", f"--as={limits.inspect_memory}", f"--cpu={seconds}", "--fsize=0", "--core=0", "--nofile=64", "--"]
    options = f"driver={image_format},file.driver=file,file.filename=/dev/fd/{fd}"
    ask = ["qemu-img", "info", "--force-share", "--output=json", "--image-opts", options]
    return [*(drop if os.geteuid() == 0 else []), *limited, *ask]


async def _run(command: list[str], fd: int, limit: float) -> tuple[int, bytes, bytes]:
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=[fd],
            env={"PATH": os.environ.get("PATH", os.defpath)},
            limit=_ANSWER_CAP,
        )
    except OSError as error:
        raise Unavailable(f"qemu-img cannot be run: {error.strerror}.") from None
    try:
        async with asyncio.timeout(limit):
            answer, words = await asyncio.gather(_read_up_to(process.stdout), _read_up_to(process.stderr))
            return await process.wait(), answer, words
    except TimeoutError:
        raise ImageRefused(f"qemu-img did not understand the image within {limit:g} seconds; upload a sound copy.") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _read_up_to(stream: asyncio.StreamReader | None) -> bytes:
    """All of a stream; of more than the cap, the beginning, the rest being thrown away."""
    kept = bytearray()
    while stream is not None and (data := await stream.read(65536)):
        kept += data[: _ANSWER_CAP - len(kept)]
    return bytes(kept)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[int]:
    """The file, open, and such that the inspector may open it again by its descriptor: while it looks, and for reading only,
    the file belongs to its group. No folder above the file needs to let it in."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        before = os.fstat(fd)
        if os.geteuid() != 0:
            yield fd
            return
        os.fchown(fd, -1, INSPECTOR_ID)
        os.fchmod(fd, (before.st_mode & 0o700) | 0o040)
        try:
            yield fd
        finally:
            os.fchown(fd, -1, before.st_gid)
            os.fchmod(fd, before.st_mode & 0o7777)
    finally:
        os.close(fd)


def _parse(answer: Mapping[str, Any]) -> ImageInfo:
    specific = answer.get("format-specific", {}).get("data", {})
    return ImageInfo(
        format=answer["format"],
        virtual_size=int(answer["virtual-size"]),
        backing_file=answer.get("full-backing-filename") or answer.get("backing-filename") or "",
        data_file=specific.get("data-file") or "",
        encrypted=bool(answer.get("encrypted")),
        corrupt=bool(specific.get("corrupt")),
    )


def _qcow2_header(start: bytes) -> ImageInfo:
    if len(start) < _HEADER_V2 or start[:4] != _MAGIC:
        raise ImageRefused("The image is not a qcow2 file; upload it with the disk format that it has.")
    version, backing_at, backing_size, cluster_bits, size, encryption = struct.unpack_from(">IQIIQI", start, 4)
    if version not in (2, 3) or not 9 <= cluster_bits <= 21:
        raise ImageRefused("The image is not a qcow2 file of version 2 or 3; convert it with qemu-img.")
    if backing_at or backing_size:
        raise _refused(_BACKING)
    if encryption:
        raise _refused(_ENCRYPTED)
    length = _HEADER_V2
    if version == 3:
        if len(start) < _HEADER_V3:
            raise _refused("its header is cut off")
        (features,) = struct.unpack_from(">Q", start, 72)
        (length,) = struct.unpack_from(">I", start, 100)
        _check_features(features)
        if length < _HEADER_V3 or length % 8:
            raise _refused("its header is damaged")
    _check_extensions(start[: 1 << cluster_bits], length)
    return ImageInfo("qcow2", size)


def _check_features(features: int) -> None:
    for feature, reason in _REFUSED_FEATURES.items():
        if features & feature:
            raise _refused(reason)
    if features & ~_KNOWN_FEATURES:
        raise _refused("it uses features that are not known here")


def _check_extensions(start: bytes, at: int) -> None:
    """Walk the header extensions, which lie in the first cluster."""
    while at + 8 <= len(start):
        kind, length = struct.unpack_from(">II", start, at)
        if kind == _EXTENSION_END:
            return
        if kind in _REFUSED_EXTENSIONS:
            raise _refused(_REFUSED_EXTENSIONS[kind])
        at += 8 + -(-length // 8) * 8
    if at > len(start):
        raise _refused("its header is damaged")


def _refused(reason: str) -> ImageRefused:
    return ImageRefused(f"The image is refused: {reason}. Upload a qcow2 or raw file that stands alone (`qemu-img convert` makes one).")


def _last_line(words: bytes) -> str:
    lines = words.decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "it ended without a word (out of memory or of time)"
