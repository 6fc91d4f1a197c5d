"""Ports: made, changed, deleted, with their addresses.

The order of locks, of all the network's transactions, so that none waits in a circle on an engine with concurrent writers:

1. ports that are there, by id (`FOR UPDATE` when they are read);
2. the gates of networks: `visible.with_subnets`, together with others, for who makes or removes ports there (all of them before
   anything that follows); `visible.lock_network`, alone, for who changes a network's subnets or deletes it. (The DHCP port is changed
   and deleted behind the second one only.)
3. security groups, by id: together with others for who gives them to ports, alone for who deletes one; who changes rules, or sweeps
   members, keeps only others of that kind away;
4. events for compute (`outbox`), by port; a notifier takes only what nobody holds;
5. where the network is: its row (`local`) or its member row (tunnels), by network;
6. addresses that are released;
7. free ranges, by network: none is waited for while another can give;
8. what ports add to their groups (`set_members`), by port; a sweep of a group's has the group;
9. counters of the quota, by project and resource: last, because they are the hottest rows.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import BindParameter, bindparam, delete, update

from pileus.context import Context
from pileus.errors import BadRequest, Conflict, Forbidden
from pileus.network import addresses, bindings, fixed_ips, outbox, quotas, readiness, security_groups, security_members, visible
from pileus.network.config import Config
from pileus.network.fixed_ips import WantedIP
from pileus.network.readiness import Event, State
from pileus.network.tables import ports
from pileus.store import Tx
from pileus.store.sql import Row, insert_new

DHCP = "network:dhcp"
VNIC_TYPE = "normal"
MAX_PAIRS = 10
MAC_TRIES = 16
"""Random MACs tried; two of them alike are one chance in 2^24 for each port of the network."""
KEPT = ("mac", "fixed_ips", "security_groups")
"""What a compute service keeps of a server's port, and is told of when it changes. (That a network is renamed it is not, as from
Neutron: it finds out when it looks by itself.)"""
WIRED_BY = frozenset({"admin_state_up", "pairs", "port_security", "fixed_ips", "mac", "security_groups"})
"""What a bound port's host must be told of when it changes."""


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
    vnic_type: str = VNIC_TYPE
    profile: Mapping[str, Any] = field(default_factory=dict)
    host: str = ""
    binding_key: str = ""
    server_id: str | None = None
    nic_index: int = 0
    dns_name: str = ""


def create(tx: Tx, config: Config, new: NewPort, network: Row, subnets: Sequence[Row], tally: quotas.Tally | None = None) -> Row:
    """Make a port on a network with these subnets, bound where `host` is given; the port with its `fixed_ips`. It has the groups that
    are named, which the caller has found good (`choose_groups`). With a `tally` it is counted there, for the caller to settle, and its
    groups learn of it from the caller, too.

    Raises QuotaExceeded, Conflict (MacAddressInUse, IpAddressAlreadyAllocated, IpAddressGenerationFailure, HostTaken, …), BadRequest.
    """
    mine = quotas.Tally() if tally is None else tally
    port = insert(tx, config, new, network, mine)
    if new.host:
        bindings.check_agent(tx, config, new.host)
        bindings.occupy(tx, network, new.host)
    port["fixed_ips"] = fixed_ips.assign(tx, config, network, subnets, port["id"], new.fixed_ips)
    if tally is None:
        security_members.enter(tx, [port])
        quotas.settle(tx, config, mine)
    return port


def choose_groups(tx: Tx, config: Config, context: Context, new: Sequence[tuple[NewPort, Row]]) -> list[NewPort]:
    """These ports (each with its network) with the groups that they get. Raises BadRequest, NotFound, Conflict."""
    secure = [is_secure(port, network) for port, network in new]
    wanted: list[security_groups.Wanted] = []
    for (port, _), on in zip(new, secure, strict=True):
        if port.security_groups and not on:
            raise _no_security()
        wanted.append((port.project_id, port.security_groups if on else ()))
    chosen = security_groups.choose(tx, config, context, wanted)
    return [replace(port, security_groups=ids) for (port, _), ids in zip(new, chosen, strict=True)]


