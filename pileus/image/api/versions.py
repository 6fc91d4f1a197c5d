"""Glance's version discovery: 300 at the root, 200 at /versions."""

from __future__ import annotations

from typing import Any

from pileus.http.face import Call, Reply, Route
from pileus.image.service import Images

MINORS = (7, 5, 4, 3, 2, 1, 0)
"""The latest first. 2.6 is the import API, 2.8 and above are several stores, caching and locations: not offered."""


async def choices(images: Images, call: Call) -> Reply:
    return Reply(300, _body(call))


async def versions(images: Images, call: Call) -> Reply:
    return Reply(200, _body(call))


def _body(call: Call) -> dict[str, Any]:
    links = [{"rel": "self", "href": f"{call.base}/v2/"}]
    return {
        "versions": [{"id": f"v2.{minor}", "status": "CURRENT" if minor == MINORS[0] else "SUPPORTED", "links": links} for minor in MINORS]
    }


ROUTES = [
    Route("GET", "/", choices, "anyone"),
    Route("GET", "/versions", versions, "anyone"),
    Route("GET", "/versions/", versions, "anyone"),
]
