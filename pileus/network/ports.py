"""Ports: made and deleted, with their addresses.

The order of locks, of all the network's transactions, so that none waits in a circle on an engine with concurrent writers. Who is at
several ports does each step for all of them before the next one:

1. ports that are there, by id (`FOR UPDATE` when they are read);
2. the gates of networks: `visible.with_subnets`, together with others, for who makes or removes ports there (all of them before
   anything that follows); `visible.lock_network`, alone, for who changes a network's subnets or deletes it. (The DHCP port is changed
   and deleted behind the second one only.)
3. security groups, by id: together with others for who gives them to ports, alone for who deletes one; who changes rules, or sweeps
   members, keeps only others of that kind away;
4. where the network is, by network: its row (`local`, and tunnels when a host comes), then its member rows (tunnels), by host;
5. addresses that are released;
6. free ranges, by network: none is waited for while another can give;
7. what ports add to their groups (`set_members`), by port;
8. events for compute (`outbox`), by port, of each its level before its change;
9. counters of the quota, by project and resource: last, because they are the hottest rows.

Sweeps (`members`, `security_members`) and notifiers take only what nobody holds: they wait for no other row than those that they settle,
which nobody else has together with anything that they take.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import BindParameter, bindparam, delete

from pileus.context import Context
from pileus.errors import Conflict
from pileus.network import (
    addresses,
    bindings,
    fixed_ips,
    outbox,
    port_checks,
    quotas,
    readiness,
    security_groups,
    security_members,
    visible,
)
from pileus.network.config import Config
from pileus.network.fixed_ips import WantedIP
from pileus.network.readiness import Event, State
from pileus.network.tables import ports
from pileus.store import Tx
from pileus.store.sql import Row, insert_new

MAC_TRIES = 16
"""Random MACs tried; two of them alike are one chance in 2^24 for each port of the network."""

_IDS: BindParameter[str] = bindparam("ids", expanding=True)
_DELETE = delete(ports).where(ports.c.id.in_(_IDS)).returning(ports.c.id)


@dataclass
class NewPort:
    """`fixed_ips` None: one address of each IP version that the network has. `mac` None: a generated one.
    `port_security` None: as the network has it. `security_groups` None: the project's default group where port security is on.
    `host` empty: not bound."""

    project_id: str
    name: str = ""
    description: str = ""
    admin_state_up: bool = True
    mac: str | None = None
    fixed_ips: Sequence[WantedIP] | None = None
    device_id: str = ""
    device_owner: str = ""
    port_security: bool | None = None
    pairs: Sequence[Mapping[str, str | None]] = ()
    security_groups: Sequence[str] | None = None
    vnic_type: str = port_checks.VNIC_TYPE
    profile: Mapping[str, Any] = field(default_factory=dict)
    host: str = ""
    binding_key: str = ""
    server_id: str | None = None
    nic_index: int = 0
    dns_name: str = ""


def create(tx: Tx, config: Config, new: NewPort, network: Row, subnets: Sequence[Row], tally: quotas.Tally | None = None) -> Row:
    """Make a port on a network with these subnets, bound where `host` is given; the port with its `fixed_ips`. It has the groups that
    are named, which the caller has found good (`choose_groups`). With a `tally` it is counted there, for the caller to settle.

    Raises QuotaExceeded, Conflict (MacAddressInUse, IpAddressAlreadyAllocated, IpAddressGenerationFailure, HostTaken, …), BadRequest.
    """
    mine = quotas.Tally() if tally is None else tally
    [port] = _create(tx, config, [(new, (network, list(subnets)))], mine)
    if tally is None:
        quotas.settle(tx, config, mine)
    return port


def _create(tx: Tx, config: Config, wanted: Sequence[tuple[NewPort, visible.OnNetwork]], tally: quotas.Tally) -> list[Row]:
    """Several, by network."""
    for host in sorted({new.host for new, _ in wanted if new.host}):
        bindings.check_agent(tx, config, host)
    made = [insert(tx, config, new, network, tally) for new, (network, _) in wanted]
    bindings.move(tx, [(network, "", new.host) for new, (network, _) in wanted])
    for port, (new, (network, subnets)) in zip(made, wanted, strict=True):
        port["fixed_ips"] = fixed_ips.assign(tx, config, network, subnets, port["id"], new.fixed_ips)
    security_members.enter(tx, made)
    return made


def choose_groups(tx: Tx, config: Config, context: Context, new: Sequence[tuple[NewPort, Row]]) -> list[NewPort]:
    """These ports (each with its network) with the groups that they get. Raises BadRequest, NotFound, Conflict."""
    secure = [is_secure(port, network) for port, network in new]
    wanted: list[security_groups.Wanted] = []
    for (port, _), on in zip(new, secure, strict=True):
        if port.security_groups and not on:
            raise port_checks.no_security()
        wanted.append((port.project_id, port.security_groups if on else ()))
    chosen = security_groups.choose(tx, config, context, wanted)
    return [replace(port, security_groups=ids) for (port, _), ids in zip(new, chosen, strict=True)]


def is_secure(new: NewPort, network: Row) -> bool:
    """Is port security on?"""
    return bool(network["port_security"] if new.port_security is None else new.port_security)


def insert(tx: Tx, config: Config, new: NewPort, network: Row, tally: quotas.Tally) -> Row:
    """The row of a new port alone: the caller sees to where the network is, to addresses and quota. Raises Conflict, BadRequest."""
    port_checks.check_vnic_type(new.vnic_type)
    now = time.time()
    port: Row = {
        "id": str(uuid.uuid4()),
        "network_id": network["id"],
        "project_id": new.project_id,
        "name": new.name,
        "description": new.description,
        "admin_state_up": new.admin_state_up,
        "device_id": new.device_id,
        "device_owner": new.device_owner,
        "port_security": is_secure(new, network),
        "security_groups": list(new.security_groups or ()),
        "vnic_type": new.vnic_type,
        "profile": dict(new.profile),
        "server_id": new.server_id,
        "nic_index": new.nic_index,
        "dns_name": new.dns_name,
        "created_at": now,
        "updated_at": now,
        "revision": 1,
        "host": "",
        "generation": 0,
        "level": "unbound",
        "status": "DOWN",
        "cause": "",
        "binding_key": "",
    }
    if new.host:
        port |= bindings.bound(State(), new.host, new.binding_key, admin_up=new.admin_state_up)
    _insert(tx, config, port, new.mac, new.pairs)
    tally[new.project_id, "port"] += 1
    port["fixed_ips"] = []
    return port


def remove(
    tx: Tx,
    config: Config,
    found: Sequence[Row],
    networks: Mapping[str, Row],
    *,
    tell: bool,
    tally: quotas.Tally,
    let_go: Sequence[Row] = (),
) -> bool:
    """Delete these ports, which the caller has locked, and give back what they had; whether compute is to be told (`tell`: it did not
    ask for it itself). `let_go`: ports that stay, but are bound no more."""
    bindings.move(tx, [(networks[port["network_id"]], port["host"], "") for port in [*found, *let_go]])
    ids = [port["id"] for port in found]
    addresses.take_back(tx, ids)
    security_members.leave(tx, found)
    gone = set(tx.execute(_DELETE, {"ids": ids}).scalars()) if ids else set()
    for port in found:
        if port["id"] in gone:
            tally[port["project_id"], "port"] -= 1
    told = _to_tell(found) if tell else {}
    overtaken = [*told, *(port["id"] for port in let_go)]
    outbox.drop(tx, config, overtaken, gone=[port_id for port_id in ids if port_id not in told])
    for _, (port, notice) in sorted(told.items()):
        outbox.put_change(tx, port, notice)
    return bool(told)


def _to_tell(found: Sequence[Row]) -> dict[str, tuple[Row, str]]:
    """Those of these ports of whose end compute is to be told, with what."""
    told: dict[str, tuple[Row, str]] = {}
    for port in found:
        outcome = readiness.apply(bindings.state(port), Event("delete", port["host"], port["generation"]))
        if outcome.notice and outbox.concerns(port):
            told[port["id"]] = (port, outcome.notice)
    return told


def delete_one(tx: Tx, config: Config, context: Context, port_id: str) -> bool:
    """Delete a port for its owner (or its network's); whether compute is to be told. Raises NotFound, Conflict."""
    port = visible.port(tx, context, port_id, lock=True)
    if port["device_owner"] == port_checks.DHCP:
        reason = "it is the network's DHCP port and goes with the last subnet that has DHCP"
        raise Conflict(f"Port {port_id} cannot be deleted directly via the port API: {reason}.", kind="ServicePortInUse")
    if port["server_id"] and not port_checks.is_compute(context):
        raise Conflict(f"Port {port_id} is in use by server {port['server_id']}: delete the server.", kind="PortInUse")
    tally = quotas.Tally()
    on = {key: network for key, (network, _) in visible.with_subnets(tx, [port["network_id"]]).items()}
    told = remove(tx, config, [port], on, tell=not (port["server_id"] and port_checks.is_compute(context)), tally=tally)
    quotas.settle(tx, config, tally)
    return told


def create_on(tx: Tx, config: Config, context: Context, wanted: Sequence[tuple[str, NewPort]]) -> list[Row]:
    """Ports on networks (by id) for somebody who sees them: all or none. Raises what `create` raises, NotFound, Forbidden."""
    tally = quotas.Tally()
    on = visible.with_subnets(tx, {network_id for network_id, _ in wanted})
    for network_id, new in sorted(wanted, key=lambda each: each[0]):
        if network_id not in on or not visible.is_seen(context, on[network_id][0]):
            raise visible.no_network(network_id)
        network = on[network_id][0]
        wished: dict[str, Any] = {"mac": new.mac, "port_security": new.port_security, "pairs": new.pairs or None}
        if new.fixed_ips is not None and any(one.address is not None for one in new.fixed_ips):
            wished["fixed_ips"] = new.fixed_ips
        port_checks.check_wishes(context, network, {key for key, value in wished.items() if value is not None}, new.device_owner)
    chosen = choose_groups(tx, config, context, [(new, on[network_id][0]) for network_id, new in wanted])
    order = sorted(range(len(wanted)), key=lambda index: wanted[index][0])
    made = _create(tx, config, [(chosen[index], on[wanted[index][0]]) for index in order], tally)
    quotas.settle(tx, config, tally)
    by_index = dict(zip(order, made, strict=True))
    return [by_index[index] for index in range(len(wanted))]


def _insert(tx: Tx, config: Config, port: Row, mac: str | None, pairs: Sequence[Mapping[str, str | None]]) -> None:
    for _ in range(MAC_TRIES):
        port["mac"] = mac or random_mac(config.settings.network.mac_prefix)
        port["pairs"] = port_checks.checked_pairs(pairs, port["mac"], port["port_security"])
        if insert_new(tx, ports, port):
            return
        if mac:
            break
    raise port_checks.mac_in_use(port["network_id"], port["mac"])


def random_mac(prefix: str) -> str:
    return f"{prefix}:{secrets.token_bytes(3).hex(':')}"
