"""/resource_providers/{uuid}/inventories"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from pileus.clients.placement import Inventory
from pileus.errors import BadRequest
from pileus.http.face import Call, Reply, Route
from pileus.placement import providers
from pileus.placement.api.shape import MAX, Amount, ClassName, answer
from pileus.placement.service import Placement
from pileus.store.sql import Row


class One(Struct, forbid_unknown_fields=True, kw_only=True):
    total: Amount
    reserved: Annotated[int, Meta(ge=0, le=MAX)] = 0
    min_unit: Amount = 1
    max_unit: Amount = MAX
    step_size: Amount = 1
    allocation_ratio: Annotated[float, Meta(le=3.40282e38)] = 1.0
    resource_provider_generation: int | None = None

    def inventory(self) -> Inventory:
        return Inventory(**{field: getattr(self, field) for field in providers.FIELDS})


class New(One, forbid_unknown_fields=True, kw_only=True):
    resource_class: ClassName


class All(Struct, forbid_unknown_fields=True):
    resource_provider_generation: int
    inventories: dict[ClassName, One]


async def index(placement: Placement, call: Call) -> Reply:
    provider, found = await placement.store.read(providers.inventories_of, call.path["uuid"])
    return _all(call, provider, found)


async def replace(placement: Placement, call: Call) -> Reply:
    body = await call.json(All)
    wanted = {name: one.inventory() for name, one in body.inventories.items()}
    provider, found = await placement.store.write(
        providers.set_inventories,
        call.path["uuid"],
        wanted,
        generation=body.resource_provider_generation,
        full_reserve=call.since(1, 26),
    )
    return _all(call, provider, found)


async def create(placement: Placement, call: Call) -> Reply:
    body = await call.json(New)
    provider, made = await placement.store.write(
        providers.add_inventory, call.path["uuid"], body.resource_class, body.inventory(), full_reserve=call.since(1, 26)
    )
    location = f"{call.base}/resource_providers/{provider['id']}/inventories/{body.resource_class}"
    return _one(call, provider, made, status=201, location=location)


async def clear(placement: Placement, call: Call) -> Reply:
    await placement.store.write(providers.set_inventories, call.path["uuid"], {}, generation=None)
    return Reply(204)


async def show(placement: Placement, call: Call) -> Reply:
    provider, found = await placement.store.read(providers.inventory_of, call.path["uuid"], call.path["name"])
    return _one(call, provider, found)


async def update(placement: Placement, call: Call) -> Reply:
    body = await call.json(One)
    if body.resource_provider_generation is None:
        raise BadRequest("resource_provider_generation is missing: give the generation of the provider as you know it")
    provider, changed = await placement.store.write(
        providers.change_inventory,
        call.path["uuid"],
        call.path["name"],
        body.inventory(),
        generation=body.resource_provider_generation,
        full_reserve=call.since(1, 26),
    )
    return _one(call, provider, changed)


async def delete(placement: Placement, call: Call) -> Reply:
    await placement.store.write(providers.remove_inventory, call.path["uuid"], call.path["name"])
    return Reply(204)


def _shape(row: Row) -> dict[str, Any]:
    return {field: row[field] for field in providers.FIELDS}


def _one(call: Call, provider: Row, row: Row, *, status: int = 200, location: str = "") -> Reply:
    body = {**_shape(row), "resource_provider_generation": provider["generation"]}
    return answer(call, body, [row["updated_at"]], status=status, location=location)


def _all(call: Call, provider: Row, found: dict[str, Row]) -> Reply:
    body = {
        "resource_provider_generation": provider["generation"],
        "inventories": {name: _shape(row) for name, row in found.items()},
    }
    return answer(call, body, [row["updated_at"] for row in found.values()])


_ALL, _ONE = "/resource_providers/{uuid}/inventories", "/resource_providers/{uuid}/inventories/{name}"

ROUTES = [
    Route("GET", _ALL, index, "service"),
    Route("PUT", _ALL, replace, "service"),
    Route("POST", _ALL, create, "service"),
    Route("DELETE", _ALL, clear, "service", since=(1, 5)),
    Route("GET", _ONE, show, "service"),
    Route("PUT", _ONE, update, "service"),
    Route("DELETE", _ONE, delete, "service"),
]
