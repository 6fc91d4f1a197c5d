"""/v2.0/security-group-rules"""

from __future__ import annotations

from ipaddress import ip_interface
from typing import Any

from sqlalchemy import ColumnElement, select

from pileus.context import Context
from pileus.errors import BadRequest
from pileus.http.face import Call, Reply, Route
from pileus.http.shape import iso
from pileus.network import security_groups as groups
from pileus.network import security_rules, visible
from pileus.network.api import attributes, lists
from pileus.network.api.attributes import Attribute, boolean, identifier, invalid, optional, text
from pileus.network.security_rules import NewRule
from pileus.network.service import Network
from pileus.network.tables import security_groups
from pileus.network.tables import security_rules as table
from pileus.store import Tx
from pileus.store.sql import Row, rows

DIRECTIONS = ("ingress", "egress")
ETHERTYPES = {"ipv4": 4, "ipv6": 6}


def _direction(name: str, value: Any) -> str:
    if value not in DIRECTIONS:
        raise invalid(name, f"'{value}' is not in {list(DIRECTIONS)}")
    return str(value)


def _ethertype(name: str, value: Any) -> int:
    if not isinstance(value, str) or value.lower() not in ETHERTYPES:
        raise BadRequest(
            f"Security group rule for ethertype '{value}' not supported. Allowed values are ['IPv4', 'IPv6'].",
            kind="SecurityGroupRuleInvalidEtherType",
        )
    return ETHERTYPES[value.lower()]


def _protocol(name: str, value: Any) -> str | None:
    """A name that is known, or a number from 0 to 255."""
    if value is None or value == "any":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and value.lower() in security_rules.PROTOCOLS:
        return value.lower()
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 3 and int(value) <= 255:
        return str(int(value))
    raise security_rules.bad_protocol(value)