def is_secure(new: NewPort, network: Row) -> bool:
    """Is port security on?"""
    return bool(network["port_security"] if new.port_security is None else new.port_security)


def insert(tx: Tx, config: Config, new: NewPort, network: Row, tally: quotas.Tally) -> Row:
    """The row of a new port alone: the caller sees to where the network is, to addresses and quota. Raises Conflict, BadRequest."""
    _check_vnic_type(new.vnic_type)
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


def change(tx: Tx, config: Config, context: Context, port_id: str, changes: Mapping[str, Any]) -> tuple[Row, bool]:
    """Change columns of a port, its `fixed_ips` (a list of WantedIP) and its binding (`host`); the port, and whether a host must
    be told. Raises what `create` raises, NotFound, Forbidden."""
    port = visible.port(tx, context, port_id, lock=True)
    if not context.sees(port["project_id"]):
        raise Forbidden("The port belongs to another project: only that project or an admin may change it.")
    if port["device_owner"] == DHCP:
        on: visible.OnNetwork = (visible.networks_by_id(tx, [port["network_id"]])[port["network_id"]], [])
    else:
        on = visible.with_subnets(tx, [port["network_id"]])[port["network_id"]]
    network, subnets = on
    values = {key: value for key, value in changes.items() if key != "fixed_ips" and port.get(key) != value}
    if set(values.get("security_groups", ())) == set(port["security_groups"]):
        values.pop("security_groups", None)
    _check_change(context, port, values, changes)
    _check_wishes(context, network, changes.keys() & {"mac", "port_security", "pairs", "fixed_ips"}, values.get("device_owner", ""))
    if "pairs" in values or "port_security" in values:
        merged = {**port, **values}
        values["pairs"] = _checked_pairs(merged["pairs"], merged["mac"], merged["port_security"])
    if "security_groups" in values or "port_security" in values:
        _check_groups(port, {**port, **values}, values)
    if "security_groups" in values:
        [values["security_groups"]] = security_groups.choose(tx, config, context, [(port["project_id"], values["security_groups"])])
    if "admin_state_up" in values:
        values["status"] = readiness.status(port["level"], admin_up=values["admin_state_up"])
    if "host" in values:
        admin_up = {**port, **values}["admin_state_up"]
        values |= _rebound(tx, config, port, network, values["host"], admin_up, changes.get("binding_key"))
    values |= {"updated_at": time.time(), "revision": port["revision"] + 1}
    if "mac" in values and not _free_mac(tx, port, values["mac"]):
        raise _mac_in_use(network["id"], values["mac"])
    unchanged = update(ports).where(ports.c.id == port_id, ports.c.revision == port["revision"])
    if tx.execute(unchanged.values(**values)).rowcount != 1:
        raise Conflict(f"Port {port_id} was changed by somebody else at the same time; try again", kind="StaleDataError")
    after = port | values
    if "fixed_ips" in changes:
        after["fixed_ips"] = fixed_ips.reassign(tx, config, network, subnets, after, changes["fixed_ips"])
    if after["security_groups"] != port["security_groups"] or (after["security_groups"] and changes.keys() & {"fixed_ips", "pairs"}):
        security_members.change(tx, after)
    if any(_kept(port, name) != _kept(after, name) for name in KEPT):
        outbox.put_change(tx, after, outbox.CHANGED)
    return after, bool(after["host"]) and not WIRED_BY.isdisjoint(changes)


