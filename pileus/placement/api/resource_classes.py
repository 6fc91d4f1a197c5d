"""/resource_classes"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from pileus.errors import Conflict
from pileus.http.face import Call, Reply, Route
from pileus.placement import classes
from pileus.placement.api.shape import answer
from pileus.placement.service import Placement


class Named(Struct, forbid_unknown_fields=True):
    name: str


async def index(placement: Placement, call: Call) -> Reply:
    found = await placement.store.read(classes.names)
    return answer(call, {"resource_classes": [_shape(call, name) for name in found]})


async def create(placement: Placement, call: Call) -> Reply:
    name = (await call.json(Named)).name
    if not await placement.store.write(classes.create, name):
        raise Conflict(f"Conflicting resource class already exists: {name}")
    return Reply(201, headers={"Location": _url(call, name)})


async def show(placement: Placement, call: Call) -> Reply:
    return answer(call, _shape(call, await placement.store.read(classes.show, call.path["name"])))


async def rename(placement: Placement, call: Call) -> Reply:
    new = (await call.json(Named)).name
    await placement.store.write(classes.rename, call.path["name"], new)
    return answer(call, _shape(call, new))


async def ensure(placement: Placement, call: Call) -> Reply:
    name = call.path["name"]
    made = await placement.store.write(classes.create, name)
    return Reply(201 if made else 204, headers={"Location": _url(call, name)})


async def delete(placement: Placement, call: Call) -> Reply:
    await placement.store.write(classes.remove, call.path["name"])
    return Reply(204)


def _url(call: Call, name: str) -> str:
    return f"{call.base}/resource_classes/{name}"


def _shape(call: Call, name: str) -> dict[str, Any]:
    return {"name": name, "links": [{"rel": "self", "href": _url(call, name)}]}


ROUTES = [
    Route("GET", "/resource_classes", index, "service", since=(1, 2)),
    Route("POST", "/resource_classes", create, "service", since=(1, 2)),
    Route("GET", "/resource_classes/{name}", show, "service", since=(1, 2)),
    Route("PUT", "/resource_classes/{name}", rename, "service", since=(1, 2), until=(1, 6)),
    Route("PUT", "/resource_classes/{name}", ensure, "service", since=(1, 7)),
    Route("DELETE", "/resource_classes/{name}", delete, "service", since=(1, 2)),
]
