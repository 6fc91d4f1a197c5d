"""/resource_providers"""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from pileus.errors import BadRequest
from pileus.http.face import Call, Reply, Route
from pileus.placement import providers
from pileus.placement.api.shape import answer, check_query, resources_query, uuid_of
from pileus.placement.service import Placement
from pileus.store.sql import Row

Name = Annotated[str, Meta(min_length=1, max_length=200)]


class Change(Struct, forbid_unknown_fields=True):
    name: Name
    parent_provider_uuid: str | UnsetType | None = UNSET


class New(Change, forbid_unknown_fields=True):
    uuid: str | None = None


async def index(placement: Placement, call: Call) -> Reply:
    check_query(call, {"name": (1, 0), "uuid": (1, 0), "resources": (1, 4)})
    given, resources = call.query("uuid"), call.query("resources")
    found = await placement.store.read(
        providers.listed,
        provider=None if given is None else uuid_of(given, "uuid"),
        name=call.query("name"),
        resources=None if resources is None else resources_query(resources),
    )
    return answer(call, {"resource_providers": [_shape(call, row) for row in found]}, [row["updated_at"] for row in found])


async def create(placement: Placement, call: Call) -> Reply:
    body = await call.json(New)
    _check_parent(call, body)
    made = await placement.store.write(providers.create, uuid_of(body.uuid, "uuid") if body.uuid else str(uuid.uuid4()), body.name)
    location = f"{call.base}/resource_providers/{made['id']}"
    if not call.since(1, 20):
        return Reply(201, headers={"Location": location})
    return answer(call, _shape(call, made), [made["updated_at"]], location=location)


async def show(placement: Placement, call: Call) -> Reply:
    found = await placement.store.read(providers.show, call.path["uuid"])
    return answer(call, _shape(call, found), [found["updated_at"]])


async def update(placement: Placement, call: Call) -> Reply:
    body = await call.json(Change)
    _check_parent(call, body)
    changed = await placement.store.write(providers.rename, call.path["uuid"], body.name)
    return answer(call, _shape(call, changed), [changed["updated_at"]])


async def delete(placement: Placement, call: Call) -> Reply:
    await placement.store.write(providers.remove, call.path["uuid"])
    return Reply(204)


def _check_parent(call: Call, body: Change) -> None:
    if body.parent_provider_uuid is UNSET:
        return
    if not call.since(1, 14):
        raise BadRequest("parent_provider_uuid needs placement microversion 1.14 or later")
    if body.parent_provider_uuid is not None:
        raise BadRequest("Nested resource providers are not offered: leave parent_provider_uuid out, or give null.")


def _shape(call: Call, row: Row) -> dict[str, Any]:
    url = f"{call.base}/resource_providers/{row['id']}"
    relations = ["inventories", "usages", *(["allocations"] if call.since(1, 11) else [])]
    shown = {
        "uuid": row["id"],
        "name": row["name"],
        "generation": row["generation"],
        "links": [{"rel": "self", "href": url}, *({"rel": name, "href": f"{url}/{name}"} for name in relations)],
    }
    if call.since(1, 14):
        shown |= {"parent_provider_uuid": None, "root_provider_uuid": row["id"]}
    return shown


ROUTES = [
    Route("GET", "/resource_providers", index, "service"),
    Route("POST", "/resource_providers", create, "service"),
    Route("GET", "/resource_providers/{uuid}", show, "service"),
    Route("PUT", "/resource_providers/{uuid}", update, "service"),
    Route("DELETE", "/resource_providers/{uuid}", delete, "service"),
]
