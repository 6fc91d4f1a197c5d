"""/v2.0/security-groups"""

from __future__ import annotations

from typing import Any

from pileus.context import Context
from pileus.errors import Conflict
from pileus.http.face import Call, Reply, Route
from pileus.http.shape import iso
from pileus.network import security_groups, visible
from pileus.network.api import attributes, lists, security_group_rules
from pileus.network.api.attributes import Attribute, boolean, text
from pileus.network.config import Config
from pileus.network.security_groups import NewGroup
from pileus.network.service import Network
from pileus.network.tables import security_groups as table
from pileus.store import Tx
from pileus.store.sql import Row


def _name(name: str, value: Any) -> str:
    if text(name, value).lower() == security_groups.DEFAULT:
        raise Conflict("Default security group already exists.", kind="SecurityGroupDefaultAlreadyExists")
    return str(value)


ATTRIBUTES = (
    Attribute("name", "name", _name),
    Attribute("description", "description", text),
    Attribute("stateful", "stateful", boolean),
    Attribute("tenant_id", "project_id", text, put=False),
    Attribute("project_id", "project_id", text, put=False),
    *attributes.read_only("id", "shared", "security_group_rules", "created_at", "updated_at", "revision_number"),
)


def shape(row: Row, context: Context) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "description": row["description"],
        "tenant_id": row["project_id"],
        "project_id": row["project_id"],
        "stateful": row["stateful"],
        "shared": False,
        "security_group_rules": [security_group_rules.shape(rule | {"of_default": row["is_default"]}, context) for rule in row["rules"]],
        "created_at": iso(row["created_at"]),
        "updated_at": iso(row["updated_at"]),
        "revision_number": row["revision"],
    }


RESOURCE = lists.Resource(
    "security_group",
    "security_groups",
    table,
    visible.of_security_groups,
    filters={
        "id": lists.of_text(table.c.id),
        "name": lists.of_text(table.c.name),
        "description": lists.of_text(table.c.description),
        "tenant_id": lists.of_text(table.c.project_id),
        "project_id": lists.of_text(table.c.project_id),
        "stateful": lists.of_bool(table.c.stateful),
        "shared": lists.constant(False),
        "revision_number": lists.of_int(table.c.revision),
    },
    sortable={
        "name": table.c.name,
        "description": table.c.description,
        "tenant_id": table.c.project_id,
        "project_id": table.c.project_id,
        "stateful": table.c.stateful,
        "created_at": table.c.created_at,
        "updated_at": table.c.updated_at,
    },
    decorate=security_groups.with_rules,
    shape=shape,
    path="security-groups",
)


async def index(network: Network, call: Call) -> Reply:
    await security_group_rules.ensure_default(network, call)
    return await lists.index(network.store, call, RESOURCE)


async def show(network: Network, call: Call) -> Reply:
    return await lists.show(network.store, call, RESOURCE, visible.security_group)


async def create(network: Network, call: Call) -> Reply:
    given, bulk = await attributes.new(call, ATTRIBUTES, "security_group")
    new = [NewGroup(owner, **values) for owner, values in given]
    made = await network.store.write(_create, network.config, new)
    return lists.created(RESOURCE, call, made, bulk=bulk)


async def update(network: Network, call: Call) -> Reply:
    body = await attributes.body(call, "security_group")
    values = attributes.convert(body, ATTRIBUTES, call.context, create=False, singular="security_group")
    row = await network.store.write(_update, call.context, call.path["id"], values)
    if "stateful" in values:
        await network.tell_rules([row["id"]])
    return Reply(200, {"security_group": shape(row, call.context)})


async def delete(network: Network, call: Call) -> Reply:
    others = await network.store.write(security_groups.delete_one, network.config, call.context, call.path["id"])
    await network.tell_rules(others)
    return Reply(204)


def _create(tx: Tx, config: Config, new: list[NewGroup]) -> list[Row]:
    return security_groups.with_rules(tx, security_groups.create_on(tx, config, new))


def _update(tx: Tx, context: Context, group_id: str, values: dict[str, Any]) -> Row:
    return security_groups.with_rules(tx, [security_groups.change(tx, context, group_id, values)])[0]


ROUTES = [
    Route("GET", "/v2.0/security-groups", index, "reader"),
    Route("POST", "/v2.0/security-groups", create, "member"),
    Route("GET", "/v2.0/security-groups/{id}", show, "reader"),
    Route("PUT", "/v2.0/security-groups/{id}", update, "member"),
    Route("DELETE", "/v2.0/security-groups/{id}", delete, "member"),
]
