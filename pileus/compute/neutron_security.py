"""The security groups of servers' ports, by Neutron's API (its extension security-group)."""

from __future__ import annotations

from collections.abc import Sequence

from pileus.clients.network import IngressRule, SecurityGroup
from pileus.compute import neutron_facts as facts
from pileus.compute.neutron_api import IDS, NeutronApi
from pileus.compute.neutron_facts import PROFILE, Json
from pileus.context import Context
from pileus.errors import BadRequest, Conflict, NotFound

DEFAULT = "default"
FIELDS = ("id", "name", "tenant_id", "description")


async def resolve(api: NeutronApi, context: Context, wanted: Sequence[str]) -> list[str]:
    """Ids of the project's groups that are named by id or name. Raises NotFound, Conflict (several of that name)."""
    mine = await api.listed("security-groups", {"tenant_id": context.project, "fields": ["id", "name", "stateful"]})
    found: list[Json] = []
    for name in wanted:
        those = [group for group in mine if group["id"] == name] or [group for group in mine if group["name"] == name]
        if not those:
            raise NotFound(f"Security group {name} not found.", kind="SecurityGroupNotFound")
        if len(those) > 1:
            raise Conflict(f"Multiple security groups found matching '{name}'. Use an ID to be more specific.", kind="NoUniqueMatch")
        if those[0] not in found:
            found.append(those[0])
    if len({group.get("stateful", True) for group in found}) > 1:
        raise Conflict("Stateful and stateless security groups cannot be on one port.", kind="SecurityGroupConflict")
    return [group["id"] for group in found]


async def wanted(api: NeutronApi, context: Context, names: Sequence[str]) -> tuple[str, ...]:
    """The same for ports that are to be made: only `default` is what they get by themselves."""
    return () if set(names) <= {DEFAULT} else tuple(await resolve(api, context, names))


def not_applied() -> BadRequest:
    """Of ports that can have no security group."""
    return BadRequest(
        "Network requires port_security_enabled and subnet associated in order to apply security groups.",
        kind="SecurityGroupCannotBeApplied",
    )


async def of_servers(api: NeutronApi, server_ids: Sequence[str]) -> dict[str, list[SecurityGroup]]:
    """See `NetworkClient.security_groups`."""
    by_server: dict[str, dict[str, None]] = {}
    for start in range(0, len(server_ids), IDS):
        query = {"device_id": server_ids[start : start + IDS], "fields": ["device_id", "security_groups", PROFILE]}
        for port in await api.listed("ports", query):
            if facts.mark_of(port).server == port["device_id"] and port.get("security_groups"):
                by_server.setdefault(port["device_id"], {}).update(dict.fromkeys(port["security_groups"]))
    groups = await api.by_ids("security-groups", {group_id for ids in by_server.values() for group_id in ids}, FIELDS)
    return {server_id: [_group(groups[group_id]) for group_id in ids if group_id in groups] for server_id, ids in by_server.items()}


async def with_rules(api: NeutronApi, server_id: str) -> list[SecurityGroup]:
    """See `NetworkClient.security_groups_of`."""
    ids = dict.fromkeys(group_id for port in await _ports(api, server_id) for group_id in port.get("security_groups") or [])
    groups = await api.by_ids("security-groups", ids)
    rules = [rule for group in groups.values() for rule in group["security_group_rules"] if rule["direction"] == "ingress"]
    remote = {rule["remote_group_id"] for rule in rules if rule.get("remote_group_id")}
    names = {**groups, **await api.by_ids("security-groups", remote - groups.keys(), FIELDS)}
    return [_group(groups[group_id], names) for group_id in ids if group_id in groups]


async def add(api: NeutronApi, context: Context, server_id: str, group: str) -> None:
    """See `NetworkClient.add_security_group`."""
    (group_id,) = await resolve(api, context, [group])
    ports = await _ports(api, server_id)
    if not ports:
        raise NotFound(f"Server {server_id} has no ports.", kind="PortNotFound")
    for port in ports:
        if not port.get("port_security_enabled", True) or not port["fixed_ips"]:
            raise not_applied()
    for port in ports:
        if group_id not in port["security_groups"]:
            await api.update_port(port["id"], {"security_groups": [*port["security_groups"], group_id]})


async def remove(api: NeutronApi, context: Context, server_id: str, group: str) -> None:
    """See `NetworkClient.remove_security_group`."""
    (group_id,) = await resolve(api, context, [group])
    having = [port for port in await _ports(api, server_id) if group_id in port.get("security_groups", [])]
    if not having:
        raise NotFound(f"Security group {group} is on no port of server {server_id}.", kind="SecurityGroupNotFound")
    for port in having:
        await api.update_port(port["id"], {"security_groups": [each for each in port["security_groups"] if each != group_id]})


async def _ports(api: NeutronApi, server_id: str) -> list[Json]:
    mine, _ = facts.of_server(server_id, await api.ports_of(server_id))
    return list(mine.values())


def _group(group: Json, names: dict[str, Json] | None = None) -> SecurityGroup:
    rules = () if names is None else tuple(_rule(rule, names) for rule in group["security_group_rules"] if rule["direction"] == "ingress")
    return SecurityGroup(group["id"], group["name"], group["tenant_id"], group.get("description") or "", rules)


def _rule(rule: Json, names: dict[str, Json]) -> IngressRule:
    remote = names.get(rule.get("remote_group_id") or "")
    return IngressRule(
        id=rule["id"],
        ip_version=6 if rule["ethertype"] == "IPv6" else 4,
        protocol=rule["protocol"],
        port_min=rule["port_range_min"],
        port_max=rule["port_range_max"],
        remote_cidr=rule.get("remote_ip_prefix"),
        remote_group=(remote["name"], remote["tenant_id"]) if remote else None,
    )
