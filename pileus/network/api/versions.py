"""Discovery: / and /v2.0/."""

from __future__ import annotations

from pileus.http.face import Call, Reply, Route
from pileus.network.service import Network

RESOURCES = {
    "network": "networks",
    "subnet": "subnets",
    "port": "ports",
    "agent": "agents",
    "extension": "extensions",
    "quota": "quotas",
    "availability_zone": "availability_zones",
}


async def versions(network: Network, call: Call) -> Reply:
    link = {"rel": "self", "href": f"{call.base}/v2.0/"}
    return Reply(200, {"versions": [{"id": "v2.0", "status": "CURRENT", "links": [link]}]})


async def resources(network: Network, call: Call) -> Reply:
    listed = [
        {"name": name, "collection": plural, "links": [{"rel": "self", "href": f"{call.base}/v2.0/{plural}"}]}
        for name, plural in RESOURCES.items()
    ]
    return Reply(200, {"resources": listed})


ROUTES = [
    Route("GET", "/", versions, "anyone"),
    Route("GET", "/v2.0", resources, "anyone"),
    Route("GET", "/v2.0/", resources, "anyone"),
]
