"""Discovery: which versions of the API there are."""

from __future__ import annotations

from typing import Any

from pileus.http.face import Call, Reply, Route
from pileus.identity.service import Identity

VERSION = "v3.14"
"""Keystone's last version of the API, of 2020."""


async def versions(identity: Identity, call: Call) -> Reply:
    return Reply(300, {"versions": {"values": [_v3(call)]}})


async def v3(identity: Identity, call: Call) -> Reply:
    return Reply(body={"version": _v3(call)})


ROUTES: list[Route[Identity]] = [
    Route("GET", "/", versions, "anyone"),
    Route("GET", "/v3", v3, "anyone"),
    Route("GET", "/v3/", v3, "anyone"),
]


def _v3(call: Call) -> dict[str, Any]:
    return {
        "id": VERSION,
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": f"{call.base}/v3/"}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    }
