"""Ports changed by their owners, an admin or the compute service: one, or the security groups of several.

In stages, each for all the ports before the next one begins: that is the order of locks (`ports`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import update

from pileus.context import Context
from pileus.errors import Conflict, Forbidden
from pileus.network import bindings, fixed_ips, outbox, port_checks, readiness, security_groups, security_members, visible
from pileus.network.config import Config
from pileus.network.port_checks import DHCP
from pileus.network.readiness import Event
from pileus.network.tables import ports
from pileus.store import Tx
from pileus.store.sql import Row

KEPT = ("mac", "fixed_ips", "security_groups")
"""What a compute service keeps of a server's port, and is told of when it changes. (That a network is renamed it is not, as from
Neutron: it finds out when it looks by itself.)"""
WIRED_BY = frozenset({"admin_state_up", "pairs", "port_security", "fixed_ips", "mac", "security_groups"})
"""What a bound port's host must be told of when it changes."""


@dataclass
class _Change:
    """A port, its network with subnets, what is asked for, and the columns that this comes to."""

    port: Row
    on: visible.OnNetwork
    asked: Mapping[str, Any]
    values: dict[str, Any]
    notice: str | None = None


def change(tx: Tx, config: Config, context: Context, port_id: str, changes: Mapping[str, Any]) -> tuple[Row, bool]:
    """Change columns of a port, its `fixed_ips` (a list of WantedIP) and its binding (`host`); the port, and whether a host must
    be told. Raises what `ports.create` raises, NotFound, Forbidden."""
    [after] = _change(tx, config, context, {port_id: changes})
    return after, bool(after["host"]) and not WIRED_BY.isdisjoint(changes)


def change_groups(tx: Tx, config: Config, context: Context, groups: Mapping[str, list[str]]) -> list[Row]:
    """Give each of these ports the security groups that are said. Raises NotFound, Forbidden, BadRequest, Conflict."""
    return _change(tx, config, context, {port_id: {"security_groups": ids} for port_id, ids in groups.items()})


def _change(tx: Tx, config: Config, context: Context, wanted: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    found = [visible.port(tx, context, port_id, lock=True) for port_id in sorted(wanted)]
    for port in found:
        if not context.sees(port["project_id"]):
            raise Forbidden("The port belongs to another project: only that project or an admin may change it.")
    networks = _networks(tx, found)
    several = [_checked(context, port, networks[port["network_id"]], wanted[port["id"]]) for port in found]
    _choose_groups(tx, config, context, several)
    for each in several:
        _decide(tx, config, each)
    bindings.move(tx, [(each.on[0], each.port["host"], each.values["host"]) for each in several if "host" in each.values])
    after = [_write(tx, config, each) for each in several]
    for each, port in zip(several, after, strict=True):
        before = each.port
        if port["security_groups"] != before["security_groups"] or (port["security_groups"] and each.asked.keys() & {"fixed_ips", "pairs"}):
            security_members.change(tx, port)
    for each, port in zip(several, after, strict=True):
        if "host" in each.values:
            outbox.drop(tx, config, [port["id"]])
        if each.notice:
            outbox.put(tx, config, each.port, each.port["generation"], each.notice)
        if any(_kept(each.port, name) != _kept(port, name) for name in KEPT):
            outbox.put_change(tx, port, outbox.CHANGED)
    return after


def _networks(tx: Tx, found: list[Row]) -> dict[str, visible.OnNetwork]:
    """A network's own port is changed behind the gate of who changes its subnets, or in nothing that matters to them."""
    own = {port["network_id"] for port in found if port["device_owner"] == DHCP}
    networks: dict[str, visible.OnNetwork] = {key: (network, []) for key, network in visible.networks_by_id(tx, own).items()}
    return networks | visible.with_subnets(tx, {port["network_id"] for port in found if port["device_owner"] != DHCP})


def _checked(context: Context, port: Row, on: visible.OnNetwork, asked: Mapping[str, Any]) -> _Change:
    """Everything that the port alone decides. Raises BadRequest, Forbidden, Conflict."""
    values = {key: value for key, value in asked.items() if key != "fixed_ips" and port.get(key) != value}
    if set(values.get("security_groups", ())) == set(port["security_groups"]):
        values.pop("security_groups", None)
    port_checks.check_change(context, port, values, asked)
    wished = asked.keys() & {"mac", "port_security", "pairs", "fixed_ips"}
    port_checks.check_wishes(context, on[0], wished, values.get("device_owner", ""))
    if "pairs" in values or "port_security" in values:
        merged = {**port, **values}
        values["pairs"] = port_checks.checked_pairs(merged["pairs"], merged["mac"], merged["port_security"])
    if "security_groups" in values or "port_security" in values:
        port_checks.check_groups(port, {**port, **values}, values)
    return _Change(port, on, asked, values)


def _choose_groups(tx: Tx, config: Config, context: Context, several: list[_Change]) -> None:
    having = [each for each in several if "security_groups" in each.values]
    wanted: list[security_groups.Wanted] = [(each.port["project_id"], each.values["security_groups"]) for each in having]
    for each, ids in zip(having, security_groups.choose(tx, config, context, wanted), strict=True):
        each.values["security_groups"] = ids


def _decide(tx: Tx, config: Config, each: _Change) -> None:
    """What follows for its status and binding. Raises Conflict."""
    port, values = each.port, each.values
    admin_up = {**port, **values}["admin_state_up"]
    if "admin_state_up" in values:
        values["status"] = readiness.status(port["level"], admin_up=admin_up)
    if "host" in values:
        host, before = values["host"], bindings.state(port)
        if host:
            bindings.check_agent(tx, config, host)
            values |= bindings.bound(before, host, each.asked.get("binding_key") or str(uuid.uuid4()), admin_up=admin_up)
        else:
            each.notice = readiness.apply(before, Event("unbind", before.host, before.generation)).notice
            values |= bindings.unbound(before, admin_up=admin_up)
    if "mac" in values and not _free_mac(tx, port, values["mac"]):
        raise port_checks.mac_in_use(port["network_id"], values["mac"])
    values |= {"updated_at": time.time(), "revision": port["revision"] + 1}


def _write(tx: Tx, config: Config, each: _Change) -> Row:
    port = each.port
    unchanged = update(ports).where(ports.c.id == port["id"], ports.c.revision == port["revision"])
    if tx.execute(unchanged.values(**each.values)).rowcount != 1:
        raise Conflict(f"Port {port['id']} was changed by somebody else at the same time; try again", kind="StaleDataError")
    after = port | each.values
    if "fixed_ips" in each.asked:
        network, subnets = each.on
        after["fixed_ips"] = fixed_ips.reassign(tx, config, network, subnets, after, each.asked["fixed_ips"])
    return after


def _free_mac(tx: Tx, port: Row, mac: str) -> bool:
    taken = ports.select().where(ports.c.network_id == port["network_id"], ports.c.mac == mac)
    return tx.execute(taken).first() is None


def _kept(port: Row, name: str) -> Any:
    value = port[name]
    return [(each["subnet_id"], each["ip"]) for each in value] if name == "fixed_ips" else value
