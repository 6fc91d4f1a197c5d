"""Who sees what: a project its own things and what is shared, a network's owner the ports on it, an admin everything."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, bindparam, false, or_, select, true

from pileus.context import Context
from pileus.errors import NotFound
from pileus.network.tables import address_groups, allocations, networks, ports, security_groups, security_rules, subnets
from pileus.store import Tx
from pileus.store.sql import Row, first, rows

# Built once: they are on the path of every boot.
_IDS: BindParameter[str] = bindparam("ids", expanding=True)
_NETWORKS = select(networks).where(networks.c.id.in_(_IDS))
_SUBNETS = select(subnets).where(subnets.c.network_id.in_(_IDS)).order_by(subnets.c.created_at, subnets.c.id)
_ADDRESSES = select(allocations).where(allocations.c.port_id.in_(_IDS)).order_by(allocations.c.position)
_GATE = select(networks.c.id).where(networks.c.id == bindparam("id")).with_for_update()
_WITH_SUBNETS = (
    select(networks, subnets)
    .select_from(networks.outerjoin(subnets, subnets.c.network_id == networks.c.id))
    .where(networks.c.id.in_(_IDS))
    .order_by(networks.c.id, subnets.c.created_at, subnets.c.id)
    .with_for_update(read=True, key_share=True, of=networks)
)
_NETWORK_COLUMNS, _SUBNET_COLUMNS = [list(table.c.keys()) for table in (networks, subnets)]

OnNetwork = tuple[Row, list[Row]]
"""A network and its subnets, the oldest first."""


def of_networks(context: Context) -> ColumnElement[bool]:
    if context.is_admin:
        return true()
    return or_(networks.c.shared == true(), _own(networks.c.project_id, context))


def is_seen(context: Context, network: Row) -> bool:
    """The same of one network."""
    return bool(network["shared"]) or context.sees(network["project_id"])


def of_subnets(context: Context) -> ColumnElement[bool]:
    if context.is_admin:
        return true()
    shared = select(networks.c.id).where(networks.c.shared == true())
    return or_(_own(subnets.c.project_id, context), subnets.c.network_id.in_(shared))


def of_ports(context: Context) -> ColumnElement[bool]:
    if context.is_admin:
        return true()
    owned = select(networks.c.id).where(_own(networks.c.project_id, context))
    return or_(_own(ports.c.project_id, context), ports.c.network_id.in_(owned))


def of_security_groups(context: Context) -> ColumnElement[bool]:
    return true() if context.is_admin else _own(security_groups.c.project_id, context)


def of_security_rules(context: Context) -> ColumnElement[bool]:
    return true() if context.is_admin else _own(security_rules.c.project_id, context)


def of_address_groups(context: Context) -> ColumnElement[bool]:
    return true() if context.is_admin else _own(address_groups.c.project_id, context)


def network(tx: Tx, context: Context, network_id: str) -> Row:
    """Raises NotFound (NetworkNotFound), as those below with their names."""
    found = first(tx, select(networks).where(networks.c.id == network_id, of_networks(context)))
    if found is None:
        raise no_network(network_id)
    return found


def subnet(tx: Tx, context: Context, subnet_id: str) -> Row:
    found = first(tx, select(subnets).where(subnets.c.id == subnet_id, of_subnets(context)))
    if found is None:
        raise NotFound(f"Subnet {subnet_id} could not be found.", kind="SubnetNotFound")
    return found


def port(tx: Tx, context: Context, port_id: str, *, lock: bool = False) -> Row:
    """With its addresses, as `fixed_ips`. `lock`: nobody else changes it until the transaction ends."""
    wanted = select(ports).where(ports.c.id == port_id, of_ports(context))
    found = with_addresses(tx, rows(tx, wanted.with_for_update() if lock else wanted))
    if not found:
        raise no_port(port_id)
    return found[0]


def security_group(tx: Tx, context: Context, group_id: str) -> Row:
    found = first(tx, select(security_groups).where(security_groups.c.id == group_id, of_security_groups(context)))
    if found is None:
        raise no_security_group(group_id)
    return found


def security_rule(tx: Tx, context: Context, rule_id: str) -> Row:
    found = first(tx, select(security_rules).where(security_rules.c.id == rule_id, of_security_rules(context)))
    if found is None:
        raise no_security_rule(rule_id)
    return found


def address_group(tx: Tx, context: Context, group_id: str) -> Row:
    found = first(tx, select(address_groups).where(address_groups.c.id == group_id, of_address_groups(context)))
    if found is None:
        raise no_address_group(group_id)
    return found


def with_addresses(tx: Tx, found: list[Row]) -> list[Row]:
    """The ports with `fixed_ips`: their allocations in the order they were asked for."""
    by_port: dict[str, list[Row]] = {row["id"]: [] for row in found}
    if by_port:
        for address in tx.execute(_ADDRESSES, {"ids": list(by_port)}).mappings():
            by_port[address["port_id"]].append(dict(address))
    for row in found:
        row["fixed_ips"] = by_port[row["id"]]
    return found


def networks_by_id(tx: Tx, ids: Collection[str]) -> dict[str, Row]:
    """Whoever's they are."""
    return {row["id"]: dict(row) for row in tx.execute(_NETWORKS, {"ids": sorted(ids)}).mappings()} if ids else {}


