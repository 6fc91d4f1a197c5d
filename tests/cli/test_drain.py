"""`pileus up` that is told to end: requests under way are finished, for as long as `api.drain` says."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pileus.cli.client import ApiError, Client
from tests.cli.conftest import Cloud, running

MEDIA = {"Content-Type": "application/octet-stream"}


def image(client: Client) -> dict[str, Any]:
    made: dict[str, Any] = client.post("image", "/v2/images", {"disk_format": "raw", "container_format": "bare"})
    return made


def slow_data(cloud: Cloud, *, rest: bool) -> Iterator[bytes]:
    """Half of it, then the cloud is told to end; then the rest, or nothing for a while."""
    yield bytes(1000)
    time.sleep(0.2)
    cloud.process.send_signal(signal.SIGTERM)
    time.sleep(0.5 if rest else 4)
    yield bytes(1000)


def test_an_upload_under_way_is_finished(tmp_path: Path) -> None:
    with running(tmp_path / "state") as cloud, cloud.client() as client:
        path = f"/v2/images/{image(client)['id']}/file"
        assert client.request("PUT", "image", path, content=slow_data(cloud, rest=True), headers=MEDIA).status_code == 204
        assert cloud.process.wait(20) == 0
    with running(tmp_path / "state") as again, again.client() as client:
        assert [(one["status"], one["size"]) for one in client.get("image", "/v2/images")["images"]] == [("active", 2000)]


def test_what_takes_longer_than_the_drain_is_cut(tmp_path: Path) -> None:
    with running(tmp_path / "state", PILEUS_API__DRAIN="1") as cloud, cloud.client() as client:
        path = f"/v2/images/{image(client)['id']}/file"
        with pytest.raises(ApiError, match="HTTP 503"):
            client.request("PUT", "image", path, content=slow_data(cloud, rest=False), headers=MEDIA)
        assert cloud.process.wait(20) == 0
