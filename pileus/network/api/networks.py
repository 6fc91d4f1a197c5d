"""/v2.0/networks"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from pileus.context import Context
from pileus.errors import BadRequest
from pileus.http.face import Call, Reply, Route
from pileus.http.shape import iso
from pileus.messages import PortWiring
from pileus.network import networks, visible, wiring
from pileus.network.api import attributes, lists
from pileus.network.api.attributes import Attribute, boolean, integer, optional, text
from pileus.network.config import Config
from pileus.network.service import Network
from pileus.network.tables import networks as table
from pileus.network.tables import ports, subnets
from pileus.store import Tx
from pileus.store.sql import Row


def _not_external(name: str, value: Any) -> None:
    if boolean(name, value):
        raise BadRequest("Invalid input for operation: external networks are not offered: leave router:external out.", kind="InvalidInput")


ATTRIBUTES = (
    Attribute("name", "name", text),
    Attribute("description", "description", text),
    Attribute("admin_state_up", "admin_state_up", boolean),
    Attribute("shared", "shared", boolean, admin=True, default=False),
    Attribute("port_security_enabled", "port_security", boolean),
    Attribute("mtu", "mtu", integer),
    Attribute("router:external", "_external", _not_external),
    Attribute("provider:network_type", "type", optional(text), put=False, admin=True, default=None),
    Attribute("provider:physical_network", "physical_network", optional(text), put=False, admin=True, default=None),
    Attribute("provider:segmentation_id", "segmentation_id", optional(integer), put=False, admin=True, default=None),
    Attribute("tenant_id", "project_id", text, put=False),
    Attribute("project_id", "project_id", text, put=False),
    *attributes.read_only("id", "status", "subnets", "created_at", "updated_at", "revision_number"),
)


def shape(row: Row, context: Context) -> dict[str, Any]:
    shown = {
        "id": row["id"],
        "name": row["name"],
        "tenant_id": row["project_id"],
        "project_id": row["project_id"],
        "admin_state_up": row["admin_state_up"],
        "status": "ACTIVE",
        "shared": row["shared"],
        "mtu": row["mtu"],
        "port_security_enabled": row["port_security"],
        "router:external": False,
        "subnets": row["subnets"],
        "description": row["description"],
        "created_at": iso(row["created_at"]),
        "updated_at": iso(row["updated_at"]),
        "revision_number": row["revision"],
    }
    if context.is_admin:
        shown |= {
            "provider:network_type": row["type"],
            "provider:physical_network": row["physical_network"],
            "provider:segmentation_id": row["segmentation_id"],
        }
    return shown


def decorate(tx: Tx, found: list[Row]) -> list[Row]:
    by_network = visible.subnets_of(tx, [row["id"] for row in found])
    return [row | {"subnets": [subnet["id"] for subnet in by_network[row["id"]]]} for row in found]


RESOURCE = lists.Resource(
    "network",
    "networks",
    table,
    visible.of_networks,
    filters={
        "id": lists.of_text(table.c.id),
        "name": lists.of_text(table.c.name),
        "description": lists.of_text(table.c.description),
        "tenant_id": lists.of_text(table.c.project_id),
        "project_id": lists.of_text(table.c.project_id),
        "admin_state_up": lists.of_bool(table.c.admin_state_up),
        "shared": lists.of_bool(table.c.shared),
        "mtu": lists.of_int(table.c.mtu),
        "port_security_enabled": lists.of_bool(table.c.port_security),
        "revision_number": lists.of_int(table.c.revision),
        "router:external": lists.constant(False),
        "status": lists.same("ACTIVE"),
        "subnets": lambda name, values: table.c.id.in_(select(subnets.c.network_id).where(subnets.c.id.in_(values))),
        "provider:network_type": lists.of_text(table.c.type),
        "provider:physical_network": lists.of_text(table.c.physical_network),
        "provider:segmentation_id": lists.of_int(table.c.segmentation_id),
    },
    sortable={
        "name": table.c.name,
        "tenant_id": table.c.project_id,
        "project_id": table.c.project_id,
        "admin_state_up": table.c.admin_state_up,
        "mtu": table.c.mtu,
        "created_at": table.c.created_at,
        "updated_at": table.c.updated_at,
    },
    decorate=decorate,
    shape=shape,
    admin_filters=frozenset({"provider:network_type", "provider:physical_network", "provider:segmentation_id"}),
)


async def index(network: Network, call: Call) -> Reply:
    return await lists.index(network.store, call, RESOURCE)


async def show(network: Network, call: Call) -> Reply:
    return await lists.show(network.store, call, RESOURCE, visible.network)


async def create(network: Network, call: Call) -> Reply:
    given, bulk = await attributes.bodies(call, "network", "networks")
    new = []
    for body in given:
        values = attributes.convert(body, ATTRIBUTES, call.context, create=True, singular="network")
        values.pop("_external", None)
        new.append(networks.NewNetwork(attributes.owner(values, call.context), **values))
    made = await network.store.write(_create, network.config, new)
    return lists.created(RESOURCE, call, made, bulk=bulk)


async def update(network: Network, call: Call) -> Reply:
    body = await attributes.body(call, "network")
    values = attributes.convert(body, ATTRIBUTES, call.context, create=False, singular="network")
    values.pop("_external", None)
    row, told = await network.store.write(_update, network.config, call.context, call.path["id"], values)
    await network.tell(told)
    return Reply(200, {"network": shape(row, call.context)})


async def delete(network: Network, call: Call) -> Reply:
    await network.store.write(networks.delete_one, network.config, call.context, call.path["id"])
    return Reply(204)


def _create(tx: Tx, config: Config, new: list[networks.NewNetwork]) -> list[Row]:
    return decorate(tx, [networks.create(tx, config, one) for one in new])


def _update(tx: Tx, config: Config, context: Context, network_id: str, values: dict[str, Any]) -> tuple[Row, dict[str, list[PortWiring]]]:
    row, tell = networks.change(tx, config, context, network_id, values)
    return decorate(tx, [row])[0], wiring.bound(tx, ports.c.network_id == network_id) if tell else {}


ROUTES = [
    Route("GET", "/v2.0/networks", index, "reader"),
    Route("POST", "/v2.0/networks", create, "member"),
    Route("GET", "/v2.0/networks/{id}", show, "reader"),
    Route("PUT", "/v2.0/networks/{id}", update, "member"),
    Route("DELETE", "/v2.0/networks/{id}", delete, "member"),
]
