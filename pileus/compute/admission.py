"""Who is built next: creates wait as rows and are let in a few at a time, fairly between projects.

Start-time fair queueing: a create's `tag` is the project's last tag plus one, and never before the virtual time, which is the tag of the
last create that was let in. The smallest tag is next, so one project's thousands stand behind another's first. States of a create
before it is computed: `waiting` for its turn; `blocked` where no host has room for it, until there may be some again.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Integer, bindparam, case, exists, func, select, update

from pileus.compute.leases import ALIVE, FREE, Taken
from pileus.compute.tables import IS_OPEN_CREATE, actions, admission, servers, usage
from pileus.errors import TooManyRequests
from pileus.store import Tx
from pileus.store.sql import Row, dialect

LOOK = 5.0
"""Seconds after which a create that was let in is looked at, should its worker have died."""
MOST_SHOWN = 1000
"""Of a position in the queue: beyond it nobody counts."""
RELOOK_FIRST, RELOOK_MOST = 1.0, 30.0
"""Seconds after which a blocked create looks for room though nobody told of any; twice as long each time."""

_BUILDING = ("queued", "sent")
_RUNNING = select(func.count()).select_from(
    select(actions.c.id).where(IS_OPEN_CREATE, actions.c.state.in_(_BUILDING)).limit(bindparam("most", type_=Integer)).subquery()
)
_LOCK = select(admission.c.virtual_time).where(admission.c.id == 1).with_for_update(skip_locked=True)
_NEXT = (
    select(actions, servers)
    .join(servers, servers.c.id == actions.c.server_id)
    .where(IS_OPEN_CREATE, actions.c.state == "waiting", FREE)
    .order_by(actions.c.tag)
    .limit(bindparam("most", type_=Integer))
    .with_for_update(skip_locked=True)
)
_LET_IN = (
    update(actions)
    .where(actions.c.id.in_(bindparam("ids", expanding=True)))
    .values(state="queued", due_at=bindparam("look_at"), deadline=bindparam("limit"), updated_at=bindparam("now"))
)
_LEASE = (
    update(servers)
    .where(servers.c.id.in_(bindparam("ids", expanding=True)))
    .values(lease_owner=bindparam("owner"), lease_until=bindparam("until"))
)
_MOVE_ON = update(admission).where(admission.c.id == 1, admission.c.virtual_time < bindparam("tag")).values(virtual_time=bindparam("tag"))
_passed = case((bindparam("now") - usage.c.admitted_at > 0.05, bindparam("now") - usage.c.admitted_at), else_=0.05)
_RATE = (
    update(usage)
    .where(usage.c.project_id == bindparam("project"))
    .values(admit_rate=usage.c.admit_rate * 0.75 + bindparam("count") / _passed * 0.25, admitted_at=bindparam("now"))
)
_BLOCKED = (
    select(actions.c.id, actions.c.tag)
    .where(IS_OPEN_CREATE, actions.c.state == "blocked", actions.c.tag > bindparam("after"))
    .order_by(actions.c.tag)
    .limit(bindparam("most", type_=Integer))
    .with_for_update(skip_locked=True)
)
_UNBLOCK = (
    update(actions)
    .where(actions.c.id.in_(bindparam("ids", expanding=True)), actions.c.state == "blocked")
    .values(state="waiting", due_at=bindparam("limit"), deadline=bindparam("limit"), updated_at=bindparam("now"))
)
_IN = {state: exists(select(actions.c.id).where(IS_OPEN_CREATE, actions.c.state == state)) for state in ("waiting", "blocked")}
_ANY = select(_IN["waiting"].label("waiting"), _IN["blocked"].label("blocked"))
_AHEAD = select(actions.c.id).where(IS_OPEN_CREATE, actions.c.state == bindparam("state"), actions.c.tag < bindparam("tag"))
_BEFORE = select(func.count()).select_from(_AHEAD.limit(MOST_SHOWN + 1).subquery())
_COUNTS = select(actions.c.state, func.count().label("count")).where(IS_OPEN_CREATE).group_by(actions.c.state)
_QUEUED = select(func.count()).select_from(
    select(actions.c.id)
    .where(IS_OPEN_CREATE, actions.c.project_id == bindparam("project"), actions.c.state.in_(("waiting", "blocked")))
    .limit(bindparam("most", type_=Integer))
    .subquery()
)
_OF_PROJECT = select(usage.c.admit_rate, usage.c.admitted_at).where(usage.c.project_id == bindparam("project"))


@dataclass(frozen=True)
class Admitted:
    """Creates that were let in, leased for computing. `full`: as many are being built as may be, so that others may have to wait."""

    batch: list[Taken]
    full: bool


@dataclass(frozen=True)
class Waiting:
    """Is there anything that waits for its turn, or for room?"""

    waiting: bool
    blocked: bool


def admit(tx: Tx, worker: str, *, lease: float, limit: int, most: int, deadline: float, rates: bool = False) -> Admitted | None:
    """Let in the first of the queue, at most `most`, and no more than `limit` are then being built (0: any number).

    They are the worker's for `lease` seconds and shall be over in `deadline` seconds. None while another worker lets creates in.
    `rates`: note each project's rate.
    """
    # One at a time, or two would count the same builds and both fill the rest. SQLite has one writer.
    if dialect(tx) != "sqlite" and tx.execute(_LOCK).first() is None:
        return None
    if limit:
        most = min(most, limit - tx.execute(_RUNNING, {"most": limit}).scalar_one())
    if most <= 0:
        return Admitted([], full=True)
    now = time.time()
    found = tx.execute(_NEXT, {"most": most, "now": now, "alive_since": now - ALIVE}).all()
    if not found:
        return Admitted([], full=False)
    changed = {"state": "queued", "due_at": now + LOOK, "deadline": now + deadline, "updated_at": now}
    leased = {"lease_owner": worker, "lease_until": now + lease}
    batch = [(_part(row, actions.c, 0) | changed, _part(row, servers.c, len(actions.c)) | leased) for row in found]
    ids = [action["id"] for action, _ in batch]
    tx.execute(_LET_IN, {"ids": ids, "look_at": now + LOOK, "limit": now + deadline, "now": now})
    tx.execute(_LEASE, {"ids": [server["id"] for _, server in batch], "owner": worker, "until": now + lease})
    tx.execute(_MOVE_ON, {"tag": batch[-1][0]["tag"]})
    if rates:
        _note_rates(tx, [action["project_id"] for action, _ in batch], now)
    return Admitted(batch, full=len(batch) == most)


def unblock(tx: Tx, *, most: int, after: int, limit: float) -> tuple[int, int]:
    """There may be room again: some of the blocked wait for their turn again. How many, and the tag to go on after.

    Half of them are those with the smallest tags; the others go round by `after`, so that a few large ones which never fit do not
    stand before all the small ones. `limit`: seconds that they may wait (0: for ever).
    """
    first = tx.execute(_BLOCKED, {"after": -1, "most": (most + 1) // 2}).all()
    last = max([after, *(row.tag for row in first)])
    rest = tx.execute(_BLOCKED, {"after": last, "most": most // 2}).all() if first else []
    ids = [row.id for row in [*first, *rest]]
    if ids:
        now = time.time()
        tx.execute(_UNBLOCK, {"ids": ids, "limit": now + limit if limit else None, "now": now})
    return len(ids), rest[-1].tag if rest else -1


def any_in_queue(tx: Tx) -> Waiting:
    found = tx.execute(_ANY).one()
    return Waiting(bool(found.waiting), bool(found.blocked))


def before(tx: Tx, action: Row) -> int:
    """How many of the same state stand before it; more than `MOST_SHOWN` are not counted."""
    return int(tx.execute(_BEFORE, {"state": action["state"], "tag": action["tag"]}).scalar_one())


def counts(tx: Tx) -> dict[str, int]:
    """State → how many creates are in it, of those that are not over."""
    return {state: int(count) for state, count in tx.execute(_COUNTS)}


def running(tx: Tx, most: int) -> int:
    """How many creates are being built; at most `most` are counted."""
    return int(tx.execute(_RUNNING, {"most": most}).scalar_one())


def queued(tx: Tx, project_id: str, most: int) -> int:
    """How many of a project's creates wait; at most `most` are counted."""
    return int(tx.execute(_QUEUED, {"project": project_id, "most": most}).scalar_one())


