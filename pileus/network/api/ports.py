"""/v2.0/ports"""

from __future__ import annotations

import uuid
from ipaddress import ip_network
from typing import Any

from sqlalchemy import ColumnElement, or_, select

from pileus.context import Context
from pileus.http.face import Call, Reply, Route
from pileus.http.shape import iso
from pileus.messages import PortWiring
from pileus.network import fixed_ips, marks, port_changes, ports, visible, wiring
from pileus.network.api import attributes, lists
from pileus.network.api.attributes import Attribute, boolean, identifier, invalid, items, mac, text, texts
from pileus.network.config import Config
from pileus.network.fixed_ips import WantedIP
from pileus.network.service import Network
from pileus.network.tables import allocations, set_members
from pileus.network.tables import ports as table
from pileus.store import Tx
from pileus.store.sql import Row

TOLD = frozenset({"host", *port_changes.KEPT})
"""Of changes of these compute may have to be told."""


VIF_DETAILS = {"connectivity": "l2", "port_filter": True, "ovs_hybrid_plug": False}
GENERATION = "generation"
"""Beside them: which of the port's bindings this is, so that compute over HTTP knows what our agents speak of."""


def _fixed_ips(name: str, value: Any) -> list[WantedIP] | None:
    if value is None:
        return None
    found = items(["subnet_id", "ip_address"])(name, value)
    wanted = []
    for item in found:
        address = item.get("ip_address")
        wanted.append(WantedIP(item.get("subnet_id"), None if address is None else fixed_ips.parse_address(address)))
    return wanted


def _pairs(name: str, value: Any) -> list[dict[str, str | None]]:
    pairs: list[dict[str, str | None]] = []
    for item in items(["ip_address", "mac_address"], ["ip_address"])(name, value):
        try:
            net = ip_network(item["ip_address"], strict=False)
        except ValueError:
            raise invalid(name, f"'{item['ip_address']}' is not a valid IP address or CIDR") from None
        ip = str(net.network_address) if net.num_addresses == 1 else str(net)
        pairs.append({"ip": ip, "mac": mac(name, item["mac_address"]) if "mac_address" in item else None})
    return pairs


