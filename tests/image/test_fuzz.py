"""No nonsense brings the image service to a 5xx."""

from __future__ import annotations

import httpx
import pytest

from pileus.image.api.face import ROUTES
from pileus.image.listing import FILTERS
from tests.http.fuzzing import Fuzz
from tests.image.conftest import by
from tests.image.test_api import PATCH, make, put

KEYS = [
    "name",
    "visibility",
    "protected",
    "tags",
    "owner",
    "min_disk",
    "disk_format",
    "hw_x",
    "op",
    "path",
    "value",
    "member",
    "status",
    "id",
]
QUERIES = [*FILTERS, "tag", "visibility", "member_status", "limit", "marker", "sort", "sort_key", "sort_dir", "hw_x"]
CHANGES = [
    {"op": "replace", "path": "/name", "value": "x"},
    {"op": "add", "path": "/hw_x", "value": "y"},
    {"op": "remove", "path": "/hw_x"},
]


@pytest.mark.parametrize("seed", range(3))
async def test_nonsense(client: httpx.AsyncClient, seed: int) -> None:
    image_id, hidden = await make(client, visibility="shared", hw_x="y"), await make(client, os_hidden=True)
    await put(client, image_id, b"data")
    good = [CHANGES, {"name": "x", "tags": ["a"], "hw_x": "y", "min_disk": 5}, {"member": "elsewhere"}, {"status": "accepted"}]
    fuzz = Fuzz(seed, [image_id, hidden], KEYS, QUERIES, good)
    fuzz.media = PATCH["Content-Type"]
    client.headers.update(by(("owner", "admin", "other")[seed]))
    await fuzz.run(client, ROUTES, 30, [], "image")
