"""/v3/projects."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from pileus.errors import BadRequest, Forbidden
from pileus.http.face import Call, Reply, Route
from pileus.http.paging import boolean
from pileus.identity import projects
from pileus.identity.api.forms import Description, Id, Name, Options, given, listing, page, resource
from pileus.identity.service import Identity
from pileus.store.sql import Row

Tags = Annotated[list[str], Meta(max_length=0)]
"""Not offered: accepted only empty, as clients send back what they got."""


class _Create(Struct):
    name: Name
    domain_id: Id | None = None
    parent_id: Id | None = None
    description: Description | None = ""
    enabled: bool = True
    is_domain: bool = False
    tags: Tags = []
    options: Options = {}


class _Update(Struct):
    name: Name | UnsetType = UNSET
    domain_id: Id | UnsetType = UNSET
    parent_id: Id | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    tags: Tags = []
    options: Options = {}


async def create(identity: Identity, call: Call) -> Reply:
    new, extra = await resource(call, "project", _Create)
    if new.is_domain:
        raise BadRequest("A project that acts as a domain is made by POST /v3/domains.")
    values = {
        "domain_id": new.domain_id or (call.context.domain_id if new.parent_id is None else None),
        "parent_id": new.parent_id,
        "name": new.name,
        "description": new.description or "",
        "enabled": new.enabled,
        "extra": extra,
    }
    return Reply(201, {"project": show_project(call, await identity.write(projects.create, values))})


async def index(identity: Identity, call: Call) -> Reply:
    asked = page(call)
    filters = {name: call.query(name) for name in ("name", "domain_id", "parent_id")} | {"enabled": boolean(call, "enabled")}
    found = [] if boolean(call, "is_domain") else await identity.read(projects.index, asked, filters)
    return listing(call, "/v3/projects", "projects", [show_project(call, row) for row in found], asked)


async def show(identity: Identity, call: Call) -> Reply:
    if not call.context.sees(call.path["project"]):
        raise Forbidden("You are not authorized to perform the requested action: the token's scope is not that project.")
    return Reply(body={"project": show_project(call, await identity.read(projects.show, call.path["project"]))})


async def update(identity: Identity, call: Call) -> Reply:
    new, extra = await resource(call, "project", _Update)
    values = given(new, "name", "domain_id", "parent_id", "description", "enabled")
    if values.get("description", "") is None:
        values["description"] = ""
    return Reply(body={"project": show_project(call, await identity.write(projects.change, call.path["project"], values, extra))})


async def remove(identity: Identity, call: Call) -> Reply:
    await identity.write(projects.remove, call.path["project"])
    return Reply(204)


ROUTES: list[Route[Identity]] = [
    Route("GET", "/v3/projects", index, "admin"),
    Route("POST", "/v3/projects", create, "admin"),
    Route("GET", "/v3/projects/{project}", show, "user"),
    Route("PATCH", "/v3/projects/{project}", update, "admin"),
    Route("DELETE", "/v3/projects/{project}", remove, "admin"),
]


def show_project(call: Call, row: Row) -> dict[str, Any]:
    own = {key: row[key] for key in ("id", "name", "domain_id", "parent_id", "description", "enabled")}
    fixed: dict[str, Any] = {"is_domain": False, "tags": [], "options": {}}
    return {**row["extra"], **own, **fixed, "links": {"self": f"{call.base}/v3/projects/{row['id']}"}}