def _profile(name: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(name, f"'{value}' is not a dictionary")
    return value


def _groups(name: str, value: Any) -> list[str]:
    ids = texts(name, value)
    for one in ids:
        try:
            uuid.UUID(one)
        except ValueError:
            raise invalid(name, f"'{one}' is not a valid UUID") from None
    if len(set(ids)) < len(ids):
        raise invalid(name, f"Duplicate items in the list: '{', '.join(sorted({one for one in ids if ids.count(one) > 1}))}'")
    return ids


def _host(name: str, value: Any) -> str:
    return "" if value is None else text(name, value)


ATTRIBUTES = (
    Attribute("name", "name", text),
    Attribute("description", "description", text),
    Attribute("network_id", "network_id", identifier, put=False, required=True),
    Attribute("admin_state_up", "admin_state_up", boolean),
    Attribute("mac_address", "mac", mac),
    Attribute("fixed_ips", "fixed_ips", _fixed_ips),
    Attribute("device_id", "device_id", text),
    Attribute("device_owner", "device_owner", text),
    Attribute("allowed_address_pairs", "pairs", _pairs),
    Attribute("port_security_enabled", "port_security", boolean),
    Attribute("security_groups", "security_groups", _groups),
    Attribute("binding:vnic_type", "vnic_type", text),
    Attribute("binding:host_id", "host", _host, admin=True, default=""),
    Attribute("binding:profile", "profile", _profile, admin=True, default={}),
    Attribute("tenant_id", "project_id", text, put=False),
    Attribute("project_id", "project_id", text, put=False),
    *attributes.read_only("id", "status", "binding:vif_type", "binding:vif_details", "created_at", "updated_at", "revision_number"),
)


def shape(row: Row, context: Context) -> dict[str, Any]:
    shown = {
        "id": row["id"],
        "name": row["name"],
        "network_id": row["network_id"],
        "tenant_id": row["project_id"],
        "project_id": row["project_id"],
        "mac_address": row["mac"],
        "admin_state_up": row["admin_state_up"],
        "status": row["status"],
        "device_id": row["device_id"],
        "device_owner": row["device_owner"],
        "fixed_ips": [{"subnet_id": address["subnet_id"], "ip_address": address["ip"]} for address in row["fixed_ips"]],
        "allowed_address_pairs": [{"ip_address": pair["ip"], "mac_address": pair["mac"]} for pair in row["pairs"]],
        "port_security_enabled": row["port_security"],
        "security_groups": row["security_groups"],
        "binding:vnic_type": row["vnic_type"],
        "description": row["description"],
        "created_at": iso(row["created_at"]),
        "updated_at": iso(row["updated_at"]),
        "revision_number": row["revision"],
    }
    if context.is_admin:
        bound = bool(row["host"])
        shown |= {
            "binding:host_id": row["host"],
            "binding:profile": marks.shown(row),
            "binding:vif_type": "ovs" if bound else "unbound",
            "binding:vif_details": {**VIF_DETAILS, GENERATION: row["generation"]} if bound else {},
        }
    return shown


def _with_address(name: str, values: list[str]) -> ColumnElement[bool]:
    """`subnet_id=…`, `ip_address=…`, `ip_address_substr=…`: of each kind one must meet, of the kinds all."""
    by_kind: dict[str, list[str]] = {}
    for value in values:
        kind, _, text_asked = value.partition("=")
        by_kind.setdefault(kind, []).append(text_asked)
    conditions: list[ColumnElement[bool]] = []
    for kind, wanted in by_kind.items():
        if kind == "subnet_id":
            conditions.append(allocations.c.subnet_id.in_(wanted))
        elif kind == "ip_address":
            conditions.append(allocations.c.ip.in_([_canonical(address) for address in wanted]))
        elif kind == "ip_address_substr" and len(wanted) <= lists.MOST_VALUES:
            conditions.append(or_(*[allocations.c.ip.contains(part, autoescape=True) for part in wanted]))
        else:
            raise invalid(name, f"'{kind}': one of subnet_id=ID, ip_address=ADDRESS, ip_address_substr=PART")
    return table.c.id.in_(select(allocations.c.port_id).where(*conditions))


def _with_group(name: str, values: list[str]) -> ColumnElement[bool]:
    return table.c.id.in_(select(set_members.c.port_id).where(set_members.c.set_id.in_(values), set_members.c.gone.is_(False)))


def _canonical(address: str) -> str:
    return str(fixed_ips.parse_address(address))


RESOURCE = lists.Resource(
    "port",
    "ports",
    table,
    visible.of_ports,
    filters={
        "id": lists.of_text(table.c.id),
        "name": lists.of_text(table.c.name),
        "description": lists.of_text(table.c.description),
        "tenant_id": lists.of_text(table.c.project_id),
        "project_id": lists.of_text(table.c.project_id),
        "network_id": lists.of_text(table.c.network_id),
        "mac_address": lambda name, values: table.c.mac.in_([value.lower() for value in values]),
        "admin_state_up": lists.of_bool(table.c.admin_state_up),
        "status": lists.of_text(table.c.status),
        "device_id": lists.of_text(table.c.device_id),
        "device_owner": lists.of_text(table.c.device_owner),
        "port_security_enabled": lists.of_bool(table.c.port_security),
        "fixed_ips": _with_address,
        "security_groups": _with_group,
        "revision_number": lists.of_int(table.c.revision),
        "binding:vnic_type": lists.of_text(table.c.vnic_type),
        "binding:host_id": lists.of_text(table.c.host),
    },
    sortable={
        "name": table.c.name,
        "tenant_id": table.c.project_id,
        "project_id": table.c.project_id,
        "network_id": table.c.network_id,
        "mac_address": table.c.mac,
        "admin_state_up": table.c.admin_state_up,
        "status": table.c.status,
        "device_id": table.c.device_id,
        "device_owner": table.c.device_owner,
        "created_at": table.c.created_at,
        "updated_at": table.c.updated_at,
    },
    decorate=visible.with_addresses,
    shape=shape,
    admin_filters=frozenset({"binding:host_id"}),
)


async def index(network: Network, call: Call) -> Reply:
    return await lists.index(network.store, call, RESOURCE)


async def show(network: Network, call: Call) -> Reply:
    return await lists.show(network.store, call, RESOURCE, visible.port)


async def create(network: Network, call: Call) -> Reply:
    given, bulk = await attributes.bodies(call, "port", "ports")
    new = []
    for body in given:
        values = attributes.convert(body, ATTRIBUTES, call.context, create=True, singular="port")
        network_id = values.pop("network_id")
        values = marks.taken(call.context, values)
        new.append((network_id, ports.NewPort(attributes.owner(values, call.context), **values)))
    if bulk:
        made = await network.store.write(ports.create_on, network.config, call.context, new)
    else:
        made = [await network.create_port(call.context, *new[0])]
    return lists.created(RESOURCE, call, made, bulk=bulk)


async def update(network: Network, call: Call) -> Reply:
    body = await attributes.body(call, "port")
    values = attributes.convert(body, ATTRIBUTES, call.context, create=False, singular="port")
    if values.get("fixed_ips", ()) is None:
        raise invalid("fixed_ips", "'None' is not a list")
    values = marks.taken(call.context, values)
    row, told = await network.store.write(_update, network.config, call.context, call.path["id"], values)
    await network.tell(told)
    if not TOLD.isdisjoint(values):
        await network.wake()
    return Reply(200, {"port": shape(row, call.context)})


async def delete(network: Network, call: Call) -> Reply:
    if await network.store.write(ports.delete_one, network.config, call.context, call.path["id"]):
        await network.wake()
    return Reply(204)


def _update(tx: Tx, config: Config, context: Context, port_id: str, values: dict[str, Any]) -> tuple[Row, dict[str, list[PortWiring]]]:
    row, tell = port_changes.change(tx, config, context, port_id, values)
    return row, wiring.by_host(tx, [row]) if tell else {}


ROUTES = [
    Route("GET", "/v2.0/ports", index, "reader"),
    Route("POST", "/v2.0/ports", create, "member"),
    Route("GET", "/v2.0/ports/{id}", show, "reader"),
    Route("PUT", "/v2.0/ports/{id}", update, "member"),
    Route("DELETE", "/v2.0/ports/{id}", delete, "member"),
]
