"""The ports of servers, as compute asks for them: checked, made, bound, released.

Only `server_id` says that a port is a server's: it is written here alone. What a port's owner wrote into `device_id` decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from sqlalchemy import BindParameter, and_, bindparam, null, or_, select, update

from pileus.clients import address_pattern
from pileus.clients.network import CheckedNics, PortReadiness, Requested, RequestedNic, ServerAddress, ServerPort
from pileus.context import Context
from pileus.errors import BadRequest, Conflict, Forbidden
from pileus.messages import PortWiring
from pileus.network import bindings, fixed_ips, outbox, ports, quotas, security_members, server_groups, visible, wiring
from pileus.network.config import Config
from pileus.network.fixed_ips import WantedIP
from pileus.network.tables import allocations, networks
from pileus.network.tables import ports as table
from pileus.store import Tx
from pileus.store.sql import Row, first, rows

_PORTS = select(table).where(table.c.server_id == bindparam("server")).order_by(table.c.nic_index)
_LOCKED = select(table).where(table.c.server_id == bindparam("server")).order_by(table.c.id).with_for_update()
_NAMED: BindParameter[str] = bindparam("named", expanding=True)
_MINE_OR_NAMED = or_(table.c.server_id == bindparam("server"), table.c.id.in_(_NAMED))
_LOCKED_WITH = select(table.c.id).where(_MINE_OR_NAMED).order_by(table.c.id).with_for_update()


@dataclass(frozen=True)
class Boot:
    """For whom ports are made or bound. `key` names the attempt: the same key again changes nothing."""

    server_id: str
    host: str
    key: str
    hostname: str
    zone: str

    def columns(self, index: int) -> dict[str, Any]:
        return {
            "server_id": self.server_id,
            "device_id": self.server_id,
            "device_owner": outbox.COMPUTE + self.zone,
            "nic_index": index,
            "dns_name": self.hostname,
        }


def check(tx: Tx, config: Config, context: Context, requested: Requested, count: int, groups: Sequence[str] = ()) -> CheckedNics:
    """See `NetworkClient.check`."""
    ids = server_groups.resolve(tx, context, groups)
    if requested == "none":
        return CheckedNics([])
    nics = _auto(tx, context) if requested == "auto" else list(requested)
    if count > 1 and any(nic.port_id or nic.fixed_ip for nic in nics):
        raise BadRequest("A port or a fixed IP can be asked for only when one server is made, not several.")
    given = [nic.port_id for nic in nics if nic.port_id]
    if len(set(given)) < len(given):
        raise BadRequest("The same port is asked for twice.")
    for nic in nics:
        if nic.port_id:
            _check_port(tx, context, nic.port_id)
        else:
            _check_network(tx, context, nic)
    needed = count * (len(nics) - len(given))
    room = quotas.room(tx, config, context.project, "port") if needed else None
    if room is not None and needed > room:
        raise quotas.exceeded("port")
    if ids:
        server_groups.check_secure(tx, ids, [nic.network_id for nic in nics if nic.network_id and not nic.port_id])
        nics = [nic if nic.port_id else replace(nic, security_groups=ids) for nic in nics]
    return constraint(tx, nics)


def constraint(tx: Tx, nics: Sequence[RequestedNic]) -> CheckedNics:
    """See `NetworkClient.constraint`. Raises Conflict (HostTaken) where the networks live on different hosts."""
    given = [nic.port_id for nic in nics if nic.port_id]
    on = select(table.c.network_id).where(table.c.id.in_(given))
    network_ids = {nic.network_id for nic in nics if nic.network_id} | (set(tx.execute(on).scalars()) if given else set())
    found = visible.networks_by_id(tx, network_ids).values()
    tied = [bindings.ties(tx, network) for network in found]
    hosts = {host for host, _ in tied if host}
    if len(hosts) > 1:
        raise Conflict("The networks live on different hosts, each on one alone: no host has them all.", kind="HostTaken")
    physical = frozenset(network["physical_network"] for network in found if network["physical_network"])
    return CheckedNics(list(nics), next(iter(hosts), None), physical, frozenset(kind for _, kind in tied if kind))


def allocate(tx: Tx, config: Config, context: Context, boot: Boot, nics: Sequence[RequestedNic]) -> list[PortWiring]:
    """See `NetworkClient.allocate`. (The order of what it does is the order of locks in ports.py.)"""
    named = [nic.port_id for nic in nics if nic.port_id]
    known = {port["nic_index"]: port for port in visible.with_addresses(tx, _locked(tx, boot.server_id, named))}
    given = {port_id: visible.port(tx, context, port_id, lock=True) for port_id in named}
    network_ids = {nic.network_id for nic in nics if nic.network_id and not nic.port_id}
    network_ids |= {port["network_id"] for port in [*known.values(), *given.values()]}
    held = {port["network_id"] for port in known.values()}
    on = visible.with_subnets(tx, network_ids)
    seen = {key: each for key, each in on.items() if key in held or visible.is_seen(context, each[0])}
    fresh = {index: nic for index, nic in enumerate(nics) if index not in known and not nic.port_id}
    for nic in fresh.values():
        if nic.network_id not in seen:
            raise visible.no_network(nic.network_id or "")
        _check_wish(context, seen[nic.network_id][0], nic)
    wanted = [(_new(context, boot, index, nic), seen[nic.network_id or ""][0]) for index, nic in fresh.items()]
    chosen = dict(zip(fresh, ports.choose_groups(tx, config, context, wanted), strict=True))
    found: list[Row] = []
    new: list[Row] = []
    binding: list[tuple[Row | None, Row]] = []
    tally = quotas.Tally()
    if any(port is None or port["binding_key"] != boot.key for port in (known.get(index) for index in range(len(nics)))):
        bindings.check_agent(tx, config, boot.host)
    for index, nic in enumerate(nics):
        port = known.get(index) or (given[nic.port_id] if nic.port_id else None)
        network_id = port["network_id"] if port else nic.network_id or ""
        if network_id not in seen:
            raise visible.no_network(nic.network_id or "")
        network = seen[network_id][0]
        if port is None:
            port = ports.insert(tx, config, chosen[index], network, tally) | {"wanted": _wanted(nic)}
            new.append(port)
            binding.append((None, network))
        elif (port["server_id"], port["binding_key"]) != (boot.server_id, boot.key):
            binding.append((port, network))
            port = _bind(tx, port, boot, index)
        found.append(port)
    bindings.move(tx, [(network, before["host"] if before else "", boot.host) for before, network in binding])
    for port in sorted(new, key=itemgetter("network_id")):
        port["fixed_ips"] = fixed_ips.assign(tx, config, *on[port["network_id"]], port["id"], port.pop("wanted"))
    security_members.enter(tx, new)
    outbox.drop(tx, config, [before["id"] for before, _ in binding if before])
    quotas.settle(tx, config, tally)
    return [wiring.of(port, *on[port["network_id"]]) for port in found]


def release(tx: Tx, config: Config, server_id: str, keep: Collection[str]) -> None:
    """See `NetworkClient.release`. Compute asked for it, so compute is not told of it."""
    mine = _locked(tx, server_id)
    if not mine:
        return
    by_id = {key: network for key, (network, _) in visible.with_subnets(tx, {port["network_id"] for port in mine}).items()}
    tally = quotas.Tally()
    kept = [port for port in mine if port["id"] in keep]
    for port in kept:
        _let_go(tx, port)
    ports.remove(tx, config, [port for port in mine if port["id"] not in keep], by_id, let_go=kept, tell=False, tally=tally)
    quotas.settle(tx, config, tally)


def unbind(tx: Tx, config: Config, server_id: str) -> None:
    """See `NetworkClient.unbind`."""
    mine = [port for port in _locked(tx, server_id) if port["host"]]
    if not mine:
        return
    by_id = {key: network for key, (network, _) in visible.with_subnets(tx, {port["network_id"] for port in mine}).items()}
    bindings.move(tx, [(by_id[port["network_id"]], port["host"], "") for port in mine])
    for port in mine:
        _write(tx, port, bindings.unbound(bindings.state(port), admin_up=port["admin_state_up"]))
    outbox.drop(tx, config, [port["id"] for port in mine])


def addresses(tx: Tx, server_ids: Sequence[str]) -> dict[str, list[ServerAddress]]:
    """See `NetworkClient.addresses`."""
    wanted = (
        select(table.c.server_id, table.c.id, table.c.mac, networks.c.name, allocations.c.ip, allocations.c.address)
        .select_from(table.join(allocations, allocations.c.port_id == table.c.id).join(networks, networks.c.id == table.c.network_id))
        .where(table.c.server_id.in_(list(server_ids)))
        .order_by(table.c.nic_index, allocations.c.position)
    )
    by_server: dict[str, list[ServerAddress]] = {}
    for row in rows(tx, wanted):
        version = 4 if len(row["address"]) == 8 else 6
        address = ServerAddress(row["name"], row["ip"], version, row["mac"], row["id"])
        by_server.setdefault(row["server_id"], []).append(address)
    return by_server


def ports_of(tx: Tx, server_id: str) -> list[ServerPort]:
    """See `NetworkClient.ports`."""
    return [
        ServerPort(
            row["id"],
            row["network_id"],
            row["mac"],
            row["status"],
            row["nic_index"],
            tuple((each["subnet_id"], each["ip"]) for each in row["fixed_ips"]),
        )
        for row in _of_server(tx, server_id)
    ]


def at(tx: Tx, address: str, version: int) -> list[str]:
    """See `NetworkClient.servers_at`. Of regular expressions these are taken: characters of addresses, `.`, `.*`, `\\.`, `^`, `$`.
    Raises BadRequest for others (a pattern must not be able to keep the database busy)."""
    matching = allocations.c.ip.like(address_pattern.parse(address).like, escape="!")
    of_version = allocations.c.ip.like("%:%") if version == 6 else allocations.c.ip.not_like("%:%")
    joined = table.join(allocations, allocations.c.port_id == table.c.id)
    wanted = select(table.c.server_id).select_from(joined).where(table.c.server_id.is_not(None), matching, of_version)
    return [str(server_id) for server_id in tx.execute(wanted.distinct()).scalars()]


def readiness(tx: Tx, port_ids: Sequence[str], host: str) -> list[PortReadiness]:
    """See `NetworkClient.readiness`."""
    columns = (table.c.id, table.c.generation, table.c.level, table.c.cause)
    return [
        PortReadiness(
            row["id"],
            row["generation"],
            wired=row["generation"] if row["level"] == "wired" else 0,
            failed=row["generation"] if row["level"] == "failed" else 0,
            cause=row["cause"],
        )
        for row in rows(tx, select(*columns).where(table.c.id.in_(list(port_ids)), table.c.host == host))
    ]


def devices(tx: Tx, after: str = "", most: int | None = None) -> set[str]:
    """See `NetworkClient.devices`."""
    owners = select(table.c.server_id).where(table.c.server_id > after).distinct().order_by(table.c.server_id).limit(most)
    return {str(server_id) for server_id in tx.execute(owners).scalars()}


def _auto(tx: Tx, context: Context) -> list[RequestedNic]:
    """The one network that the project can use. (Nova: its own or a shared one; several are ambiguous.)"""
    mine = or_(networks.c.project_id == context.project, networks.c.shared.is_(True))
    found = list(tx.execute(select(networks.c.id).where(mine, networks.c.admin_state_up.is_(True)).limit(2)).scalars())
    if len(found) > 1:
        raise Conflict("Multiple possible networks found, use a Network ID to be more specific.", kind="NetworkAmbiguous")
    if found:
        _check_network(tx, context, RequestedNic(network_id=found[0]))
    return [RequestedNic(network_id=network_id) for network_id in found]


def _check_port(tx: Tx, context: Context, port_id: str) -> None:
    port = visible.port(tx, context, port_id)
    if port["server_id"] or port["device_id"] or port["host"]:
        raise _in_use(port_id)
    if not context.sees(port["project_id"]):
        raise visible.no_port(port_id)
    if not port["fixed_ips"]:
        raise BadRequest(f"Port {port_id} requires a FixedIP in order to be used.", kind="PortRequiresFixedIP")


def _check_network(tx: Tx, context: Context, nic: RequestedNic) -> None:
    if not nic.network_id:
        raise BadRequest("A network or a port is needed for each entry of networks.")
    network = visible.network(tx, context, nic.network_id)
    subnets = visible.subnets_of(tx, [network["id"]])[network["id"]]
    if not subnets:
        raise BadRequest(f"Network {network['id']} requires a subnet in order to boot instances on.", kind="NetworkRequiresSubnet")
    if nic.fixed_ip is None:
        return
    _check_wish(context, network, nic)
    address = fixed_ips.parse_address(nic.fixed_ip)
    subnet = fixed_ips.find_subnet(network, subnets, WantedIP(None, address))
    taken = select(allocations.c.port_id).where(allocations.c.subnet_id == subnet["id"], allocations.c.ip == str(address))
    if first(tx, taken) is not None:
        raise Conflict(f"Fixed IP address {address} is already in use.", kind="IpAddressAlreadyAllocated")


def _check_wish(context: Context, network: Row, nic: RequestedNic) -> None:
    if nic.fixed_ip is not None and not context.sees(network["project_id"]):
        raise Forbidden("On another project's network only that project or an admin may choose an address.")


def _of_server(tx: Tx, server_id: str) -> list[Row]:
    return visible.with_addresses(tx, [dict(row) for row in tx.execute(_PORTS, {"server": server_id}).mappings()])


def _locked(tx: Tx, server_id: str, named: Collection[str] = ()) -> list[Row]:
    """The server's ports, without their addresses; nobody else changes them, or those `named`, until the transaction ends."""
    if named:
        tx.execute(_LOCKED_WITH, {"server": server_id, "named": sorted(named)})
    return [dict(row) for row in tx.execute(_LOCKED, {"server": server_id}).mappings()]


