"""Lists of guests, as hosts tell them now and then, held against what is written down."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import and_, bindparam, select

from pileus.compute import actions, evacuation, outcomes
from pileus.compute.lifecycle import found
from pileus.compute.servers import by_id
from pileus.compute.tables import actions as actions_table
from pileus.compute.tables import servers
from pileus.messages import GuestNow, HostReport
from pileus.store import Tx
from pileus.store.sql import Row, rows

SETTLED = 5.0
"""Seconds after a change of a server in which a host's list may not know it yet."""

_NARROW = (
    servers.c.id,
    servers.c.host,
    servers.c.generation,
    servers.c.vm_state,
    servers.c.task_state,
    servers.c.power,
    servers.c.locked,
    servers.c.updated_at,
    servers.c.deleted_at,
)
"""What the comparison needs: no JSON, so that ten thousand of them cost little. Built once, like the statements."""
_ON = select(*_NARROW).where(servers.c.host.in_(bindparam("hosts", expanding=True)), servers.c.deleted_at.is_(None))
_THESE = (
    select(servers.c.id, servers.c.generation, servers.c.host, servers.c.deleted_at, actions_table.c.details)
    .outerjoin(actions_table, and_(actions_table.c.server_id == servers.c.id, actions_table.c.state.in_(actions.OPEN)))
    .where(servers.c.id.in_(bindparam("ids", expanding=True)))
)
"""Guests whose servers were not found where they are, with what is under way: one statement, so that a server which comes back there in
this moment is either the one or the other."""


@dataclass
class Orders:
    """What follows from reports: guests to remove (host, server id, generation), and actions that are due."""

    remove: list[tuple[str, str, int]] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)


def reconcile(tx: Tx, reports: Sequence[HostReport]) -> Orders:
    """Hold lists of guests against what is written down: one statement for all of them, and writes where something differs."""
    orders = Orders()
    on: dict[str, dict[str, Row]] = {report.host: {} for report in reports}
    for row in rows(tx, _ON, hosts=sorted(on)):
        on[row["host"]][row["id"]] = row
    strangers = {server_id for report in reports for server_id in report.guests if server_id not in on[report.host]}
    whose = {row["id"]: row for row in rows(tx, _THESE, ids=sorted(strangers))} if strangers else {}
    for report in reports:
        known = on[report.host]
        for server_id, guest in report.guests.items():
            if server_id in known:
                orders.actions.extend(_reported(tx, known[server_id], guest, report.at))
            elif not _stays(whose.get(server_id), report.host):
                # Its server is gone or lives elsewhere: at a generation that this host has not reached, and before the server's own, so
                # that the order neither stands in the way of a server that comes back here nor is answered as if it were what it waits for.
                newest = max(guest.generation + 1, whose[server_id]["generation"] - 1 if server_id in whose else 0)
                orders.remove.append((report.host, server_id, newest))
        for server_id in known.keys() - report.guests.keys():
            orders.actions.extend(_reported(tx, known[server_id], GuestNow(0, "absent"), report.at))
    return orders


def _stays(server: Row | None, host: str) -> bool:
    """Does a server need the guest that a host has, though it was found elsewhere? It came back meanwhile; or it is being evacuated from
    there, and the guest is all that there is of it until that is done: when it fails the server is where it was."""
    if server is None or server["deleted_at"] is not None:
        return False
    return server["host"] == host or (server["details"] is not None and evacuation.source_of(server) == host)


def _reported(tx: Tx, server: Row, guest: GuestNow, at: float) -> list[str]:
    if server["updated_at"] > min(at, time.time()) - SETTLED:  # a host's clock may be ahead of ours
        return []
    kind, after = found(actions.state_of(server), guest.power)
    if kind == "as told" and after.power == server["power"]:
        return []
    if actions.open_of(tx, server["id"]) is not None:
        return []
    whole = by_id(tx, server["id"])
    return [] if whole is None else outcomes.unasked(tx, whole, guest.power, "")