def remove(tx: Tx, config: Config, found: Sequence[Row], networks: Mapping[str, Row], *, tell: bool, tally: quotas.Tally) -> bool:
    """Delete these ports, which the caller has locked, and give back what they had; whether compute is to be told (`tell`: it did not
    ask for it itself)."""
    if not found:
        return False
    ids = [port["id"] for port in found]
    told = set()
    for port in sorted(found, key=lambda port: str(port["id"])) if tell else ():
        outcome = readiness.apply(bindings.state(port), Event("delete", port["host"], port["generation"]))
        if outcome.notice and outbox.put_change(tx, port, outcome.notice):
            told.add(port["id"])
    outbox.drop(tx, config, [port_id for port_id in ids if port_id not in told], gone=True)
    outbox.drop(tx, config, sorted(told))
    for port in sorted(found, key=lambda port: str(port["network_id"])):
        if port["host"]:
            bindings.vacate(tx, networks[port["network_id"]], port["host"])
    addresses.take_back(tx, ids)
    security_members.leave(tx, found)
    gone = set(tx.execute(_DELETE, {"ids": ids}).scalars())
    for port in found:
        if port["id"] in gone:
            tally[port["project_id"], "port"] -= 1
    return bool(told)


def delete_one(tx: Tx, config: Config, context: Context, port_id: str) -> bool:
    """Delete a port for its owner (or its network's); whether compute is to be told. Raises NotFound, Conflict."""
    port = visible.port(tx, context, port_id, lock=True)
    if port["device_owner"] == DHCP:
        reason = "it is the network's DHCP port and goes with the last subnet that has DHCP"
        raise Conflict(f"Port {port_id} cannot be deleted directly via the port API: {reason}.", kind="ServicePortInUse")
    if port["server_id"] and not _is_compute(context):
        raise Conflict(f"Port {port_id} is in use by server {port['server_id']}: delete the server.", kind="PortInUse")
    tally = quotas.Tally()
    on = {key: network for key, (network, _) in visible.with_subnets(tx, [port["network_id"]]).items()}
    told = remove(tx, config, [port], on, tell=not (port["server_id"] and _is_compute(context)), tally=tally)
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
        _check_wishes(context, network, {key for key, value in wished.items() if value is not None}, new.device_owner)
    chosen = choose_groups(tx, config, context, [(new, on[network_id][0]) for network_id, new in wanted])
    made: dict[int, Row] = {}
    for index in sorted(range(len(wanted)), key=lambda index: wanted[index][0]):
        made[index] = create(tx, config, chosen[index], *on[wanted[index][0]], tally)
    security_members.enter(tx, made.values())
    quotas.settle(tx, config, tally)
    return [made[index] for index in range(len(wanted))]


def _insert(tx: Tx, config: Config, port: Row, mac: str | None, pairs: Sequence[Mapping[str, str | None]]) -> None:
    for _ in range(MAC_TRIES):
        port["mac"] = mac or random_mac(config.settings.network.mac_prefix)
        port["pairs"] = _checked_pairs(pairs, port["mac"], port["port_security"])
        if insert_new(tx, ports, port):
            return
        if mac:
            break
    raise _mac_in_use(port["network_id"], port["mac"])


def random_mac(prefix: str) -> str:
    return f"{prefix}:{secrets.token_bytes(3).hex(':')}"


def _free_mac(tx: Tx, port: Row, mac: str) -> bool:
    taken = ports.select().where(ports.c.network_id == port["network_id"], ports.c.mac == mac)
    return tx.execute(taken).first() is None


def _mac_in_use(network_id: str, mac: str) -> Conflict:
    return Conflict(f"Unable to complete operation for network {network_id}. The mac address {mac} is in use.", kind="MacAddressInUse")


def _check_vnic_type(vnic_type: str) -> None:
    if vnic_type != VNIC_TYPE:
        raise BadRequest(f"binding:vnic_type {vnic_type!r} is not offered: only {VNIC_TYPE!r} is", kind="InvalidInput")


