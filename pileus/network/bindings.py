"""Binding ports to hosts, and which hosts a network is on: one of a `local` network, `members` of a tunnel network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from sqlalchemy import bindparam, case, null, or_, select, update

from pileus.errors import Conflict
from pileus.network import agents, members, readiness
from pileus.network.config import Config
from pileus.network.readiness import Event, State
from pileus.network.segments import TUNNELS
from pileus.network.tables import agents as agents_table
from pileus.network.tables import networks
from pileus.store import Tx
from pileus.store.sql import Row

_OCCUPY = (
    update(networks)
    .where(networks.c.id == bindparam("network"), or_(networks.c.host.is_(None), networks.c.host == bindparam("on")))
    .values(host=bindparam("on"), bound=networks.c.bound + 1)
)
"""Built once: it is on the path of every boot. So is the one below."""

_SAID = select(agents_table.c.configurations).where(agents_table.c.host == bindparam("on")).limit(1)


def state(port: Row) -> State:
    return State(port["level"], port["host"], port["generation"])


def bound(before: State, host: str, key: str, *, admin_up: bool) -> dict[str, Any]:
    """The columns of a port after binding it to `host`."""
    after = readiness.apply(before, Event("bind", host, before.generation + 1)).state
    return _columns(after, admin_up) | {"binding_key": key, "cause": ""}


def unbound(before: State, *, admin_up: bool) -> dict[str, Any]:
    """The columns of a port after its binding has ended."""
    after = readiness.apply(before, Event("unbind", before.host, before.generation)).state
    return _columns(after, admin_up) | {"binding_key": "", "cause": ""}


def move(tx: Tx, moves: Iterable[tuple[Row, str, str]]) -> None:
    """Bookkeeping of bindings that change, each on a network, from one host to another (empty: none): by network, and there by host.
    Raises Conflict where a network cannot be on a host."""
    found: dict[str, tuple[Row, Counter[str], Counter[str]]] = {}
    for network, before, after in moves:
        if before != after:
            _, left, come = found.setdefault(network["id"], (network, Counter(), Counter()))
            left.update([before] if before else [])
            come.update([after] if after else [])
    for _, (network, left, come) in sorted(found.items()):
        if network["type"] in TUNNELS:
            _move_members(tx, network["id"], left, come)
            continue
        if left:
            _vacate(tx, network, left.total())
        for host in come.elements():
            _occupy(tx, network, host)


def _move_members(tx: Tx, network_id: str, left: Counter[str], come: Counter[str]) -> None:
    addresses = {host: _said(tx, host).get("tunneling_ip") for host in come}
    if left and come:
        members.hold(tx, network_id, {*left, *come}, alone="" in addresses.values())
    for host, ports in sorted(left.items()):
        members.leave(tx, network_id, host, ports)
    for host in sorted(come.elements()):
        members.enter(tx, network_id, host, addresses[host])


def _occupy(tx: Tx, network: Row, host: str) -> None:
    if network["type"] == "local":
        if tx.execute(_OCCUPY, {"network": network["id"], "on": host}).rowcount != 1:
            raise Conflict(
                f"Network {network['id']} is of type local and lives on another host than {host}: "
                "use the host that it lives on, or a network of another type",
                kind="HostTaken",
            )
    elif network["physical_network"] not in _said(tx, host).get("physical_networks", [network["physical_network"]]):
        raise Conflict(f"Host {host} is not connected to the physical network {network['physical_network']}", kind="HostTaken")


def _vacate(tx: Tx, network: Row, ports: int) -> None:
    """A `local` network without any port bound lives nowhere."""
    if network["type"] == "local":
        left = networks.c.bound - ports
        fewer = update(networks).where(networks.c.id == network["id"])
        tx.execute(fewer.values(bound=left, host=case((left <= 0, null()), else_=networks.c.host)))


def check_agent(tx: Tx, config: Config, host: str) -> None:
    """Raises Conflict where the host's network agent is dead: nobody would wire a port there."""
    if agents.is_dead(tx, host, config.settings.network.agent_down_time):
        raise Conflict(f"The network agent of host {host} is dead: use another host, or start it", kind="HostTaken")


def ties(tx: Tx, network: Row) -> tuple[str, str]:
    """What the network's ports that are bound already ask of the host of the next one: to be that host; to offer the network's type.
    Each is empty where it does not matter."""
    if network["type"] not in TUNNELS:
        return network["host"] or "", ""
    there = members.anywhere(tx, network["id"])
    if there is None:
        return "", ""
    host, reaches_others = there
    return ("", network["type"]) if reaches_others else (host, "")


def _said(tx: Tx, host: str) -> dict[str, Any]:
    """What the host's agent said of itself. A host that was never heard of gets the benefit of the doubt."""
    found = tx.execute(_SAID, {"on": host}).first()
    return {} if found is None else dict(found[0])


def _columns(after: State, admin_up: bool) -> dict[str, Any]:
    shown = readiness.status(after.level, admin_up=admin_up)
    return {"host": after.host, "generation": after.generation, "level": after.level, "status": shown}