def subnets_of(tx: Tx, network_ids: Collection[str]) -> dict[str, list[Row]]:
    """All subnets of these networks, the oldest first."""
    by_network: dict[str, list[Row]] = {network_id: [] for network_id in network_ids}
    if by_network:
        for row in tx.execute(_SUBNETS, {"ids": sorted(by_network)}).mappings():
            by_network[row["network_id"]].append(dict(row))
    return by_network


def with_subnets(tx: Tx, network_ids: Collection[str]) -> dict[str, OnNetwork]:
    """These networks with their subnets, whoever's they are, for who makes ports there: until the transaction ends they are not
    deleted, and no pool of theirs is changed (PostgreSQL; on SQLite only one writes)."""
    found: dict[str, OnNetwork] = {}
    if not network_ids:
        return found
    many = len(_NETWORK_COLUMNS)
    for row in tx.execute(_WITH_SUBNETS, {"ids": sorted(network_ids)}):
        on = found.get(row[0])
        if on is None:
            on = found[row[0]] = (dict(zip(_NETWORK_COLUMNS, row[:many], strict=True)), [])
        if row[many] is not None:
            on[1].append(dict(zip(_SUBNET_COLUMNS, row[many:], strict=True)))
    return found


def lock_network(tx: Tx, network_id: str) -> None:
    """The gate of who changes a network's subnets or deletes it: nobody makes a port there, or passes the gate, until the
    transaction ends. Taken before anything is read that depends on it. Raises NotFound where it is gone by then."""
    if tx.execute(_GATE, {"id": network_id}).first() is None:
        raise no_network(network_id)


def no_network(network_id: str) -> NotFound:
    return NotFound(f"Network {network_id} could not be found.", kind="NetworkNotFound")


def no_port(port_id: str) -> NotFound:
    return NotFound(f"Port {port_id} could not be found.", kind="PortNotFound")


def no_security_group(group_id: str) -> NotFound:
    return NotFound(f"Security group {group_id} does not exist", kind="SecurityGroupNotFound")


def no_security_rule(rule_id: str) -> NotFound:
    return NotFound(f"Security group rule {rule_id} does not exist", kind="SecurityGroupRuleNotFound")


def no_address_group(group_id: str) -> NotFound:
    return NotFound(f"Address group {group_id} could not be found.", kind="AddressGroupNotFound")


def _own(column: ColumnElement[Any], context: Context) -> ColumnElement[bool]:
    return false() if context.project_id is None else column == context.project_id
