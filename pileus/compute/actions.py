"""Durable work on a server, as rows: what was asked, how far it is, when it is due next. A waiting boot is a row with a `due_at`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, or_, select, update

from pileus.compute import builds, quotas
from pileus.compute.lifecycle import ServerState, Verb
from pileus.compute.tables import IS_DELETE, IS_NO_DELETE, actions, servers
from pileus.context import Context
from pileus.store import Tx
from pileus.store.sql import Row, first, rows


class Stale(Exception):
    """What was loaded has changed meanwhile: the transaction is undone, and whoever changed it goes on with it."""


OPEN = ("waiting", "blocked", "queued", "sent", "parked", "unwinding")
ANSWERED = ("sent", "parked")
"""States in which a host has been told and has not answered."""

# The statements of every boot, built once.
_INSERT = actions.insert()
_OPEN_OF = (
    select(actions)
    .where(actions.c.server_id == bindparam("server"), actions.c.state.in_(OPEN))
    .order_by(actions.c.started_at.desc())
    .limit(1)
)
_OPEN_OF_LOCKED = _OPEN_OF.with_for_update()
_CHANGE = update(actions).where(
    actions.c.id == bindparam("this"),
    actions.c.state == bindparam("loaded_state"),
    actions.c.attempt == bindparam("loaded_attempt"),
)
_BY_ID = select(actions).where(actions.c.id == bindparam("id"))


def new(tx: Tx, context: Context, verb: Verb, server: Mapping[str, Any], *, hard: bool = False, limit: float) -> str:
    """Write an action down, due at once, to be over within `limit` seconds; its id. `server` has its new generation already."""
    made = row(context, verb, server, hard=hard, limit=limit)
    insert(tx, [made])
    return str(made["id"])


def row(
    context: Context, verb: Verb, server: Mapping[str, Any], *, hard: bool = False, limit: float, tag: int | None = None
) -> dict[str, Any]:
    """An action due at once; with a `tag`: one that waits to be let in, at most so long (0: for ever)."""
    now = time.time()
    until = now + limit if limit or tag is None else None
    return {
        "id": str(uuid.uuid4()),
        "server_id": server["id"],
        "project_id": server["project_id"],
        "user_id": context.user_id,
        "request_id": context.request_id or f"req-{uuid.uuid4()}",
        "name": verb.name,
        "state": "queued" if tag is None else "waiting",
        "hard": hard,
        "generation": server["generation"],
        "attempt": 1,
        "tried": [],
        "tag": tag,
        "due_at": now if tag is None else until,
        "deadline": until,
        "resends": 0,
        "stamps": {"accepted": now},
        "details": {},
        "started_at": now,
        "updated_at": now,
    }


def insert(tx: Tx, made: Sequence[Mapping[str, Any]]) -> None:
    tx.execute(_INSERT, list(made))


def overtake(tx: Tx, action: Mapping[str, Any], by: str) -> None:
    """A newer action (delete, hard reboot) takes over from this one. Raises Stale where it is no longer as it was loaded."""
    now = time.time()
    if not change(tx, action, state="overtaken", message=f"overtaken by {by}", due_at=None, finished_at=now):
        raise Stale
    if action["state"] in ("waiting", "blocked"):
        quotas.leave_queue(tx, action["project_id"])


def begin_anew(tx: Tx) -> None:
    """At the start of a worker that is the only one: what is open gets its whole time again, of which nobody knows how much passed
    while no process was there."""
    whole = actions.c.deadline - actions.c.started_at
    now = time.time()
    tx.execute(update(actions).where(actions.c.state.in_(OPEN)).values(deadline=now + whole, due_at=now))
    tx.execute(update(actions).where(actions.c.state == "waiting").values(due_at=actions.c.deadline))


def change(tx: Tx, action: Mapping[str, Any], **values: Any) -> bool:
    """Change an action as it was loaded; False when it has another state or has begun another attempt meanwhile.

    Whatever moves it out of `sent` gives back its place on the host with it.
    """
    guard = {"this": action["id"], "loaded_attempt": action["attempt"], "loaded_state": action["state"]}
    if tx.execute(_CHANGE, {**guard, "updated_at": time.time(), **values}).rowcount != 1:
        return False
    if (host := builds.counted(action)) is not None and values.get("state", "sent") != "sent":
        builds.leave(tx, host)
    return True


def finish(
    tx: Tx, action: Mapping[str, Any], state: str, *, stamps: Mapping[str, float], details: Mapping[str, Any], message: str | None
) -> bool:
    now = time.time()
    merged = {**action["stamps"], **stamps, "reported": now}
    noted = {**action["details"], **details}
    return change(tx, action, state=state, stamps=merged, details=noted, message=message, due_at=None, finished_at=now)


_WAIT_FOR_HOST = (
    select(actions.c.id)
    .join(servers, servers.c.id == actions.c.server_id)
    .where(servers.c.host == bindparam("host"), servers.c.deleted_at.is_(None), actions.c.state.in_(ANSWERED))
    .with_for_update(of=actions, skip_locked=True)
)
_ASK_AGAIN = update(actions).where(actions.c.id.in_(bindparam("ids", expanding=True))).values(due_at=bindparam("now"), resends=0)


def ask_again(tx: Tx, host: str) -> list[str]:
    """A host began anew and knows nothing of what it was told: ids of the actions that wait for its answer, due now.

    One that is being changed at this moment is left out: whoever changes it has heard of the host.
    """
    ids = list(tx.execute(_WAIT_FOR_HOST, {"host": host}).scalars())
    if ids:
        tx.execute(_ASK_AGAIN, {"ids": ids, "now": time.time()})
    return ids


_BACKED_OFF = [
    select(actions.c.id).where(lane, actions.c.due_at > bindparam("later"), actions.c.state.in_(ANSWERED)).with_for_update(skip_locked=True)
    for lane in (IS_DELETE, IS_NO_DELETE)
]


def ask_soon(tx: Tx, within: float) -> int:
    """Messages may have been lost, also those that asked again: what waits for an answer and would be asked later than in `within`
    seconds is due now; how many that are. One that is being changed at this moment is asked by whoever changes it."""
    now = time.time()
    ids = [found for lane in _BACKED_OFF for found in tx.execute(lane, {"later": now + within}).scalars()]
    if ids:
        tx.execute(_ASK_AGAIN, {"ids": ids, "now": now})
    return len(ids)


def open_of(tx: Tx, server_id: str, *, locked: bool = False) -> Row | None:
    """The action under way on a server. `locked`: nobody else changes it in this transaction's time."""
    return first(tx, _OPEN_OF_LOCKED if locked else _OPEN_OF, server=server_id)


def by_id(tx: Tx, action_id: str) -> Row | None:
    return first(tx, _BY_ID, id=action_id)


def of_server(tx: Tx, server_id: str) -> list[Row]:
    """All actions of a server, the newest first."""
    return rows(tx, select(actions).where(actions.c.server_id == server_id).order_by(actions.c.started_at.desc(), actions.c.id))


def purge(tx: Tx, before: float) -> int:
    """Forget actions that ended, and servers that were deleted, before a time."""
    gone = tx.execute(
        actions.delete().where(actions.c.finished_at < before, or_(*[actions.c.state == s for s in ("done", "failed", "overtaken")]))
    )
    tx.execute(servers.delete().where(servers.c.deleted_at < before))
    return gone.rowcount


def state_of(server: Mapping[str, Any]) -> ServerState:
    """The part of a server's row that the lifecycle looks at."""
    return ServerState(
        vm_state=server["vm_state"],
        task_state=server["task_state"],
        power=server["power"],
        generation=server["generation"],
        host=server["host"],
        locked=server["locked"],
    )