def _port(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65535:
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 5 and int(value) <= 65535:
        return int(value)
    raise security_rules.bad_port(value)


def _prefix(name: str, value: Any) -> str | None:
    if value is None or value == "":
        return None
    try:
        if not isinstance(value, str) or "%" in value:
            raise ValueError
        return str(ip_interface(value))
    except ValueError:
        raise BadRequest(f"Invalid CIDR {value} given as IP prefix.", kind="InvalidCIDR") from None


ATTRIBUTES = (
    Attribute("security_group_id", "group_id", identifier, put=False, required=True),
    Attribute("direction", "direction", _direction, put=False, required=True),
    Attribute("ethertype", "ip_version", _ethertype, put=False),
    Attribute("protocol", "protocol", _protocol, put=False),
    Attribute("port_range_min", "port_min", _port, put=False),
    Attribute("port_range_max", "port_max", _port, put=False),
    Attribute("remote_ip_prefix", "remote_prefix", _prefix, put=False),
    Attribute("remote_group_id", "remote_group_id", optional(identifier), put=False),
    Attribute("remote_address_group_id", "remote_address_group_id", optional(identifier), put=False),
    Attribute("description", "description", text),
    Attribute("tenant_id", "project_id", text, put=False),
    Attribute("project_id", "project_id", text, put=False),
    *attributes.read_only("id", "normalized_cidr", "belongs_to_default_sg", "created_at", "updated_at", "revision_number"),
)


def shape(row: Row, context: Context) -> dict[str, Any]:
    return {
        "id": row["id"],
        "tenant_id": row["project_id"],
        "project_id": row["project_id"],
        "security_group_id": row["group_id"],
        "direction": row["direction"],
        "ethertype": f"IPv{row['ip_version']}",
        "protocol": row["protocol"],
        "port_range_min": row["port_min"],
        "port_range_max": row["port_max"],
        "remote_ip_prefix": row["remote_prefix"],
        "normalized_cidr": row["remote_cidr"],
        "remote_group_id": row["remote_group_id"],
        "remote_address_group_id": row["remote_address_group_id"],
        "belongs_to_default_sg": row["of_default"],
        "description": row["description"],
        "created_at": iso(row["created_at"]),
        "updated_at": iso(row["updated_at"]),
        "revision_number": row["revision"],
    }


def decorate(tx: Tx, found: list[Row]) -> list[Row]:
    """With `of_default`: whether the rule's group is a project's default one."""
    ids = sorted({row["group_id"] for row in found})
    default = select(security_groups.c.id).where(security_groups.c.id.in_(ids), security_groups.c.is_default)
    of_default = {row["id"] for row in rows(tx, default)} if ids else set()
    return [row | {"of_default": row["group_id"] in of_default} for row in found]


def _with_ethertype(name: str, values: list[str]) -> ColumnElement[bool]:
    return table.c.ip_version.in_([_ethertype(name, value) for value in values])


def _of_default(name: str, values: list[str]) -> ColumnElement[bool]:
    wanted = select(security_groups.c.id).where(security_groups.c.is_default.in_([boolean(name, value) for value in values]))
    return table.c.group_id.in_(wanted)


RESOURCE = lists.Resource(
    "security_group_rule",
    "security_group_rules",
    table,
    visible.of_security_rules,
    filters={
        "id": lists.of_text(table.c.id),
        "tenant_id": lists.of_text(table.c.project_id),
        "project_id": lists.of_text(table.c.project_id),
        "security_group_id": lists.of_text(table.c.group_id),
        "direction": lists.of_text(table.c.direction),
        "ethertype": _with_ethertype,
        "protocol": lists.of_text(table.c.protocol),
        "port_range_min": lists.of_int(table.c.port_min),
        "port_range_max": lists.of_int(table.c.port_max),
        "remote_ip_prefix": lists.of_text(table.c.remote_prefix),
        "normalized_cidr": lists.of_text(table.c.remote_cidr),
        "remote_group_id": lists.of_text(table.c.remote_group_id),
        "remote_address_group_id": lists.of_text(table.c.remote_address_group_id),
        "belongs_to_default_sg": _of_default,
        "description": lists.of_text(table.c.description),
        "revision_number": lists.of_int(table.c.revision),
    },
    sortable={
        "tenant_id": table.c.project_id,
        "project_id": table.c.project_id,
        "security_group_id": table.c.group_id,
        "direction": table.c.direction,
        "ethertype": table.c.ip_version,
        "protocol": table.c.protocol,
        "port_range_min": table.c.port_min,
        "port_range_max": table.c.port_max,
        "remote_ip_prefix": table.c.remote_prefix,
        "normalized_cidr": table.c.remote_cidr,
        "remote_group_id": table.c.remote_group_id,
        "remote_address_group_id": table.c.remote_address_group_id,
        "created_at": table.c.created_at,
        "updated_at": table.c.updated_at,
    },
    decorate=decorate,
    shape=shape,
    path="security-group-rules",
)


async def index(network: Network, call: Call) -> Reply:
    await ensure_default(network, call)
    return await lists.index(network.store, call, RESOURCE)


async def show(network: Network, call: Call) -> Reply:
    return await lists.show(network.store, call, RESOURCE, visible.security_rule)


async def create(network: Network, call: Call) -> Reply:
    given, bulk = await attributes.bodies(call, "security_group_rule", "security_group_rules")
    new = []
    for body in given:
        values = attributes.convert(body, ATTRIBUTES, call.context, create=True, singular="security_group_rule")
        if values.get("project_id"):
            attributes.owner(dict(values), call.context)
        new.append(NewRule(**{name: value for name, value in values.items() if (name, value) != ("project_id", "")}))
    made = await network.store.write(_create, network, call.context, new)
    await network.tell_rules([new[0].group_id])
    return lists.created(RESOURCE, call, made, bulk=bulk)


async def update(network: Network, call: Call) -> Reply:
    body = await attributes.body(call, "security_group_rule")
    values = attributes.convert(body, ATTRIBUTES, call.context, create=False, singular="security_group_rule")
    row = await network.store.write(_update, call.context, call.path["id"], values)
    return Reply(200, {"security_group_rule": shape(row, call.context)})


async def delete(network: Network, call: Call) -> Reply:
    group_id = await network.store.write(security_rules.delete_one, network.config, call.context, call.path["id"])
    await network.tell_rules([group_id])
    return Reply(204)


async def ensure_default(network: Network, call: Call) -> None:
    """Who lists what a project has finds its default group, even before any port needed it."""
    asked = [*call.http.query_params.getlist("project_id"), *call.http.query_params.getlist("tenant_id")]
    project_id = asked[0] if asked else call.context.project_id
    if project_id != call.context.project_id or not project_id:
        return
    if not await network.store.read(groups.has_default, project_id):
        await network.store.write(groups.default, network.config, project_id)


def _create(tx: Tx, network: Network, context: Context, new: list[NewRule]) -> list[Row]:
    return decorate(tx, security_rules.create_on(tx, network.config, context, new))


def _update(tx: Tx, context: Context, rule_id: str, values: dict[str, Any]) -> Row:
    return decorate(tx, [security_rules.describe(tx, context, rule_id, values)])[0]


ROUTES = [
    Route("GET", "/v2.0/security-group-rules", index, "reader"),
    Route("POST", "/v2.0/security-group-rules", create, "member"),
    Route("GET", "/v2.0/security-group-rules/{id}", show, "reader"),
    Route("PUT", "/v2.0/security-group-rules/{id}", update, "member"),
    Route("DELETE", "/v2.0/security-group-rules/{id}", delete, "member"),
]
