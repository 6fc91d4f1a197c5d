"""The real client against the real server."""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openstack
import pytest
from keystoneauth1 import session, token_endpoint

from pileus.http.face import Limits
from pileus.http.mount import mount
from pileus.image import images as rules
from pileus.image.api.face import face
from pileus.image.service import Images
from tests.image.conftest import OWNER, authenticate
from tests.serving import served

DATA = os.urandom((3 << 20) + 7)


@pytest.fixture
async def url(images: Images) -> AsyncIterator[str]:
    async with served(lambda base: mount({"/image": face(images, authenticate, f"{base}/identity", base, Limits())})) as base:
        yield base


async def test_create_upload_download_list_patch_delete(url: str, images: Images, tmp_path: Path) -> None:
    await asyncio.to_thread(_use, url, tmp_path)
    assert not list(images.files.path("x").parent.iterdir())


async def test_an_upload_whose_sender_goes_away(url: str, images: Images) -> None:
    values = {"disk_format": "raw", "container_format": "bare"}
    image_id = (await images.store.write(rules.create, OWNER, str(uuid.uuid4()), values))["id"]

    async def becomes(status: str) -> None:
        async with asyncio.timeout(10):
            while (await images.show(OWNER, image_id)).status != status:
                await asyncio.sleep(0.005)

    host, _, port = url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"PUT /image/v2/images/{image_id}/file HTTP/1.1\r\nHost: x\r\nX-Auth-Token: owner\r\nContent-Type: application/octet-stream\r\n"
    writer.write(head.encode() + b"Content-Length: 3000000\r\n\r\n" + bytes(1_500_000))
    await writer.drain()
    await becomes("saving")
    writer.close()
    await becomes("queued")
    assert not list(images.files.path("x").parent.iterdir())


def _connect(url: str) -> Any:
    auth = token_endpoint.Token(f"{url}/image", "owner")
    return openstack.connection.Connection(
        session=session.Session(auth=auth), image_endpoint_override=f"{url}/image", image_api_version="2"
    )


def _use(url: str, folder: Path) -> None:
    cloud = _connect(url)
    source = folder / "source.raw"
    source.write_bytes(DATA)
    image = cloud.image.create_image(
        "one", filename=str(source), disk_format="raw", container_format="bare", visibility="private", tags=["t"], hw_x="y", wait=True
    )
    image = cloud.image.get_image(image.id)
    assert (image.status, image.size, image.checksum) == ("active", len(DATA), hashlib.md5(DATA).hexdigest())
    assert image.hash_value == hashlib.sha512(DATA).hexdigest() and image.properties["hw_x"] == "y"
    copy = folder / "copy.raw"
    cloud.image.download_image(image, output=str(copy), stream=True)
    assert copy.read_bytes() == DATA
    assert [found.name for found in cloud.image.images(name="one", tag="t")] == ["one"]
    others = [cloud.image.create_image(f"other{n}", disk_format="raw", container_format="bare") for n in range(5)]
    assert len(list(cloud.image.images(limit=2))) == 6
    assert cloud.image.update_image(image, name="two", hw_x="z", hw_new="n").name == "two"
    assert cloud.image.find_image("two").properties["hw_x"] == "z"
    cloud.image.add_tag(image, "u")
    assert set(cloud.image.get_image(image.id).tags) == {"t", "u"}
    cloud.image.deactivate_image(image.id)
    assert cloud.image.get_image(image.id).status == "deactivated"
    cloud.image.reactivate_image(image.id)
    assert cloud.image.get_images_schema().properties
    for other in [image, *others]:
        cloud.image.delete_image(other.id, ignore_missing=False)
    assert list(cloud.image.images()) == []
