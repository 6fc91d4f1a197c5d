"""What the compute service still has to be told: one row a port and kind, written with the change that it tells of.

Of kind `level` (plugged, unplugged, failed) there are rows only where compute waits for them (`Config.notify`); of kind `change`
(what compute keeps of a port is another now, or the port is gone) always. A later event overtakes an earlier one of its kind that was
not delivered, never one of the other kind; a new binding or its end overtakes levels. A notifier takes what is due under a lease of its
own: until it has settled, or the lease is over, nobody else sends anything of that port and kind, so these events keep their order
however many notifiers there are.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import and_, bindparam, case, delete, func, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from pileus.network.config import Config
from pileus.network.tables import outbox
from pileus.store import Tx
from pileus.store.schema import Time
from pileus.store.sql import Row, rows

COMPUTE = "compute:"
"""How the device owner of a server's port begins: only of those compute is told."""

Kind = Literal["level", "change"]
KINDS: tuple[Kind, ...] = ("level", "change")
"""The order in which events of a port are written, dropped and settled, so that none of those waits for another in a circle. (The
statements have it from the alphabet.)"""
CHANGED, DELETED = "network-changed", "network-vif-deleted"
"""Events of kind `change`."""

# Built once: some of these run for every boot.
_KEY = tuple_(outbox.c.port_id, outbox.c.kind)
_OVERTAKEN = and_(outbox.c.port_id.in_(bindparam("ports", expanding=True)), outbox.c.kind == "level")
_OF_GONE = outbox.c.port_id.in_(bindparam("gone", expanding=True))
_IN_ORDER = select(outbox.c.port_id, outbox.c.kind).where(or_(_OVERTAKEN, _OF_GONE)).order_by(outbox.c.port_id, outbox.c.kind.desc())
_DROP = delete(outbox).where(_KEY.in_(_IN_ORDER.with_for_update()))
_NEXT = select(func.min(outbox.c.due_at))
_DUE = (
    select(outbox.c.port_id, outbox.c.kind)
    .where(outbox.c.due_at <= bindparam("now"))
    .order_by(outbox.c.due_at)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_TAKE = update(outbox).where(_KEY.in_(_DUE)).values(due_at=bindparam("until"), lease=bindparam("by")).returning(outbox)
_TAKE_OUT = delete(outbox).where(_KEY.in_(_DUE)).returning(outbox)
_LEASED = and_(outbox.c.port_id == bindparam("port"), outbox.c.kind == bindparam("of"), outbox.c.lease == bindparam("by"))
_DONE = delete(outbox).where(_LEASED, outbox.c.version == bindparam("sent"))
_RELEASE = (
    update(outbox)
    .where(_LEASED)
    .values(
        lease="",
        due_at=case((outbox.c.version == bindparam("sent"), bindparam("then", type_=Time)), else_=bindparam("now", type_=Time)),
        attempts=outbox.c.attempts + case((outbox.c.version == bindparam("sent"), 1), else_=0),
    )
)


def _put(insert: Any) -> Any:
    """A new event, or one that takes the place of another: which waits for the lease of that one."""
    new = insert.excluded
    values = {name: new[name] for name in ("version", "generation", "name", "server_id", "attempts", "created_at")}
    being_sent = and_(outbox.c.lease != "", outbox.c.due_at > new.due_at)
    due = {"due_at": case((being_sent, outbox.c.due_at), else_=new.due_at), "lease": case((being_sent, outbox.c.lease), else_="")}
    return insert.on_conflict_do_update(index_elements=["port_id", "kind"], set_=values | due)


_PUT = {"sqlite": _put(sqlite.insert(outbox)), "postgresql": _put(postgresql.insert(outbox))}


def put(tx: Tx, config: Config, port: Row, generation: int, name: str) -> bool:
    """Note what became of a port's level; whether anybody is to be told of it."""
    return config.notify and _note(tx, port, "level", generation, name)


def put_change(tx: Tx, port: Row, name: str) -> bool:
    """Note that what compute keeps of a port is another now (`CHANGED`), or that the port is gone (`DELETED`); whether anybody is to be
    told of it. Not for what compute asked for itself."""
    return _note(tx, port, "change", port["generation"], name)


def concerns(port: Row) -> bool:
    """Is it compute's business?"""
    return bool(port["device_owner"].startswith(COMPUTE) and port["device_id"])


def _note(tx: Tx, port: Row, kind: Kind, generation: int, name: str) -> bool:
    if not concerns(port):
        return False
    now = time.time()
    values = {
        "port_id": port["id"],
        "kind": kind,
        "version": uuid.uuid4().hex,
        "generation": generation,
        "name": name,
        "server_id": port["device_id"],
        "attempts": 0,
        "created_at": now,
        "due_at": now,
        "lease": "",
    }
    tx.execute(_PUT[tx.dialect.name], values)
    return True


def drop(tx: Tx, config: Config, port_ids: Sequence[str], *, gone: Sequence[str] = ()) -> None:
    """The levels of these were overtaken, as they were bound anew; of those that are `gone` whatever else is noted, too. (Where no levels
    are told that is left to be said: compute knows nothing of the server, and there it ends.)"""
    if config.notify and (port_ids or gone):
        tx.execute(_DROP, {"ports": sorted(port_ids), "gone": sorted(gone)})


def next_due(tx: Tx) -> float | None:
    found: float | None = tx.execute(_NEXT).scalar()
    return found


def take(tx: Tx, now: float, until: float, limit: int) -> list[Row]:
    """The events that are due, the oldest first: ours until the given time, or until they are settled. What another notifier takes
    at this moment is left to it."""
    taken = rows(tx, _TAKE, now=now, until=until, by=uuid.uuid4().hex, most=limit)
    return sorted(taken, key=lambda row: (row["created_at"], row["port_id"]))


def take_out(tx: Tx, now: float, limit: int) -> list[Row]:
    """The same, and they are in the outbox no more: what comes of them nobody will know."""
    return sorted(rows(tx, _TAKE_OUT, now=now, most=limit), key=lambda row: (row["created_at"], row["port_id"]))


def settle(tx: Tx, done: Sequence[Row], again: Sequence[tuple[Row, float]]) -> None:
    """Forget what was delivered, put off the rest until the given times. What took an event's place meanwhile is due now; what is no
    more ours stays as it is."""
    now = time.time()
    later = {(row["port_id"], row["kind"]): at for row, at in again}
    for row in sorted([*done, *(row for row, _ in again)], key=_place):
        which = {"port": row["port_id"], "of": row["kind"], "by": row["lease"], "sent": row["version"]}
        if _key(row) not in later and tx.execute(_DONE, which).rowcount == 1:
            continue
        tx.execute(_RELEASE, which | {"then": later.get(_key(row), now), "now": now})


def _key(row: Row) -> tuple[str, str]:
    return row["port_id"], row["kind"]


def _place(row: Row) -> tuple[str, int]:
    return row["port_id"], KINDS.index(row["kind"])
