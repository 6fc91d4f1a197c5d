"""The security groups of servers, as compute asks for them: by name or id, on all ports of a server at once."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import BindParameter, bindparam, select

from pileus.clients.network import IngressRule, SecurityGroup
from pileus.context import Context
from pileus.errors import BadRequest, Conflict, NotFound
from pileus.messages import PortWiring
from pileus.network import port_changes, security_groups, security_rules, visible, wiring
from pileus.network.config import Config
from pileus.network.tables import ports as ports_table
from pileus.network.tables import security_groups as table
from pileus.network.tables import set_members
from pileus.store import Tx
from pileus.store.sql import Row, rows

_SERVERS: BindParameter[str] = bindparam("servers", expanding=True)
_OF_SERVERS = (
    select(ports_table.c.server_id, ports_table.c.nic_index, table.c.id, table.c.name, table.c.project_id, table.c.description)
    .select_from(ports_table.join(set_members, set_members.c.port_id == ports_table.c.id).join(table, table.c.id == set_members.c.set_id))
    .where(ports_table.c.server_id.in_(_SERVERS), set_members.c.gone.is_(False))
    .distinct()
    .order_by(ports_table.c.server_id, ports_table.c.nic_index, table.c.name, table.c.id)
)
_LOCKED = select(ports_table).where(ports_table.c.server_id.in_(_SERVERS)).order_by(ports_table.c.id).with_for_update()


def resolve(tx: Tx, context: Context, wanted: Sequence[str]) -> tuple[str, ...]:
    """Ids of the project's groups that are named by id or name; only `default` is left to who makes the ports, since it may have to be
    made, too. Raises NotFound, Conflict (several of that name; stateful beside stateless)."""
    names = list(dict.fromkeys(wanted))
    if names in ([], [security_groups.DEFAULT]):
        return ()
    mine = select(table.c.id, table.c.name, table.c.project_id, table.c.stateful).where(table.c.project_id == context.project)
    there = rows(tx, mine.where(table.c.id.in_(names) | table.c.name.in_(names)))
    ids = tuple(dict.fromkeys(_named(there, name)["id"] for name in names))
    security_groups.check(context, context.project, ids, {row["id"]: row for row in there})
    return ids


def check_secure(tx: Tx, ids: Sequence[str], network_ids: Sequence[str]) -> None:
    """Can ports that are made there have these groups? Raises BadRequest."""
    if ids and not all(network["port_security"] for network in visible.networks_by_id(tx, network_ids).values()):
        raise _not_applied()


def _named(there: Sequence[Row], name: str) -> Row:
    found = [row for row in there if row["id"] == name] or [row for row in there if row["name"] == name]
    if not found:
        raise NotFound(f"Security group {name} not found.", kind="SecurityGroupNotFound")
    if len(found) > 1:
        raise Conflict(f"Multiple security groups found matching '{name}'. Use an ID to be more specific.", kind="NoUniqueMatch")
    return found[0]


def of_servers(tx: Tx, server_ids: Sequence[str]) -> dict[str, list[SecurityGroup]]:
    """See `NetworkClient.security_groups`."""
    by_server: dict[str, dict[str, SecurityGroup]] = {}
    for row in rows(tx, _OF_SERVERS, servers=list(server_ids)):
        group = SecurityGroup(row["id"], row["name"], row["project_id"], row["description"])
        by_server.setdefault(row["server_id"], {}).setdefault(row["id"], group)
    return {server_id: list(found.values()) for server_id, found in by_server.items()}


def of_server(tx: Tx, server_id: str) -> list[SecurityGroup]:
    """See `NetworkClient.security_groups_of`."""
    found = of_servers(tx, [server_id]).get(server_id, [])
    rules = security_rules.of_groups(tx, [group.id for group in found])
    remote = {rule["remote_group_id"] for each in rules.values() for rule in each if rule["remote_group_id"]}
    named = select(table.c.id, table.c.name, table.c.project_id).where(table.c.id.in_(sorted(remote)))
    names = {row["id"]: (row["name"], row["project_id"]) for row in rows(tx, named)} if remote else {}
    return [
        SecurityGroup(
            group.id,
            group.name,
            group.project_id,
            group.description,
            tuple(_ingress(rule, names) for rule in rules[group.id] if rule["direction"] == "ingress"),
        )
        for group in found
    ]


def add(tx: Tx, config: Config, context: Context, server_id: str, group: str) -> dict[str, list[PortWiring]]:
    """See `NetworkClient.add_security_group`; host → the ports that it is to be told of."""
    group_id = _the_one(tx, config, context, group)
    mine = _ports(tx, server_id)
    if not mine:
        raise NotFound(f"Server {server_id} has no ports.", kind="PortNotFound")
    if not all(port["port_security"] and port["fixed_ips"] for port in mine):
        raise _not_applied()
    return _give(tx, config, context, [(port, [*port["security_groups"], group_id]) for port in mine])


def remove(tx: Tx, config: Config, context: Context, server_id: str, group: str) -> dict[str, list[PortWiring]]:
    """See `NetworkClient.remove_security_group`; host → the ports that it is to be told of."""
    group_id = _the_one(tx, config, context, group)
    having = [port for port in _ports(tx, server_id) if group_id in port["security_groups"]]
    if not having:
        raise NotFound(f"Security group {group} is on no port of server {server_id}.", kind="SecurityGroupNotFound")
    return _give(tx, config, context, [(port, [each for each in port["security_groups"] if each != group_id]) for port in having])


def _the_one(tx: Tx, config: Config, context: Context, group: str) -> str:
    found = resolve(tx, context, [group])
    return found[0] if found else security_groups.default(tx, config, context.project)


def _ports(tx: Tx, server_id: str) -> list[Row]:
    return visible.with_addresses(tx, rows(tx, _LOCKED, servers=[server_id]))


def _give(tx: Tx, config: Config, context: Context, wanted: Sequence[tuple[Row, list[str]]]) -> dict[str, list[PortWiring]]:
    return wiring.by_host(tx, port_changes.change_groups(tx, config, context, {port["id"]: groups for port, groups in wanted}))


def _not_applied() -> BadRequest:
    return BadRequest(
        "Network requires port_security_enabled and subnet associated in order to apply security groups.",
        kind="SecurityGroupCannotBeApplied",
    )


def _ingress(rule: Row, names: dict[str, tuple[str, str]]) -> IngressRule:
    return IngressRule(
        id=rule["id"],
        ip_version=rule["ip_version"],
        protocol=rule["protocol"],
        port_min=rule["port_min"],
        port_max=rule["port_max"],
        remote_cidr=rule["remote_prefix"],
        remote_group=names.get(rule["remote_group_id"] or ""),
    )
