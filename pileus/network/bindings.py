"""Binding ports to hosts, and the one host that a `local` network lives on."""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, case, null, or_, select, update

from pileus.errors import Conflict
from pileus.network import outbox, readiness
from pileus.network.config import Config
from pileus.network.readiness import Event, State
from pileus.network.tables import agents, networks
from pileus.store import Tx
from pileus.store.sql import Row, rows

_OCCUPY = (
    update(networks)
    .where(networks.c.id == bindparam("network"), or_(networks.c.host.is_(None), networks.c.host == bindparam("on")))
    .values(host=bindparam("on"), bound=networks.c.bound + 1)
)
"""Built once: it is on the path of every boot."""


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


def move(tx: Tx, config: Config, port: Row, network: Row, host: str) -> None:
    """Bookkeeping of a binding that changes to `host` (empty: ends). What compute had still to be told is overtaken."""
    outbox.drop(tx, config, [port["id"]])
    if port["host"] == host:
        return
    if port["host"]:
        vacate(tx, network)
    if host:
        occupy(tx, network, host)


def occupy(tx: Tx, network: Row, host: str) -> None:
    """One more port of the network is bound on the host. Raises Conflict where the network cannot be there."""
    if network["type"] == "local":
        if tx.execute(_OCCUPY, {"network": network["id"], "on": host}).rowcount != 1:
            raise Conflict(
                f"Network {network['id']} is of type local and lives on another host than {host}: "
                "use the host that it lives on, or a vlan network",
                kind="HostTaken",
            )
    elif network["physical_network"] not in _physical_networks(tx, host, network["physical_network"]):
        raise Conflict(f"Host {host} is not connected to the physical network {network['physical_network']}", kind="HostTaken")


def vacate(tx: Tx, network: Row, ports: int = 1) -> None:
    """So many ports fewer are bound; a `local` network without any lives nowhere."""
    if network["type"] == "local" and ports:
        left = networks.c.bound - ports
        fewer = update(networks).where(networks.c.id == network["id"])
        tx.execute(fewer.values(bound=left, host=case((left <= 0, null()), else_=networks.c.host)))


def _physical_networks(tx: Tx, host: str, unknown: str) -> list[str]:
    """What the host's agent said it is connected to. A host that was never heard of gets the benefit of the doubt."""
    said = rows(tx, select(agents.c.configurations).where(agents.c.host == host).limit(1))
    known: list[str] = said[0]["configurations"]["physical_networks"] if said else [unknown]
    return known


def _columns(after: State, admin_up: bool) -> dict[str, Any]:
    shown = readiness.status(after.level, admin_up=admin_up)
    return {"host": after.host, "generation": after.generation, "level": after.level, "status": shown}
