"""/v3/services, /v3/endpoints, /v3/regions: they follow from the public URL, so they can be read but not changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pileus.errors import NotFound
from pileus.http.face import Call, Handler, Reply, Route
from pileus.http.paging import boolean
from pileus.identity import catalog
from pileus.identity.api.forms import listing
from pileus.identity.catalog import Item
from pileus.identity.service import Identity


async def services(identity: Identity, call: Call) -> Reply:
    return _index(call, "services", catalog.services(), ("type", "name"))


async def endpoints(identity: Identity, call: Call) -> Reply:
    return _index(call, "endpoints", catalog.endpoints(identity.base_url), ("service_id", "interface", "region_id", "region"))


async def regions(identity: Identity, call: Call) -> Reply:
    return _index(call, "regions", catalog.regions(), ("parent_region_id",))


async def service(identity: Identity, call: Call) -> Reply:
    return _show(call, "service", catalog.services())


async def endpoint(identity: Identity, call: Call) -> Reply:
    return _show(call, "endpoint", catalog.endpoints(identity.base_url))


async def region(identity: Identity, call: Call) -> Reply:
    return _show(call, "region", catalog.regions())


_HANDLERS: tuple[tuple[str, Handler[Identity], Handler[Identity]], ...] = (
    ("service", services, service),
    ("endpoint", endpoints, endpoint),
)

ROUTES: list[Route[Identity]] = [
    *(Route[Identity]("GET", f"/v3/{kind}s", many, "admin") for kind, many, _ in _HANDLERS),
    *(Route[Identity]("GET", f"/v3/{kind}s/{{id}}", one, "admin") for kind, _, one in _HANDLERS),
    Route("GET", "/v3/regions", regions, "user"),
    Route("GET", "/v3/regions/{id}", region, "user"),
]


def _index(call: Call, key: str, items: Sequence[Item], filters: Sequence[str]) -> Reply:
    wanted = {name: value for name in filters if (value := call.query(name)) is not None}
    found = [item for item in items if all(item[name] == value for name, value in wanted.items())]
    if boolean(call, "enabled") is False and key != "regions":
        found = []
    return listing(call, f"/v3/{key}", key, [_shape(call, key, item) for item in found])


def _show(call: Call, key: str, items: Sequence[Item]) -> Reply:
    wanted = call.path["id"]
    found = next((item for item in items if item["id"] == wanted), None)
    if found is None:
        raise NotFound(f"Could not find {key}: {wanted}.")
    return Reply(body={key: _shape(call, key + "s", found)})


def _shape(call: Call, collection: str, item: Item) -> dict[str, Any]:
    return {**item, "links": {"self": f"{call.base}/v3/{collection}/{item['id']}"}}