def _check_wishes(context: Context, network: Row, wished: Collection[str], device_owner: str) -> None:
    """On another project's network nobody chooses an address or goes without its guards; a network's own ports are made by us."""
    if device_owner == DHCP:
        raise BadRequest(f"Invalid input for operation: device_owner {DHCP} is for the network's own DHCP port.", kind="InvalidInput")
    if context.sees(network["project_id"]):
        return
    if wished or device_owner.startswith("network:"):
        what = ", ".join(sorted(wished)) or f"device_owner {device_owner}"
        raise Forbidden(f"{what}: on another project's network only that project or an admin may set this.", kind="PolicyNotAuthorized")


def _check_change(context: Context, port: Row, values: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    if "vnic_type" in values:
        _check_vnic_type(values["vnic_type"])
    if port["device_owner"] == DHCP and not changes.keys() <= {"name", "description"}:
        raise Conflict(
            f"Port {port['id']} is the network's DHCP port: only its name and description can be changed.", kind="ServicePortInUse"
        )
    held = values.keys() & {"device_id", "device_owner", "host", "mac"}
    if port["server_id"] and values.get("server_id", port["server_id"]) not in (None, port["server_id"]):
        raise Conflict(f"Port {port['id']} is still in use.", kind="PortInUse")
    if port["server_id"] and held and not _is_compute(context):
        raise Conflict(f"Port {port['id']} is in use by server {port['server_id']}: {', '.join(sorted(held))} stay.", kind="PortInUse")
    if port["host"] and "mac" in values:
        raise Conflict(f"Port {port['id']} is bound to a host: unbind it to change its MAC address.", kind="PortBound")


def _is_compute(context: Context) -> bool:
    """The service that has a server's ports over HTTP: for others they stay as they are while the server lives."""
    return "service" in context.roles


def _rebound(tx: Tx, config: Config, port: Row, network: Row, host: str, admin_up: bool, key: str | None) -> dict[str, Any]:
    if host:
        bindings.check_agent(tx, config, host)
    bindings.move(tx, config, port, network, host)
    before = bindings.state(port)
    if host:
        return bindings.bound(before, host, key or str(uuid.uuid4()), admin_up=admin_up)
    outcome = readiness.apply(before, Event("unbind", before.host, before.generation))
    if outcome.notice:
        outbox.put(tx, config, port, before.generation, outcome.notice)
    return bindings.unbound(before, admin_up=admin_up)


def _kept(port: Row, name: str) -> Any:
    value = port[name]
    return [(each["subnet_id"], each["ip"]) for each in value] if name == "fixed_ips" else value


def _check_groups(port: Row, after: Row, values: Mapping[str, Any]) -> None:
    """Groups filter nothing where port security is off. Raises BadRequest, Conflict."""
    if after["port_security"] or not after["security_groups"]:
        return
    if "security_groups" in values:
        raise _no_security()
    raise Conflict(
        "Port has security group associated. Cannot disable port security or IP address until security group is removed.",
        kind="PortSecurityPortHasSecurityGroup",
    )


def _no_security() -> BadRequest:
    return BadRequest(
        "Port security must be enabled and port must have an IP address in order to use security groups.",
        kind="PortSecurityAndIPRequiredForSecurityGroups",
    )


def _checked_pairs(pairs: Sequence[Mapping[str, str | None]], mac: str, secure: bool) -> list[dict[str, str]]:
    """Address pairs with the port's MAC where none is given. Raises BadRequest, Conflict."""
    if not pairs:
        return []
    if not secure:
        raise Conflict(
            "Port Security must be enabled in order to have allowed address pairs on a port.", kind="AddressPairAndPortSecurityRequired"
        )
    if len(pairs) > MAX_PAIRS:
        raise BadRequest(f"The number of allowed address pairs exceeds the maximum {MAX_PAIRS}.", kind="AllowedAddressPairExhausted")
    checked = [{"ip": str(pair["ip"]), "mac": pair.get("mac") or mac} for pair in pairs]
    if len({(pair["ip"], pair["mac"]) for pair in checked}) < len(checked):
        raise BadRequest("Request contains duplicate address pair.", kind="DuplicateAddressPairInRequest")
    return checked
