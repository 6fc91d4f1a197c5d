"""Servers of a host that is down are made anew elsewhere: same ports and addresses, a root disk made from the image again.

Fenced by generation: the server's new life has a later one, so nothing that the old host says counts, and when that host is back its
list of guests is answered by the order to remove this one (`reports`). Until the server runs elsewhere the old guest stays, for when the
evacuation fails the server is where it was, and its disk is nowhere else. Source: Nova's api-ref, `evacuate` of a server's actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import update

from pileus.compute import hosts, servers
from pileus.compute.tables import actions
from pileus.context import Context
from pileus.errors import BadRequest, Conflict
from pileus.settings import Compute
from pileus.store import Tx


@dataclass(frozen=True)
class Wish:
    """`host`: the only one that will do; `force`: even a disabled one. `leave_stopped`: do not start the server there."""

    host: str | None = None
    force: bool = False
    leave_stopped: bool = False


def begin(tx: Tx, settings: Compute, context: Context, server_id: str, wish: Wish, *, limit: float) -> str:
    """Accept the evacuation of a server; its action's id.

    Raises NotFound, Conflict (the server's state forbids it), BadRequest (its host is up; the named host is unknown or the same).
    """
    server = servers.get(tx, context, server_id)
    source = server["host"]
    stopped = wish.leave_stopped or server["vm_state"] == "stopped"
    if source is None:
        raise Conflict(f"Cannot 'evacuate' instance {server_id}: it is on no host")
    if wish.host is not None and hosts.by_name(tx, wish.host) is None:
        raise BadRequest(f"Compute host {wish.host} could not be found.")
    if wish.host == source:
        raise BadRequest(f"The target host can't be the same one: {source}")
    action_id = servers.act(tx, context, server_id, "evacuate_stopped" if stopped else "evacuate", limit=limit, hard=True)
    row = hosts.by_name(tx, source)
    if row is not None and hosts.is_up(row, settings):
        raise BadRequest(f"Compute service of {source} is still in use. Force it down first if nothing runs there any more.")
    details = {"from": source, "host": wish.host, "force": wish.force}
    tx.execute(update(actions).where(actions.c.id == action_id).values(tried=[source], details=details))
    return action_id


def source_of(action: Mapping[str, Any]) -> str | None:
    """The host that an action takes a server away from; None for all but evacuations."""
    source: str | None = action["details"].get("from")
    return source


def target_of(action: Mapping[str, Any], server: Mapping[str, Any]) -> tuple[str | None, bool]:
    """The one host asked for (None: any), and whether it may be a disabled one."""
    if source_of(action) is not None:
        return action["details"]["host"], action["details"]["force"]
    return server["forced_host"], bool(server["forced_host"])
