"""/v2.0/address-groups"""

from __future__ import annotations

from typing import Any

from pileus.context import Context
from pileus.http.face import Call, Reply, Route
from pileus.http.shape import iso
from pileus.network import address_groups, visible
from pileus.network.address_groups import NewAddressGroup
from pileus.network.api import attributes, lists
from pileus.network.api.attributes import Attribute, invalid, text
from pileus.network.service import Network
from pileus.network.tables import address_groups as table
from pileus.store.sql import Row


def _addresses(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid(name, f"'{value}' is not a list")
    return [_cidr(name, one) for one in value]


def _cidr(name: str, value: Any) -> str:
    try:
        if not isinstance(value, str) or "/" not in value or "%" in value:
            raise ValueError
        return address_groups.normal(value)
    except ValueError:
        raise invalid(name, f"'{value}' is not a valid IP subnet") from None


ATTRIBUTES = (
    Attribute("name", "name", text),
    Attribute("description", "description", text),
    Attribute("addresses", "addresses", _addresses, put=False),
    Attribute("tenant_id", "project_id", text, put=False),
    Attribute("project_id", "project_id", text, put=False),
    *attributes.read_only("id", "created_at", "updated_at", "revision_number"),
)
MEMBERS = (Attribute("addresses", "addresses", _addresses, required=True),)


def shape(row: Row, context: Context) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "description": row["description"],
        "tenant_id": row["project_id"],
        "project_id": row["project_id"],
        "addresses": row["addresses"],
        "created_at": iso(row["created_at"]),
        "updated_at": iso(row["updated_at"]),
        "revision_number": row["revision"],
    }


RESOURCE = lists.Resource(
    "address_group",
    "address_groups",
    table,
    visible.of_address_groups,
    filters={
        "id": lists.of_text(table.c.id),
        "name": lists.of_text(table.c.name),
        "description": lists.of_text(table.c.description),
        "tenant_id": lists.of_text(table.c.project_id),
        "project_id": lists.of_text(table.c.project_id),
        "revision_number": lists.of_int(table.c.revision),
    },
    sortable={
        "name": table.c.name,
        "description": table.c.description,
        "tenant_id": table.c.project_id,
        "project_id": table.c.project_id,
        "created_at": table.c.created_at,
        "updated_at": table.c.updated_at,
    },
    decorate=lambda tx, found: found,
    shape=shape,
    path="address-groups",
)


async def index(network: Network, call: Call) -> Reply:
    return await lists.index(network.store, call, RESOURCE)


async def show(network: Network, call: Call) -> Reply:
    return await lists.show(network.store, call, RESOURCE, visible.address_group)


async def create(network: Network, call: Call) -> Reply:
    given, bulk = await attributes.new(call, ATTRIBUTES, "address_group")
    new = [NewAddressGroup(owner, **values) for owner, values in given]
    made = await network.store.write(lambda tx: [address_groups.create(tx, one) for one in new])
    return lists.created(RESOURCE, call, made, bulk=bulk)


async def update(network: Network, call: Call) -> Reply:
    body = await attributes.body(call, "address_group")
    values = attributes.convert(body, ATTRIBUTES, call.context, create=False, singular="address_group")
    row = await network.store.write(address_groups.change, call.context, call.path["id"], values)
    return Reply(200, {"address_group": shape(row, call.context)})


async def delete(network: Network, call: Call) -> Reply:
    await network.store.write(address_groups.delete_one, call.context, call.path["id"])
    return Reply(204)


async def add_addresses(network: Network, call: Call) -> Reply:
    row, change = await network.store.write(address_groups.add, call.context, call.path["id"], await _members(call))
    await network.tell_set(change)
    return Reply(200, {"address_group": shape(row, call.context)})


async def remove_addresses(network: Network, call: Call) -> Reply:
    row, change = await network.store.write(address_groups.remove, call.context, call.path["id"], await _members(call))
    await network.tell_set(change)
    return Reply(200, {"address_group": shape(row, call.context)})


async def _members(call: Call) -> list[str]:
    given = await call.json(dict[str, Any])
    found: list[str] = attributes.convert(given, MEMBERS, call.context, create=True, singular="address_group")["addresses"]
    return found


ROUTES = [
    Route("GET", "/v2.0/address-groups", index, "reader"),
    Route("POST", "/v2.0/address-groups", create, "member"),
    Route("GET", "/v2.0/address-groups/{id}", show, "reader"),
    Route("PUT", "/v2.0/address-groups/{id}", update, "member"),
    Route("DELETE", "/v2.0/address-groups/{id}", delete, "member"),
    Route("PUT", "/v2.0/address-groups/{id}/add_addresses", add_addresses, "member"),
    Route("PUT", "/v2.0/address-groups/{id}/remove_addresses", remove_addresses, "member"),
]
