"""/v2.0/subnets"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from pileus.context import Context
from pileus.errors import BadRequest
from pileus.http.face import Call, Reply, Route
from pileus.http.shape import iso
from pileus.messages import PortWiring
from pileus.network import fixed_ips, subnets, visible, wiring
from pileus.network.addresses import Address
from pileus.network.api import attributes, lists
from pileus.network.api.attributes import Attribute, boolean, identifier, integer, invalid, items, nothing, text, texts
from pileus.network.config import Config
from pileus.network.service import Network
from pileus.network.tables import allocations, ports
from pileus.network.tables import networks as networks_table
from pileus.network.tables import subnets as table
from pileus.store import Tx
from pileus.store.sql import Row

_NO_MODES = "set enable_dhcp to false; servers get their IPv6 addresses by their config drive"


def _ip_version(name: str, value: Any) -> int:
    version = integer(name, value)
    if version not in (4, 6):
        raise invalid(name, f"'{value}' is not in [4, 6]")
    return version


def _pools(name: str, value: Any) -> list[tuple[Address, Address]] | None:
    if value is None:
        return None
    found = items(["start", "end"], ["start", "end"])(name, value)
    return [(fixed_ips.parse_address(item["start"]), fixed_ips.parse_address(item["end"])) for item in found]


def _gateway(name: str, value: Any) -> str | None:
    """None: no gateway. An empty string would mean the default one, which is what leaving it out is for."""
    if value is None:
        return None
    if not text(name, value):
        raise BadRequest(f"Invalid input for {name}. Reason: '' is not a valid IP address.", kind="HTTPBadRequest")
    return str(value)


ATTRIBUTES = (
    Attribute("name", "name", text),
    Attribute("description", "description", text),
    Attribute("network_id", "network_id", identifier, put=False, required=True),
    Attribute("cidr", "cidr", text, put=False, required=True),
    Attribute("ip_version", "ip_version", _ip_version, put=False, required=True),
    Attribute("gateway_ip", "gateway", _gateway),
    Attribute("allocation_pools", "pools", _pools),
    Attribute("enable_dhcp", "enable_dhcp", boolean),
    Attribute("dns_nameservers", "dns", texts),
    Attribute("host_routes", "routes", items(["destination", "nexthop"], ["destination", "nexthop"])),
    Attribute("ipv6_ra_mode", "_mode", nothing(_NO_MODES), put=False),
    Attribute("ipv6_address_mode", "_mode", nothing(_NO_MODES), put=False),
    Attribute("subnetpool_id", "_subnetpool", nothing("give a cidr"), put=False),
    Attribute("tenant_id", "project_id", text, put=False),
    Attribute("project_id", "project_id", text, put=False),
    *attributes.read_only("id", "created_at", "updated_at", "revision_number"),
)


def shape(row: Row, context: Context) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "tenant_id": row["project_id"],
        "project_id": row["project_id"],
        "network_id": row["network_id"],
        "ip_version": row["ip_version"],
        "cidr": row["cidr"],
        "gateway_ip": row["gateway"],
        "enable_dhcp": row["enable_dhcp"],
        "allocation_pools": [{"start": start, "end": end} for start, end in row["pools"]],
        "dns_nameservers": row["dns"],
        "host_routes": row["routes"],
        "ipv6_ra_mode": None,
        "ipv6_address_mode": None,
        "subnetpool_id": None,
        "description": row["description"],
        "created_at": iso(row["created_at"]),
        "updated_at": iso(row["updated_at"]),
        "revision_number": row["revision"],
    }


def _of_shared(name: str, values: list[str]) -> Any:
    wanted = [boolean(name, value) for value in values]
    return table.c.network_id.in_(select(networks_table.c.id).where(networks_table.c.shared.in_(wanted)))


RESOURCE = lists.Resource(
    "subnet",
    "subnets",
    table,
    visible.of_subnets,
    filters={
        "id": lists.of_text(table.c.id),
        "name": lists.of_text(table.c.name),
        "description": lists.of_text(table.c.description),
        "tenant_id": lists.of_text(table.c.project_id),
        "project_id": lists.of_text(table.c.project_id),
        "network_id": lists.of_text(table.c.network_id),
        "ip_version": lists.of_int(table.c.ip_version),
        "cidr": lists.of_text(table.c.cidr),
        "gateway_ip": lists.of_text(table.c.gateway),
        "enable_dhcp": lists.of_bool(table.c.enable_dhcp),
        "dns_nameservers": lists.of_json(table.c.dns),
        "revision_number": lists.of_int(table.c.revision),
        "shared": _of_shared,
        "ipv6_ra_mode": lists.same(""),
        "ipv6_address_mode": lists.same(""),
        "subnetpool_id": lists.same(""),
    },
    sortable={
        "name": table.c.name,
        "tenant_id": table.c.project_id,
        "project_id": table.c.project_id,
        "network_id": table.c.network_id,
        "ip_version": table.c.ip_version,
        "cidr": table.c.cidr,
        "enable_dhcp": table.c.enable_dhcp,
        "created_at": table.c.created_at,
        "updated_at": table.c.updated_at,
    },
    decorate=lambda tx, found: found,
    shape=shape,
)


async def index(network: Network, call: Call) -> Reply:
    return await lists.index(network.store, call, RESOURCE)


async def show(network: Network, call: Call) -> Reply:
    return await lists.show(network.store, call, RESOURCE, visible.subnet)


async def create(network: Network, call: Call) -> Reply:
    given, bulk = await attributes.bodies(call, "subnet", "subnets")
    new = []
    for body in given:
        values = _values(call, body, create=True)
        new.append(subnets.NewSubnet(project_id=attributes.owner(values, call.context), **values))
    made = await network.store.write(_create, network.config, call.context, new)
    return lists.created(RESOURCE, call, made, bulk=bulk)


async def update(network: Network, call: Call) -> Reply:
    values = _values(call, await attributes.body(call, "subnet"), create=False)
    if values.get("pools", ()) is None:
        raise invalid("allocation_pools", "'None' is not a list")
    row, told = await network.store.write(_update, network.config, call.context, call.path["id"], values)
    await network.tell(told)
    return Reply(200, {"subnet": shape(row, call.context)})


async def delete(network: Network, call: Call) -> Reply:
    await network.store.write(subnets.delete_one, network.config, call.context, call.path["id"])
    return Reply(204)


def _values(call: Call, body: dict[str, Any], *, create: bool) -> dict[str, Any]:
    values = attributes.convert(body, ATTRIBUTES, call.context, create=create, singular="subnet")
    return {field: value for field, value in values.items() if not field.startswith("_")}


def _create(tx: Tx, config: Config, context: Context, new: list[subnets.NewSubnet]) -> list[Row]:
    return [subnets.create(tx, config, context, one) for one in new]


def _update(tx: Tx, config: Config, context: Context, subnet_id: str, values: dict[str, Any]) -> tuple[Row, dict[str, list[PortWiring]]]:
    row, tell = subnets.change(tx, config, context, subnet_id, values)
    using = select(allocations.c.port_id).where(allocations.c.subnet_id == subnet_id)
    return row, wiring.bound(tx, ports.c.id.in_(using)) if tell else {}


ROUTES = [
    Route("GET", "/v2.0/subnets", index, "reader"),
    Route("POST", "/v2.0/subnets", create, "member"),
    Route("GET", "/v2.0/subnets/{id}", show, "reader"),
    Route("PUT", "/v2.0/subnets/{id}", update, "member"),
    Route("DELETE", "/v2.0/subnets/{id}", delete, "member"),
]
