"""Ports: made, changed, deleted, with their addresses."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import delete, update

from pileus.context import Context
from pileus.errors import BadRequest, Conflict, Forbidden
from pileus.network import addresses, bindings, fixed_ips, outbox, quotas, readiness, visible
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
WIRED_BY = frozenset({"admin_state_up", "pairs", "port_security", "fixed_ips", "mac"})
"""What a bound port's host must be told of when it changes."""


@dataclass
class NewPort:
    """`fixed_ips` None: one address of each IP version that the network has. `mac` None: a generated one.
    `port_security` None: as the network has it. `host` empty: not bound."""

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
    vnic_type: str = VNIC_TYPE
    profile: Mapping[str, Any] = field(default_factory=dict)
    host: str = ""
    binding_key: str = ""
    server_id: str | None = None
    nic_index: int = 0
    dns_name: str = ""


def create(tx: Tx, config: Config, new: NewPort, network: Row, subnets: Sequence[Row]) -> Row:
    """Make a port on a network with these subnets, bound where `host` is given; the port with its `fixed_ips`.

    Raises QuotaExceeded, Conflict (MacAddressInUse, IpAddressAlreadyAllocated, IpAddressGenerationFailure, HostTaken, …), BadRequest.
    """
    _check_vnic_type(new.vnic_type)
    quotas.use(tx, config, new.project_id, "port")
    now = time.time()
    security = network["port_security"] if new.port_security is None else new.port_security
    port: Row = {
        "id": str(uuid.uuid4()),
        "network_id": network["id"],
        "project_id": new.project_id,
        "name": new.name,
        "description": new.description,
        "admin_state_up": new.admin_state_up,
        "device_id": new.device_id,
        "device_owner": new.device_owner,
        "port_security": security,
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
    port["fixed_ips"] = fixed_ips.assign(tx, config, network, subnets, port["id"], new.fixed_ips)
    if new.host:
        bindings.occupy(tx, network, new.host)
    return port


def change(tx: Tx, config: Config, context: Context, port_id: str, changes: Mapping[str, Any]) -> tuple[Row, bool]:
    """Change columns of a port, its `fixed_ips` (a list of WantedIP) and its binding (`host`); the port, and whether a host must
    be told. Raises what `create` raises, NotFound, Forbidden."""
    port = visible.port(tx, context, port_id)
    if not context.sees(port["project_id"]):
        raise Forbidden("The port belongs to another project: only that project or an admin may change it.")
    network = visible.networks_by_id(tx, [port["network_id"]])[port["network_id"]]
    values = {key: value for key, value in changes.items() if key != "fixed_ips" and port.get(key) != value}
    _check_change(port, values, changes)
    _check_wishes(context, network, changes.keys() & {"mac", "port_security", "pairs", "fixed_ips"}, values.get("device_owner", ""))
    if "pairs" in values or "port_security" in values:
        merged = {**port, **values}
        values["pairs"] = _checked_pairs(merged["pairs"], merged["mac"], merged["port_security"])
    if "admin_state_up" in values:
        values["status"] = readiness.status(port["level"], admin_up=values["admin_state_up"])
    if "host" in values:
        admin_up = {**port, **values}["admin_state_up"]
        values |= _rebound(tx, config, port, network, values["host"], admin_up)
    values |= {"updated_at": time.time(), "revision": port["revision"] + 1}
    if "mac" in values and not _free_mac(tx, port, values["mac"]):
        raise _mac_in_use(network["id"], values["mac"])
    unchanged = update(ports).where(ports.c.id == port_id, ports.c.revision == port["revision"])
    if tx.execute(unchanged.values(**values)).rowcount != 1:
        raise Conflict(f"Port {port_id} was changed by somebody else at the same time; try again", kind="StaleDataError")
    after = port | values
    if "fixed_ips" in changes:
        subnets = visible.subnets_of(tx, [network["id"]])[network["id"]]
        after["fixed_ips"] = fixed_ips.reassign(tx, config, network, subnets, after, changes["fixed_ips"])
    return after, bool(after["host"]) and not WIRED_BY.isdisjoint(changes)


def remove(tx: Tx, config: Config, found: Sequence[Row], networks: Mapping[str, Row], *, tell: bool) -> bool:
    """Delete these ports and give back what they had; whether compute is to be told (`tell`: it did not ask for it itself)."""
    ids = [port["id"] for port in found]
    outbox.drop(tx, config, ids)
    addresses.take_back(tx, ids)
    told = False
    for port in found:
        if tx.execute(delete(ports).where(ports.c.id == port["id"])).rowcount != 1:
            continue
        quotas.give_back(tx, port["project_id"], "port")
        if port["host"]:
            bindings.vacate(tx, networks[port["network_id"]])
        outcome = readiness.apply(bindings.state(port), Event("delete", port["host"], port["generation"]))
        if tell and outcome.notice:
            told = outbox.put(tx, config, port, port["generation"], outcome.notice) or told
    return told


def delete_one(tx: Tx, config: Config, context: Context, port_id: str) -> bool:
    """Delete a port for its owner (or its network's); whether compute is to be told. Raises NotFound, Conflict."""
    port = visible.port(tx, context, port_id)
    if port["device_owner"] == DHCP:
        reason = "it is the network's DHCP port and goes with the last subnet that has DHCP"
        raise Conflict(f"Port {port_id} cannot be deleted directly via the port API: {reason}.", kind="ServicePortInUse")
    if port["server_id"]:
        raise Conflict(f"Port {port_id} is in use by server {port['server_id']}: delete the server.", kind="PortInUse")
    return remove(tx, config, [port], visible.networks_by_id(tx, [port["network_id"]]), tell=True)


def create_on(tx: Tx, config: Config, context: Context, network_id: str, new: NewPort) -> Row:
    """A port for somebody who sees the network. Raises what `create` raises, NotFound, Forbidden."""
    network = visible.network(tx, context, network_id)
    wished: dict[str, Any] = {"mac": new.mac, "port_security": new.port_security, "pairs": new.pairs or None}
    if new.fixed_ips is not None and any(one.address is not None for one in new.fixed_ips):
        wished["fixed_ips"] = new.fixed_ips
    _check_wishes(context, network, {key for key, value in wished.items() if value is not None}, new.device_owner)
    return create(tx, config, new, network, visible.subnets_of(tx, [network_id])[network_id])


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


def _check_change(port: Row, values: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    if "vnic_type" in values:
        _check_vnic_type(values["vnic_type"])
    if port["device_owner"] == DHCP and not changes.keys() <= {"name", "description"}:
        raise Conflict(
            f"Port {port['id']} is the network's DHCP port: only its name and description can be changed.", kind="ServicePortInUse"
        )
    held = values.keys() & {"device_id", "device_owner", "host", "mac"}
    if port["server_id"] and held:
        raise Conflict(f"Port {port['id']} is in use by server {port['server_id']}: {', '.join(sorted(held))} stay.", kind="PortInUse")
    if port["host"] and "mac" in values:
        raise Conflict(f"Port {port['id']} is bound to a host: unbind it to change its MAC address.", kind="PortBound")


def _rebound(tx: Tx, config: Config, port: Row, network: Row, host: str, admin_up: bool) -> dict[str, Any]:
    bindings.move(tx, config, port, network, host)
    before = bindings.state(port)
    if host:
        return bindings.bound(before, host, str(uuid.uuid4()), admin_up=admin_up)
    outcome = readiness.apply(before, Event("unbind", before.host, before.generation))
    if outcome.notice:
        outbox.put(tx, config, port, before.generation, outcome.notice)
    return bindings.unbound(before, admin_up=admin_up)


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
