"""/servers/{id}/ips."""

from __future__ import annotations

from typing import Any

from pileus.compute import servers
from pileus.compute.api.server_view import addresses_by_network, addresses_of
from pileus.compute.service import Compute
from pileus.errors import NotFound
from pileus.http.face import Call, Reply, Route


async def list_addresses(compute: Compute, call: Call) -> Reply:
    return Reply(body={"addresses": await _addresses(compute, call)})


async def show_network(compute: Compute, call: Call) -> Reply:
    name = call.path["network"]
    found = await _addresses(compute, call)
    if name not in found:
        raise NotFound("Instance is not a member of specified network")
    return Reply(body={name: found[name]})


async def _addresses(compute: Compute, call: Call) -> dict[str, list[dict[str, Any]]]:
    row = await compute.store.read(servers.get, call.context, call.path["id"])
    found = await addresses_of(compute, [row])
    return addresses_by_network(found[row["id"]], extended=False)


ROUTES = [
    Route("GET", "/v2.1/servers/{id}/ips", list_addresses, "reader"),
    Route("GET", "/v2.1/servers/{id}/ips/{network}", show_network, "reader"),
]
