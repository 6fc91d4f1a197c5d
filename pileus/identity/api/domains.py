"""/v3/domains."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from pileus.errors import Forbidden
from pileus.http.face import Call, Reply, Route
from pileus.http.paging import boolean
from pileus.identity import domains, projects
from pileus.identity.api.forms import Description, Name, Options, given, listing, page, resource
from pileus.identity.service import Identity
from pileus.store import Tx
from pileus.store.sql import Row


class _Create(Struct):
    name: Name
    description: Description | None = ""
    enabled: bool = True
    options: Options = {}


class _Update(Struct):
    name: Name | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    options: Options = {}


async def create(identity: Identity, call: Call) -> Reply:
    new, extra = await resource(call, "domain", _Create)
    values = {"name": new.name, "description": new.description or "", "enabled": new.enabled, "extra": extra}
    return Reply(201, {"domain": show_domain(call, await identity.write(domains.create, values))})


async def index(identity: Identity, call: Call) -> Reply:
    asked = page(call)
    found = await identity.read(domains.index, asked, {"name": call.query("name"), "enabled": boolean(call, "enabled")})
    return listing(call, "/v3/domains", "domains", [show_domain(call, row) for row in found], asked)


async def show(identity: Identity, call: Call) -> Reply:
    row = await identity.read(_visible, call)
    return Reply(body={"domain": show_domain(call, row)})


async def update(identity: Identity, call: Call) -> Reply:
    new, extra = await resource(call, "domain", _Update)
    row = await identity.write(domains.change, call.path["domain"], given(new, "name", "description", "enabled"), extra)
    return Reply(body={"domain": show_domain(call, row)})


async def remove(identity: Identity, call: Call) -> Reply:
    await identity.write(domains.remove, call.path["domain"])
    return Reply(204)


ROUTES: list[Route[Identity]] = [
    Route("GET", "/v3/domains", index, "admin"),
    Route("POST", "/v3/domains", create, "admin"),
    Route("GET", "/v3/domains/{domain}", show, "user"),
    Route("PATCH", "/v3/domains/{domain}", update, "admin"),
    Route("DELETE", "/v3/domains/{domain}", remove, "admin"),
]


def show_domain(call: Call, row: Row) -> dict[str, Any]:
    own = {key: row[key] for key in ("id", "name", "description", "enabled")}
    return {**row["extra"], **own, "tags": [], "options": {}, "links": {"self": f"{call.base}/v3/domains/{row['id']}"}}


def _visible(tx: Tx, call: Call) -> Row:
    """An admin sees every domain; others that of their token's scope."""
    wanted, who = call.path["domain"], call.context
    own = projects.show(tx, who.project_id)["domain_id"] if who.project_id is not None else who.domain_id
    if not who.is_admin and wanted != own:
        raise Forbidden("You are not authorized to perform the requested action: the token's scope is not in that domain.")
    return domains.show(tx, wanted)
