"""An image service with a store and a folder of its own."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from pileus.context import Context
from pileus.errors import Unauthorized
from pileus.http.face import Face, Limits
from pileus.image.api.face import face
from pileus.image.service import Images
from pileus.settings import Image, Settings
from pileus.store.sqlite import SqliteStore

MAX_SIZE = 8 << 20

OWNER = Context(user_id="owner", project_id="project", roles=frozenset({"member", "reader"}))
OTHER = Context(user_id="other", project_id="elsewhere", roles=frozenset({"member", "reader"}))
ADMIN = Context(user_id="admin", project_id="admins", roles=frozenset({"admin", "member", "reader"}))


@pytest.fixture
async def images(store: SqliteStore, tmp_path: Path) -> AsyncIterator[Images]:
    service = Images(store, tmp_path / "images", Settings(image=Image(max_size=MAX_SIZE)))
    await service.start()
    yield service
    await service.close()


async def chunks(data: bytes, size: int = 65536) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def qcow2(size: int, *, backing: str = "", data_file: bool = False) -> bytes:
    """An empty qcow2 version 3 image (QEMU's docs/interop/qcow2)."""
    name = backing.encode()
    header = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 512 if name else 0, len(name), 16, size, 0, -(-size // (1 << 29)), 196608, 65536, 1, 0, 0
    )
    header += struct.pack(">QQQII", 4 if data_file else 0, 0, 0, 4, 104)
    return (header.ljust(512, b"\0") + name).ljust(4 * 65536, b"\0")


CALLERS = {"owner": OWNER, "other": OTHER, "admin": ADMIN, "reader": replace(OWNER, roles=frozenset({"reader"}))}


async def authenticate(token: str) -> Context:
    """A token is the caller's name."""
    if token not in CALLERS:
        raise Unauthorized("The token is unknown or has expired.")
    return CALLERS[token]


@pytest.fixture
def app(images: Images) -> Face[Images]:
    return face(images, authenticate, "http://pileus/identity", "http://pileus", Limits(max_limit=50))


@pytest.fixture
async def client(app: Face[Images]) -> AsyncIterator[httpx.AsyncClient]:
    """Calls as the owner, unless a test says otherwise."""
    headers = {"X-Auth-Token": "owner", "Accept": "application/json"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pileus", headers=headers) as session:
        yield session


def by(caller: str) -> dict[str, str]:
    return {"X-Auth-Token": caller}