def check_queue(tx: Tx, project_id: str, count: int, most: int) -> None:
    """May a project have `count` more creates wait, `most` in all? Raises TooManyRequests with the time after which to try again.

    Called when the project's usage row is locked, so that no two of its requests count the same.
    """
    waiting = queued(tx, project_id, most + 1)
    if waiting + count <= most:
        return
    seconds = retry_after(waiting + count - most, rate(tx, project_id))
    raise TooManyRequests(
        f"Too many servers of this project wait to be made: {waiting} wait, {count} more were asked for, {most} may wait; "
        f"try again in {seconds} s",
        retry_after=seconds,
    )


def rate(tx: Tx, project_id: str) -> float:
    """Creates of the project let in a second, of late; 0: none that anybody knows of."""
    row = tx.execute(_OF_PROJECT, {"project": project_id}).first()
    if row is None or not row.admit_rate:
        return 0.0
    # Where nothing was let in for a while it is slower than it was.
    return float(min(row.admit_rate, 1 / max(time.time() - row.admitted_at, 0.001)))


def retry_after(creates: int, per_second: float) -> int:
    """Seconds until so many are let in at this rate, between 1 and 60."""
    return 60 if per_second <= 0 else max(1, min(60, math.ceil(creates / per_second)))


def _part(row: Any, columns: Any, start: int) -> Row:
    return {column.name: row[start + n] for n, column in enumerate(columns)}


def _note_rates(tx: Tx, projects: list[str], now: float) -> None:
    for project in sorted(set(projects)):
        tx.execute(_RATE, {"project": project, "count": float(projects.count(project)), "now": now})
