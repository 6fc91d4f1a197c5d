"""Who computes what: the workers that live, and the leases that they hold on servers.

A lease covers only the computing of an action's steps. It is good while its worker's row is fresh and its own time is not over, so what
a dead worker held goes on a few seconds later, and at once where a worker ended in order. The pair of owner and end stands for one
taking of the lease: whoever lost it changes nothing any more.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Integer, bindparam, delete, exists, or_, select, update

from pileus.compute.tables import IS_DELETE, IS_NO_DELETE, actions, admission, servers, workers
from pileus.store import Tx
from pileus.store.sql import Row, first, insert_new, rows, upsert

BEAT = 4.0
"""Seconds between a worker's words that it lives."""
ALIVE = 12.0
"""Seconds without a word after which its leases are anybody's."""
FORGOTTEN = 3600.0

Taken = tuple[Row, Row]
"""An action and its server, whose `lease_owner` and `lease_until` are the lease."""

FREE = or_(
    servers.c.lease_until <= bindparam("now"),
    # By its key, and not as a list of those that live: PostgreSQL would read the small table whole for that, and having been told to
    # avoid it (`PLANS`) takes any plan for as dear as any other, even one that reads all servers.
    ~exists().where(workers.c.id == servers.c.lease_owner, workers.c.seen_at > bindparam("alive_since")),
)
_LEASED: dict[str, Any] = {"lease_owner": bindparam("owner"), "lease_until": bindparam("until")}

_DUE_ONE = select(actions).where(actions.c.id == bindparam("action"), actions.c.due_at <= bindparam("now"))
_SERVER_OF_DUE = select(actions.c.server_id).where(actions.c.id == bindparam("action"), actions.c.due_at <= bindparam("now"))
_LEASE_OF_DUE = update(servers).where(servers.c.id == _SERVER_OF_DUE.scalar_subquery(), FREE).values(_LEASED).returning(*servers.c)
_LEASE_ONE = update(servers).where(servers.c.id == bindparam("server"), FREE).values(_LEASED).returning(*servers.c)
_LEASE_ALL = update(servers).where(servers.c.id.in_(bindparam("ids", expanding=True)), FREE).values(_LEASED).returning(*servers.c)
_FREE = (
    update(servers)
    .where(
        servers.c.id == bindparam("server"),
        servers.c.lease_owner == bindparam("owner"),
        servers.c.lease_until == bindparam("until"),
    )
    .values(lease_owner="", lease_until=0.0)
)
_DUE_OF = select(actions.c.id).where(
    actions.c.server_id == bindparam("server"), actions.c.due_at <= bindparam("now"), actions.c.id != bindparam("but")
)
_DUE_LANES = {
    lane: select(actions.c.server_id)
    .join(servers, servers.c.id == actions.c.server_id)
    .where(IS_DELETE if lane else IS_NO_DELETE, actions.c.due_at <= bindparam("now"), FREE)
    .order_by(actions.c.due_at)
    .limit(bindparam("most", type_=Integer))
    .with_for_update(of=servers, skip_locked=True)
    for lane in (True, False)
}
_SERVERS = select(servers).where(servers.c.id.in_(bindparam("ids", expanding=True)))
_DUE_ON = (
    select(actions)
    .where(actions.c.server_id.in_(bindparam("ids", expanding=True)), actions.c.due_at <= bindparam("now"))
    .order_by(actions.c.started_at)
)
_SOMETHING_DUE = {
    lane: exists(select(actions.c.id).where(IS_DELETE if lane else IS_NO_DELETE, actions.c.due_at <= bindparam("now")))
    for lane in (True, False)
}
_ANY_DUE = select(or_(_SOMETHING_DUE[True], _SOMETHING_DUE[False]))


def join(tx: Tx, worker: str) -> None:
    """A worker begins; what lets creates in is there from now on."""
    insert_new(tx, admission, {"id": 1, "virtual_time": 0})
    beat(tx, worker)


