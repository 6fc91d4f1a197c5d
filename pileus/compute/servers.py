"""Servers: found, listed, changed, and told what to become. Transaction functions; what takes time is the worker's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, func, select, update

from pileus.compute import actions
from pileus.compute.lifecycle import VERBS, begin, refusal, status
from pileus.compute.tables import servers
from pileus.context import Context
from pileus.errors import Conflict, Forbidden, NotFound
from pileus.store import Tx
from pileus.store.paging import Page, fetch
from pileus.store.sql import Row, first, rows

_CHANGE = update(servers).where(servers.c.id == bindparam("this"))
_BY_ID = select(servers).where(servers.c.id == bindparam("id"))
_LOCKED = _BY_ID.with_for_update()


def by_id(tx: Tx, server_id: str) -> Row | None:
    return first(tx, _BY_ID, id=server_id)


def get(tx: Tx, context: Context, server_id: str, *, deleted: bool = False, locked: bool = False) -> Row:
    """`locked`: nobody else changes it in this transaction's time. Raises NotFound, also for another project's server."""
    row = first(tx, _LOCKED if locked else _BY_ID, id=server_id)
    if row is None or not context.sees(row["project_id"]) or (row["deleted_at"] is not None and not deleted):
        raise NotFound(f"Instance {server_id} could not be found.")
    return row


def find(tx: Tx, context: Context, ref: str) -> Row:
    """A server by id, else by name: one that is there before one that was deleted. Raises NotFound, Conflict (several are named so)."""
    try:
        return get(tx, context, ref, deleted=True)
    except NotFound:
        pass
    named = select(servers).where(servers.c.name == ref).order_by(servers.c.created_at.desc())
    if not context.is_admin:
        named = named.where(servers.c.project_id == context.project_id)
    alive = rows(tx, named.where(servers.c.deleted_at.is_(None)).limit(10))
    if len(alive) > 1:
        raise Conflict(f"More than one server is named {ref!r}; ask by id: {', '.join(row['id'] for row in alive)}")
    found = alive or rows(tx, named.limit(1))
    if not found:
        raise NotFound(f"There is no server with the id or name {ref!r}.")
    return found[0]


def count_by_status(tx: Tx) -> dict[str, int]:
    """The API's status word → how many servers there are of it."""
    states = (servers.c.vm_state, servers.c.task_state)
    counts: dict[str, int] = {}
    for row in rows(tx, select(*states, func.count().label("count")).where(servers.c.deleted_at.is_(None)).group_by(*states)):
        word = status(row["vm_state"], row["task_state"])
        counts[word] = counts.get(word, 0) + row["count"]
    return counts


SORTABLE: dict[str, ColumnElement[Any]] = {
    "id": servers.c.id,
    "uuid": servers.c.id,
    "created_at": servers.c.created_at,
    "updated_at": servers.c.updated_at,
    "display_name": servers.c.name,
    "name": servers.c.name,
    "vm_state": servers.c.vm_state,
    "task_state": func.coalesce(servers.c.task_state, ""),
    "host": func.coalesce(servers.c.host, ""),
    "node": func.coalesce(servers.c.host, ""),
    "project_id": servers.c.project_id,
    "user_id": servers.c.user_id,
    "launched_at": func.coalesce(servers.c.launched_at, 0.0),
    "key_name": func.coalesce(servers.c.key_name, ""),
    "image_ref": func.coalesce(servers.c.image_id, ""),
    "availability_zone": func.coalesce(servers.c.zone, ""),
    "power_state": servers.c.power,
    "display_description": func.coalesce(servers.c.description, ""),
    "instance_type_id": servers.c.flavor["id"].as_string(),
    "launch_index": servers.c.launch_index,
    "config_drive": servers.c.config_drive,
    "locked": servers.c.locked,
    "hostname": servers.c.hostname,
    "access_ip_v4": func.coalesce(servers.c.access_ip_v4, ""),
    "access_ip_v6": func.coalesce(servers.c.access_ip_v6, ""),
    "auto_disk_config": servers.c.auto_disk_config,
    "locked_by": func.coalesce(servers.c.locked_by, ""),
    "terminated_at": func.coalesce(servers.c.deleted_at, 0.0),
}


def page(
    tx: Tx, where: Sequence[ColumnElement[bool]], wanted: Page, *, columns: Sequence[ColumnElement[Any]] = (), deleted: bool = False
) -> list[Row]:
    """One page of servers, all columns or those given. `where` scopes and filters; deleted ones are left out unless told."""
    alive = () if deleted else (servers.c.deleted_at.is_(None),)
    statement: Select[Any] = select(*(columns or servers.c)).where(*where, *alive)
    return fetch(tx, statement, wanted, id_column=servers.c.id, sortable=SORTABLE)


def change(tx: Tx, context: Context, server_id: str, /, **values: Any) -> Row:
    """Change what is only written down (name, description, metadata, lock). Raises NotFound."""
    get(tx, context, server_id)
    tx.execute(update(servers).where(servers.c.id == server_id).values(updated_at=time.time(), **values))
    return get(tx, context, server_id)


def lock(tx: Tx, context: Context, server_id: str, reason: str | None) -> None:
    """Only an admin or a caller's unlock may then act on it. Raises NotFound."""
    get(tx, context, server_id)
    change(tx, context, server_id, locked=True, locked_by="admin" if context.is_admin else "owner", locked_reason=reason)


def unlock(tx: Tx, context: Context, server_id: str) -> None:
    """Raises NotFound, and Forbidden where an admin locked it and another caller unlocks."""
    if get(tx, context, server_id)["locked_by"] == "admin" and not context.is_admin:
        raise Forbidden("The server was locked by an administrator; only one may unlock it.")
    change(tx, context, server_id, locked=False, locked_by=None, locked_reason=None)


def reset_state(tx: Tx, context: Context, server_id: str, vm_state: str) -> None:
    """An admin says what a server is (`active` or `error`); whatever was under way on it is over.

    Raises NotFound, and Conflict for `active` where no host has the server.
    """
    server = get(tx, context, server_id, locked=True)
    if vm_state == "active" and server["host"] is None:
        raise Conflict(f"Instance {server_id} is on no host, so it cannot be active; reset it to error or delete it")
    under_way = actions.open_of(tx, server_id, locked=True)
    if under_way is not None:
        actions.overtake(tx, under_way, "os-resetState")
    change(tx, context, server_id, vm_state=vm_state, task_state=None)


def act(tx: Tx, context: Context, server_id: str, verb_name: str, *, limit: float, hard: bool = False) -> str:
    """Accept a verb: the server's new generation and a due action; the action's id.

    Raises NotFound, and Conflict in OpenStack's words where the server's state forbids it. A delete of what is being deleted is
    taken again without effect: the id of the action under way.
    """
    server = get(tx, context, server_id, locked=True)
    verb = VERBS[verb_name]
    state = actions.state_of(server)
    if state.locked and not context.is_admin:
        raise Conflict(f"Instance {server_id} is locked")
    if (why := refusal(verb, state, server_id)) is not None:
        raise Conflict(why)
    under_way = actions.open_of(tx, server_id, locked=True)
    if under_way is not None and under_way["name"] == "delete":
        return str(under_way["id"])
    if under_way is not None:
        actions.overtake(tx, under_way, verb.name)
    after = begin(verb, state)
    values = {"task_state": after.task_state, "generation": after.generation, "updated_at": time.time()}
    tx.execute(_CHANGE, {"this": server_id, **values})
    return actions.new(tx, context, verb, server | values, hard=hard, limit=limit)
