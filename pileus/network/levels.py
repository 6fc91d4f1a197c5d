"""What agents say of ports, written down: a batch in one transaction, through readiness.py."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from sqlalchemy import BindParameter, bindparam, select, update

from pileus.messages import DeviceDetails, PortLevel
from pileus.network import bindings, cost, outbox, readiness, visible, wiring
from pileus.network.config import Config
from pileus.network.readiness import Event
from pileus.network.tables import ports
from pileus.store import Tx
from pileus.store.sql import Row, rows

MOST_CAUSE = 500
"""Characters kept of what an agent says of a failure."""

# Built once: they run for every boot.
_IDS: BindParameter[str] = bindparam("ids", expanding=True)
_PORTS = select(ports).where(ports.c.id.in_(_IDS))
_PORTS_ON = _PORTS.where(ports.c.host == bindparam("on"))
_SET = (
    update(ports)
    .where(ports.c.id == bindparam("port"), ports.c.generation == bindparam("at"), ports.c.level == bindparam("was"))
    .values(
        level=bindparam("is_now"),
        status=bindparam("shown"),
        cause=bindparam("why"),
        updated_at=bindparam("now"),
        revision=ports.c.revision + 1,
    )
)


def take(tx: Tx, config: Config, levels: Sequence[PortLevel]) -> bool:
    """Apply a batch; whether compute is to be told of something. Stale and doubled reports change nothing."""
    found = {port["id"]: port for port in rows(tx, _PORTS, ids=sorted({level.port_id for level in levels}))}
    notices: list[tuple[Row, int, str]] = []
    cost.spend(tx, cost.level_share(config.settings.network.rpc_statements) * sum(_weighs(level, found) for level in levels))
    for level in sorted(levels, key=lambda level: level.port_id):  # everybody takes ports in this order; a port's own order stays
        port = found.get(level.port_id)
        if port is not None and (notice := _take(tx, port, level)) is not None:
            notices.append((port, port["generation"], notice))
    return sum(outbox.put(tx, config, *notice) for notice in notices) > 0


def details(tx: Tx, host: str, port_ids: Sequence[str]) -> DeviceDetails:
    """The wiring of those of these ports that are bound to the host."""
    mine = rows(tx, _PORTS_ON, ids=list(port_ids), on=host)
    return DeviceDetails(wiring.several(tx, visible.with_addresses(tx, mine)))


def costly_details(tx: Tx, config: Config, host: str, port_id: str) -> DeviceDetails:
    """The same of one port, with the statements that it costs Neutron."""
    cost.spend(tx, cost.details_share(config.settings.network.rpc_statements), port_id)
    return details(tx, host, [port_id])


def _weighs(said: PortLevel, found: Mapping[str, Row]) -> bool:
    """Is it what agents report to a Neutron? That a port is plugged they do not say, and what is gone costs it nothing."""
    return said.level != "plugged" and said.port_id in found


def _take(tx: Tx, port: Row, said: PortLevel) -> str | None:
    """Apply one report and keep `port` as it is then; what compute is to be told."""
    before = bindings.state(port)
    outcome = readiness.apply(before, Event(said.level, said.host, said.generation))
    if not outcome.changed:
        return None
    level, cause = outcome.state.level, said.cause[:MOST_CAUSE] if outcome.state.level == "failed" else ""
    status = readiness.status(level, admin_up=port["admin_state_up"])
    which = {"port": port["id"], "at": before.generation, "was": before.level}
    values = {"is_now": level, "shown": status, "why": cause, "now": time.time()}
    if tx.execute(_SET, which | values).rowcount != 1:
        return None  # bound anew or gone at this very moment: the report is stale
    port.update(level=level, status=status, cause=cause)
    return outcome.notice
