"""/v3/roles and which of them imply others."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from pileus.http.face import Call, Reply, Route
from pileus.identity import roles
from pileus.identity.api.forms import Description, Name, Options, given, listing, page, resource
from pileus.identity.service import Identity
from pileus.store.sql import Row


class _Create(Struct):
    name: Name
    description: Description | None = None
    domain_id: None = None
    """Roles of one domain are not offered."""
    options: Options = {}


class _Update(Struct):
    name: Name | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    domain_id: None = None
    options: Options = {}


async def create(identity: Identity, call: Call) -> Reply:
    new, extra = await resource(call, "role", _Create)
    row = await identity.write(roles.create, {"name": new.name, "description": new.description, "extra": extra})
    return Reply(201, {"role": show_role(call, row)})


async def index(identity: Identity, call: Call) -> Reply:
    asked = page(call)
    found = await identity.read(roles.index, asked, call.query("name")) if call.query("domain_id") is None else []
    return listing(call, "/v3/roles", "roles", [show_role(call, row) for row in found], asked)


async def show(identity: Identity, call: Call) -> Reply:
    return Reply(body={"role": show_role(call, await identity.read(roles.show, call.path["role"]))})


async def update(identity: Identity, call: Call) -> Reply:
    new, extra = await resource(call, "role", _Update)
    row = await identity.write(roles.change, call.path["role"], given(new, "name", "description"), extra)
    return Reply(body={"role": show_role(call, row)})


async def remove(identity: Identity, call: Call) -> Reply:
    await identity.write(roles.remove, call.path["role"])
    return Reply(204)


async def inferences(identity: Identity, call: Call) -> Reply:
    found = await identity.read(roles.inferences)
    shaped = [{"prior_role": _short(call, prior), "implies": [_short(call, role) for role in implied]} for prior, implied in found]
    return Reply(body={"role_inferences": shaped, "links": {"self": f"{call.base}/v3/role_inferences"}})


ROUTES: list[Route[Identity]] = [
    Route("GET", "/v3/roles", index, "admin"),
    Route("POST", "/v3/roles", create, "admin"),
    Route("GET", "/v3/roles/{role}", show, "admin"),
    Route("PATCH", "/v3/roles/{role}", update, "admin"),
    Route("DELETE", "/v3/roles/{role}", remove, "admin"),
    Route("GET", "/v3/role_inferences", inferences, "admin"),
]


def show_role(call: Call, row: Row) -> dict[str, Any]:
    own = {key: row[key] for key in ("id", "name", "description")}
    return {**row["extra"], **own, "domain_id": None, "options": {}, "links": {"self": f"{call.base}/v3/roles/{row['id']}"}}


def _short(call: Call, row: Row) -> dict[str, Any]:
    return {"id": row["id"], "name": row["name"], "links": {"self": f"{call.base}/v3/roles/{row['id']}"}}
