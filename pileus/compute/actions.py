"""Durable work on a server, as rows: what was asked, how far it is, when it is due next. A waiting boot is a row with a `due_at`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import and_, or_, select, update

from pileus.compute.lifecycle import ServerState, Verb
from pileus.compute.tables import actions, servers
from pileus.context import Context
from pileus.store import Tx
from pileus.store.sql import Row, first, rows

OPEN = ("queued", "sent", "unwinding")


def new(tx: Tx, context: Context, verb: Verb, server: Mapping[str, Any], *, hard: bool = False, limit: float) -> str:
    """Write an action down, due at once, to be over within `limit` seconds; its id. `server` has its new generation already."""
    now = time.time()
    action_id = str(uuid.uuid4())
    tx.execute(
        actions.insert().values(
            id=action_id,
            server_id=server["id"],
            project_id=server["project_id"],
            user_id=context.user_id,
            request_id=context.request_id or f"req-{uuid.uuid4()}",
            name=verb.name,
            state="queued",
            hard=hard,
            generation=server["generation"],
            attempt=1,
            tried=[],
            due_at=now,
            deadline=now + limit,
            resends=0,
            stamps={"accepted": now},
            details={},
            started_at=now,
            updated_at=now,
        )
    )
    return action_id


def overtake(tx: Tx, server_id: str, by: str) -> None:
    """A newer action (delete, hard reboot) takes over: whatever is open on the server ends."""
    now = time.time()
    tx.execute(
        update(actions)
        .where(actions.c.server_id == server_id, actions.c.state.in_(OPEN))
        .values(state="overtaken", message=f"overtaken by {by}", due_at=None, finished_at=now, updated_at=now)
    )


def due(tx: Tx, now: float, limit: int) -> list[str]:
    """Ids of the actions that are due, the longest due first."""
    statement = select(actions.c.id).where(actions.c.due_at <= now).order_by(actions.c.due_at).limit(limit)
    return list(tx.execute(statement).scalars())


def take(tx: Tx, action_id: str, lease: float) -> tuple[Row, Row] | None:
    """The action and its server, leased for computing; None when it is not due, or another action of the server is being computed."""
    now = time.time()
    action = first(tx, select(actions).where(actions.c.id == action_id, actions.c.due_at <= now))
    if action is None:
        return None
    leased = tx.execute(
        update(servers).where(servers.c.id == action["server_id"], servers.c.lease_until <= now).values(lease_until=now + lease)
    )
    if leased.rowcount == 0:
        return None
    server = first(tx, select(servers).where(servers.c.id == action["server_id"]))
    assert server is not None
    return action, server


def free(tx: Tx, server_id: str) -> list[str]:
    """The computing is over; ids of the server's actions that are due, having perhaps waited for that."""
    tx.execute(update(servers).where(servers.c.id == server_id).values(lease_until=0.0))
    return due_of(tx, server_id)


def due_of(tx: Tx, server_id: str) -> list[str]:
    return list(tx.execute(select(actions.c.id).where(actions.c.server_id == server_id, actions.c.due_at <= time.time())).scalars())


def free_all(tx: Tx) -> None:
    """At the start of a process that is the only one: nobody computes anything."""
    tx.execute(update(servers).where(servers.c.lease_until > 0).values(lease_until=0.0))


def change(tx: Tx, action: Mapping[str, Any], *, within: tuple[str, ...] = OPEN, **values: Any) -> bool:
    """Change an action as it was loaded; False when it has left these states or begun another attempt meanwhile."""
    guard = and_(actions.c.id == action["id"], actions.c.state.in_(within), actions.c.attempt == action["attempt"])
    return tx.execute(update(actions).where(guard).values(updated_at=time.time(), **values)).rowcount == 1


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
    statement = select(actions).where(actions.c.server_id == server_id, actions.c.state.in_(OPEN)).order_by(actions.c.started_at.desc())
    return first(tx, statement.limit(1))


def of_server(tx: Tx, server_id: str) -> list[Row]:
    """All actions of a server, the newest first."""
    return rows(tx, select(actions).where(actions.c.server_id == server_id).order_by(actions.c.started_at.desc(), actions.c.id))


def by_request(tx: Tx, server_id: str, request_id: str) -> Row | None:
    return first(tx, select(actions).where(actions.c.server_id == server_id, actions.c.request_id == request_id))


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
