"""The security groups of a server: its ports' groups, shown and changed on all ports at once. Source: Nova's api-ref."""

from __future__ import annotations

from typing import Any

import msgspec

from pileus.clients.network import IngressRule, SecurityGroup
from pileus.compute import servers
from pileus.compute.api import forms
from pileus.compute.service import Compute
from pileus.errors import BadRequest
from pileus.http.face import Call, Reply, Route

WITH_PORTS = ("tcp", "udp")


class Named(forms.Body):
    name: str


async def list_groups(compute: Compute, call: Call) -> Reply:
    row = await compute.store.read(servers.get, call.context, call.path["id"])
    found = await compute.network.security_groups_of(row["id"])
    ordered = sorted(found, key=lambda group: (group.project_id, group.name))
    return Reply(body={"security_groups": [_view(group) for group in ordered]})


async def add(compute: Compute, call: Call, argument: Any) -> Reply:
    name = _name(argument, "addSecurityGroup")
    row = await compute.store.read(servers.get, call.context, call.path["id"])
    await compute.network.add_security_group(call.context, row["id"], name)
    return Reply(202)


async def remove(compute: Compute, call: Call, argument: Any) -> Reply:
    name = _name(argument, "removeSecurityGroup")
    row = await compute.store.read(servers.get, call.context, call.path["id"])
    await compute.network.remove_security_group(call.context, row["id"], name)
    return Reply(202)


def _name(argument: Any, where: str) -> str:
    try:
        name = msgspec.convert(argument, Named).name
    except msgspec.ValidationError as error:
        raise BadRequest(f"Invalid input for field/attribute {where}: {error}") from None
    if not name.strip() or len(name) > 255:
        raise forms.invalid("name", name, "expected the name or the id of a security group, 1 to 255 characters")
    return name


def _view(group: SecurityGroup) -> dict[str, Any]:
    return {
        "id": group.id,
        "name": group.name,
        "description": group.description,
        "tenant_id": group.project_id,
        "rules": [_rule(group, rule) for rule in group.ingress],
    }


def _rule(group: SecurityGroup, rule: IngressRule) -> dict[str, Any]:
    """A rule as Nova had it when it kept them itself: every port is 1 to 65535, every other number -1."""
    first, last = rule.port_min, rule.port_max
    if rule.protocol is not None and first is None and last is None:
        first, last = (1, 65535) if rule.protocol in WITH_PORTS else (-1, -1)
    everywhere = "0.0.0.0/0" if rule.ip_version == 4 else "::/0"
    remote = rule.remote_group
    return {
        "id": rule.id,
        "parent_group_id": group.id,
        "ip_protocol": rule.protocol,
        "from_port": first,
        "to_port": last,
        "group": {"name": remote[0], "tenant_id": remote[1]} if remote else {},
        "ip_range": {} if remote else {"cidr": rule.remote_cidr or everywhere},
    }


ROUTES = [Route("GET", "/v2.1/servers/{id}/os-security-groups", list_groups, "reader")]
