"""Deletes begun: a host is told to remove a guest in one transaction, without computing anything and so without a lease."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pileus.compute import actions, leases
from pileus.compute.leases import Taken
from pileus.store import Tx
from pileus.store.sql import Row


@dataclass(frozen=True)
class Begun:
    """`told`: action and server of those that wait for their hosts now, which are told after the commit. `others`: leased, to be computed:
    they have no host, are asked again, or are overdue."""

    told: list[tuple[Row, Row]]
    others: list[Taken]


def begin(tx: Tx, worker: str, seconds: float, *, most: int, again_in: float) -> Begun:
    """The deletes that are due and computed by nobody, the longest due first, `most` of them. Whoever is told and does not answer is
    asked again in `again_in` s; the others are leased by `worker` for `seconds`."""
    due = leases.due(tx, deletes=True, most=most)
    told: list[tuple[Row, Row]] = []
    rest = []
    for action, server in due:
        if _only_told(action, server) and _told(tx, action, again_in):
            told.append((action, server))
        else:
            rest.append((action, server))
    return Begun(told, leases.hold(tx, worker, seconds, rest))


def _only_told(action: Row, server: Row) -> bool:
    in_time = action["deadline"] is None or time.time() <= action["deadline"]
    return action["name"] == "delete" and action["state"] == "queued" and server["host"] is not None and in_time


def _told(tx: Tx, action: Row, again_in: float) -> bool:
    now = time.time()
    stamps = {**action["stamps"], "queued": now, "sent": now}
    return actions.change(tx, action, state="sent", stamps=stamps, resends=action["resends"] + 1, due_at=now + again_in)
