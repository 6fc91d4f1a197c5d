"""Durable work on a server, as rows: what was asked, how far it is, when it is due next. A waiting boot is a row with a `due_at`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import and_, bindparam, or_, select, update

from pileus.compute.lifecycle import ServerState, Verb
from pileus.compute.tables import actions, servers
from pileus.context import Context
from pileus.store import Tx
from pileus.store.sql import Row, first, rows

OPEN = ("queued", "sent", "unwinding")

# The statements of every boot, built once.
_INSERT = actions.insert()
_SERVER = select(servers).where(servers.c.id == bindparam("id"))
_DUE_ONE = select(actions).where(actions.c.id == bindparam("id"), actions.c.due_at <= bindparam("now"))
_DUE_OF = select(actions.c.id).where(actions.c.server_id == bindparam("server"), actions.c.due_at <= bindparam("now"))
_ALL_OPEN = and_(actions.c.server_id == bindparam("server"), actions.c.state.in_(OPEN))
_OPEN_OF = select(actions).where(_ALL_OPEN).order_by(actions.c.started_at.desc()).limit(1)
_OVERTAKE = (
    update(actions)
    .where(_ALL_OPEN)
    .values(state="overtaken", message=bindparam("text"), due_at=None, finished_at=bindparam("now"), updated_at=bindparam("now"))
)
_LEASE = (
    update(servers)
    .where(servers.c.id == bindparam("server"), servers.c.lease_until <= bindparam("now"))
    .values(lease_until=bindparam("until"))
)
_FREE = update(servers).where(servers.c.id == bindparam("server")).values(lease_until=0.0)
_CHANGE = update(actions).where(
    actions.c.id == bindparam("this"),
    actions.c.state.in_(bindparam("within", expanding=True)),
    actions.c.attempt == bindparam("loaded_attempt"),
)


def new(tx: Tx, context: Context, verb: Verb, server: Mapping[str, Any], *, hard: bool = False, limit: float) -> str:
    """Write an action down, due at once, to be over within `limit` seconds; its id. `server` has its new generation already."""
    now = time.time()
    action_id = str(uuid.uuid4())
    tx.execute(
        _INSERT,
        {
            "id": action_id,
            "server_id": server["id"],
            "project_id": server["project_id"],
            "user_id": context.user_id,
            "request_id": context.request_id or f"req-{uuid.uuid4()}",
            "name": verb.name,
            "state": "queued",
            "hard": hard,
            "generation": server["generation"],
            "attempt": 1,
            "tried": [],
            "due_at": now,
            "deadline": now + limit,
            "resends": 0,
            "stamps": {"accepted": now},
            "details": {},
            "started_at": now,
            "updated_at": now,
        },
    )
    return action_id


def overtake(tx: Tx, server_id: str, by: str) -> None:
    """A newer action (delete, hard reboot) takes over: whatever is open on the server ends."""
    now = time.time()
    tx.execute(_OVERTAKE, {"server": server_id, "text": f"overtaken by {by}", "now": now})


def due(tx: Tx, now: float, limit: int) -> list[str]:
    """Ids of the actions that are due, the longest due first."""
    statement = select(actions.c.id).where(actions.c.due_at <= now).order_by(actions.c.due_at).limit(limit)
    return list(tx.execute(statement).scalars())


def take(tx: Tx, action_id: str, lease: float) -> tuple[Row, Row] | None:
    """The action and its server, leased for computing; None when it is not due, or another action of the server is being computed."""
    now = time.time()
    action = first(tx, _DUE_ONE, id=action_id, now=now)
    if action is None:
        return None
    if tx.execute(_LEASE, {"server": action["server_id"], "now": now, "until": now + lease}).rowcount == 0:
        return None
    server = first(tx, _SERVER, id=action["server_id"])
    assert server is not None
    return action, server


def free(tx: Tx, server_id: str) -> list[str]:
    """The computing is over; ids of the server's actions that are due, having perhaps waited for that."""
    tx.execute(_FREE, {"server": server_id})
    return due_of(tx, server_id)


def due_of(tx: Tx, server_id: str) -> list[str]:
    return list(tx.execute(_DUE_OF, {"server": server_id, "now": time.time()}).scalars())


def begin_anew(tx: Tx) -> None:
    """At the start of a process that is the only one: nobody computes anything, and what is open gets its whole time again, of
    which nobody knows how much passed while no process was there."""
    tx.execute(update(servers).where(servers.c.lease_until > 0).values(lease_until=0.0))
    whole = actions.c.deadline - actions.c.started_at
    now = time.time()
    tx.execute(update(actions).where(actions.c.state.in_(OPEN)).values(deadline=now + whole, due_at=now))


def change(tx: Tx, action: Mapping[str, Any], *, within: tuple[str, ...] = OPEN, **values: Any) -> bool:
    """Change an action as it was loaded; False when it has left these states or begun another attempt meanwhile."""
    guard = {"this": action["id"], "loaded_attempt": action["attempt"], "within": within}
    return tx.execute(_CHANGE, {**guard, "updated_at": time.time(), **values}).rowcount == 1


def finish(
    tx: Tx, action: Mapping[str, Any], state: str, *, stamps: Mapping[str, float], details: Mapping[str, Any], message: str | None
) -> bool:
    now = time.time()
    merged = {**action["stamps"], **stamps, "reported": now}
    noted = {**action["details"], **details}
    return change(tx, action, state=state, stamps=merged, details=noted, message=message, due_at=None, finished_at=now)


def ask_again(tx: Tx, host: str) -> list[str]:
    """A host began anew and knows nothing of what it was told: ids of the actions that wait for its answer, due now."""
    its = select(servers.c.id).where(servers.c.host == host, servers.c.deleted_at.is_(None))
    waiting = and_(actions.c.state == "sent", actions.c.server_id.in_(its))
    tx.execute(update(actions).where(waiting).values(due_at=time.time(), resends=0))
    return list(tx.execute(select(actions.c.id).where(waiting)).scalars())


def open_of(tx: Tx, server_id: str) -> Row | None:
    """The action under way on a server."""
    return first(tx, _OPEN_OF, server=server_id)


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