def beat(tx: Tx, worker: str) -> None:
    """It lives, also where others had given it up."""
    now = time.time()
    upsert(tx, workers, {"id": worker}, {"seen_at": now})


def leave(tx: Tx, worker: str) -> None:
    """It ends in order: what it leased is anybody's at once."""
    tx.execute(delete(workers).where(workers.c.id == worker))


def forget_dead(tx: Tx) -> None:
    tx.execute(delete(workers).where(workers.c.seen_at < time.time() - FORGOTTEN))


def begin_anew(tx: Tx) -> None:
    """At the start of a worker that is the only one there can be: whoever computed anything is dead."""
    tx.execute(delete(workers))
    tx.execute(update(servers).where(servers.c.lease_until > 0).values(lease_owner="", lease_until=0.0))


def take(tx: Tx, action_id: str, worker: str, seconds: float) -> Taken | None:
    """The action and its server, leased for computing; None when it is not due, or another action of the server is being computed."""
    times = _times(worker, seconds)
    server = first(tx, _LEASE_OF_DUE, action=action_id, **times)
    if server is None:
        return None
    # Read when the lease is held: before, another one could have gone on with it.
    action = first(tx, _DUE_ONE, action=action_id, now=times["now"])
    if action is None:
        free(tx, server, but=action_id)
        return None
    return action, server


def take_server(tx: Tx, server_id: str, worker: str, seconds: float) -> Row | None:
    """A server, leased; None while somebody else has it, or when it is forgotten."""
    return first(tx, _LEASE_ONE, server=server_id, **_times(worker, seconds))


def any_due(tx: Tx) -> bool:
    return bool(tx.execute(_ANY_DUE, {"now": time.time()}).scalar())


def due(tx: Tx, *, deletes: bool, most: int) -> list[tuple[Row, Row]]:
    """What is due of a lane and computed by nobody, the longest due first: actions and their servers, which are locked until the
    transaction's end. Several who ask at once get different ones."""
    now = time.time()
    ids = list(dict.fromkeys(tx.execute(_DUE_LANES[deletes], {"now": now, "alive_since": now - ALIVE, "most": most}).scalars()))
    if not ids:
        return []
    found = {row["server_id"]: row for row in rows(tx, _DUE_ON, ids=ids, now=now)}
    return [(found[row["id"]], row) for row in rows(tx, _SERVERS, ids=list(found))] if found else []


def hold(tx: Tx, worker: str, seconds: float, found: Sequence[tuple[Row, Row]]) -> list[Taken]:
    """The same, leased for computing."""
    if not found:
        return []
    leased = {row["id"]: row for row in rows(tx, _LEASE_ALL, ids=[server["id"] for _, server in found], **_times(worker, seconds))}
    return [(action, leased[server["id"]]) for action, server in found if server["id"] in leased]


def take_due(tx: Tx, worker: str, seconds: float, *, deletes: bool, most: int) -> list[Taken]:
    """What is due of a lane and computed by nobody, the longest due first, leased: several who ask at once get different ones."""
    return hold(tx, worker, seconds, due(tx, deletes=deletes, most=most))


def free(tx: Tx, server: Row, *, but: str) -> list[str]:
    """The computing of the action `but` is over: ids of the server's other actions that are due, having perhaps waited for that."""
    token = {"server": server["id"], "owner": server["lease_owner"], "until": server["lease_until"]}
    if tx.execute(_FREE, token).rowcount == 0:
        return []
    return due_of(tx, server["id"], but=but)


def due_of(tx: Tx, server_id: str, *, but: str) -> list[str]:
    return list(tx.execute(_DUE_OF, {"server": server_id, "now": time.time(), "but": but}).scalars())


def _times(worker: str, seconds: float) -> dict[str, float | str]:
    now = time.time()
    return {"owner": worker, "now": now, "until": now + seconds, "alive_since": now - ALIVE}