def _new(context: Context, boot: Boot, index: int, nic: RequestedNic) -> ports.NewPort:
    groups = nic.security_groups or None
    return ports.NewPort(context.project, host=boot.host, binding_key=boot.key, security_groups=groups, **boot.columns(index))


def _wanted(nic: RequestedNic) -> list[WantedIP] | None:
    return None if nic.fixed_ip is None else [WantedIP(None, fixed_ips.parse_address(nic.fixed_ip))]


def _bind(tx: Tx, port: Row, boot: Boot, index: int) -> Row:
    """Bind a port that exists (given by the user, or left from an earlier attempt) for the server."""
    if port["server_id"] not in (None, boot.server_id) or port["device_id"] not in ("", boot.server_id):
        raise _in_use(port["id"])
    values = bindings.bound(bindings.state(port), boot.host, boot.key, admin_up=port["admin_state_up"])
    return _write(tx, port, values | boot.columns(index))


def _let_go(tx: Tx, port: Row) -> None:
    values = bindings.unbound(bindings.state(port), admin_up=port["admin_state_up"])
    _write(tx, port, values | {"server_id": null(), "device_id": "", "device_owner": "", "nic_index": 0, "dns_name": ""})


def _write(tx: Tx, port: Row, values: Row) -> Row:
    values = {**values, "updated_at": time.time(), "revision": port["revision"] + 1}
    same = and_(table.c.id == port["id"], table.c.revision == port["revision"])
    if tx.execute(update(table).where(same).values(**values)).rowcount != 1:
        raise Conflict(f"Port {port['id']} was changed by somebody else at the same time; try again", kind="StaleDataError")
    return port | values


def _in_use(port_id: str) -> Conflict:
    return Conflict(f"Port {port_id} is still in use.", kind="PortInUse")
