"""What agents say of ports, written down: a batch in one transaction, through readiness.py."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import select, update

from pileus.messages import DeviceDetails, PortLevel
from pileus.network import bindings, outbox, readiness, visible, wiring
from pileus.network.config import Config
from pileus.network.readiness import Event
from pileus.network.tables import ports
from pileus.store import Tx
from pileus.store.sql import Row, rows

MOST_CAUSE = 500
"""Characters kept of what an agent says of a failure."""


def take(tx: Tx, config: Config, levels: Sequence[PortLevel]) -> bool:
    """Apply a batch; whether compute is to be told of something. Stale and doubled reports change nothing."""
    found = {port["id"]: port for port in rows(tx, select(ports).where(ports.c.id.in_({level.port_id for level in levels})))}
    told = False
    for level in levels:
        port = found.get(level.port_id)
        if port is not None:
            told = _take(tx, config, port, level) or told
    return told


def details(tx: Tx, host: str, port_ids: Sequence[str]) -> DeviceDetails:
    """The wiring of those of these ports that are bound to the host."""
    mine = rows(tx, select(ports).where(ports.c.id.in_(list(port_ids)), ports.c.host == host))
    return DeviceDetails(wiring.several(tx, visible.with_addresses(tx, mine)))


def _take(tx: Tx, config: Config, port: Row, said: PortLevel) -> bool:
    """Apply one report and keep `port` as it is then."""
    before = bindings.state(port)
    outcome = readiness.apply(before, Event(said.level, said.host, said.generation))
    if not outcome.changed:
        return False
    values = {
        "level": outcome.state.level,
        "status": readiness.status(outcome.state.level, admin_up=port["admin_state_up"]),
        "cause": said.cause[:MOST_CAUSE] if outcome.state.level == "failed" else "",
        "updated_at": time.time(),
        "revision": ports.c.revision + 1,
    }
    same = update(ports).where(ports.c.id == port["id"], ports.c.generation == before.generation, ports.c.level == before.level)
    if tx.execute(same.values(**values)).rowcount != 1:
        return False  # bound anew or gone at this very moment: the report is stale
    port.update(values)
    return outcome.notice is not None and outbox.put(tx, config, port, before.generation, outcome.notice)
