"""What the compute service still has to be told: one row a port, written with the change that it tells of.

A later event of a port overtakes an earlier one that was not delivered, and a new binding or its end overtakes both.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from sqlalchemy import delete, func, select, update

from pileus.network.config import Config
from pileus.network.tables import outbox
from pileus.store import Tx
from pileus.store.sql import Row, rows, upsert

COMPUTE = "compute:"
"""How the device owner of a server's port begins: only of those compute is told."""


def put(tx: Tx, config: Config, port: Row, generation: int, name: str) -> bool:
    """Note an event; whether anybody is to be told of it."""
    if not config.notify or not port["device_owner"].startswith(COMPUTE) or not port["device_id"]:
        return False
    now = time.time()
    values = {
        "version": uuid.uuid4().hex,
        "generation": generation,
        "name": name,
        "server_id": port["device_id"],
        "attempts": 0,
        "created_at": now,
        "due_at": now,
    }
    upsert(tx, outbox, {"port_id": port["id"]}, values)
    return True


def drop(tx: Tx, config: Config, port_ids: Sequence[str]) -> None:
    """These were overtaken: bound anew, or gone."""
    if config.notify and port_ids:
        tx.execute(delete(outbox).where(outbox.c.port_id.in_(port_ids)))


def due(tx: Tx, now: float, limit: int) -> list[Row]:
    return rows(tx, select(outbox).where(outbox.c.due_at <= now).order_by(outbox.c.created_at, outbox.c.port_id).limit(limit))


def next_due(tx: Tx) -> float | None:
    found: float | None = tx.execute(select(func.min(outbox.c.due_at))).scalar()
    return found


def settle(tx: Tx, done: Sequence[Row], again: Sequence[tuple[Row, float]]) -> None:
    """Forget what was delivered, put off the rest until the given times; what was overtaken meanwhile stays as it is."""
    for row in done:
        tx.execute(delete(outbox).where(outbox.c.port_id == row["port_id"], outbox.c.version == row["version"]))
    for row, due_at in again:
        same = update(outbox).where(outbox.c.port_id == row["port_id"], outbox.c.version == row["version"])
        tx.execute(same.values(due_at=due_at, attempts=outbox.c.attempts + 1))
