"""Roles and which of them imply others."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import delete, select, update

from pileus.errors import Conflict, Forbidden, NotFound
from pileus.identity.listing import listed
from pileus.identity.tables import implications, roles
from pileus.store import Tx
from pileus.store.paging import Page
from pileus.store.sql import Row, first, insert_new, rows

BUILT_IN = ("admin", "member", "reader", "service")
IMPLIED = {"admin": "member", "member": "reader"}
"""Made at the first start: every role of ours that brings another along."""

Implied = Mapping[str, frozenset[str]]


def create(tx: Tx, values: Mapping[str, Any]) -> Row:
    row = {"id": uuid.uuid4().hex, **values}
    if not insert_new(tx, roles, row):
        raise _duplicate(row["name"])
    return row


def show(tx: Tx, role_id: str) -> Row:
    """Raises NotFound."""
    row = first(tx, select(roles).where(roles.c.id == role_id))
    if row is None:
        raise NotFound(f"Could not find role: {role_id}.")
    return row


def index(tx: Tx, page: Page, name: str | None) -> list[Row]:
    return listed(tx, roles, page, {"name": name})


def change(tx: Tx, role_id: str, values: Mapping[str, Any], extra: Mapping[str, Any]) -> Row:
    row = show(tx, role_id)
    _refuse_built_in(row, "update")
    name = values.get("name", row["name"])
    if first(tx, select(roles.c.id).where(roles.c.name == name, roles.c.id != role_id)):
        raise _duplicate(name)
    changed = {**values, "extra": {**row["extra"], **extra}}
    tx.execute(update(roles).where(roles.c.id == role_id).values(**changed))
    return {**row, **changed}


def remove(tx: Tx, role_id: str) -> None:
    """Its assignments and implications go with it."""
    _refuse_built_in(show(tx, role_id), "delete")
    tx.execute(delete(roles).where(roles.c.id == role_id))


def ensure_built_in(tx: Tx) -> dict[str, str]:
    """Name → id of the built-in roles, made where they are missing."""
    for name in BUILT_IN:
        insert_new(tx, roles, {"id": uuid.uuid4().hex, "name": name, "description": None, "extra": {}})
    ids = {row["name"]: row["id"] for row in rows(tx, select(roles).where(roles.c.name.in_(BUILT_IN)))}
    for prior, implied in IMPLIED.items():
        insert_new(tx, implications, {"prior_id": ids[prior], "implied_id": ids[implied]})
    return ids


def implied_by(tx: Tx) -> Implied:
    """Role id → ids of all that it brings along, directly or not."""
    known = direct(tx)
    return {prior: closure({prior}, known) - {prior} for prior in known}


def direct(tx: Tx) -> dict[str, set[str]]:
    """Role id → ids of those that it implies itself."""
    found: dict[str, set[str]] = {}
    for row in rows(tx, select(implications)):
        found.setdefault(row["prior_id"], set()).add(row["implied_id"])
    return found


def closure(start: Iterable[str], implied: Mapping[str, Iterable[str]]) -> frozenset[str]:
    """`start` and everything reachable from it by `direct` implications."""
    found: set[str] = set()
    open_ends = list(start)
    while open_ends:
        role = open_ends.pop()
        if role not in found:
            found.add(role)
            open_ends.extend(implied.get(role, ()))
    return frozenset(found)


def inferences(tx: Tx) -> list[tuple[Row, list[Row]]]:
    """Each role that implies others, with those that it implies directly."""
    by_id = {row["id"]: row for row in rows(tx, select(roles))}
    return [(by_id[prior], [by_id[role] for role in sorted(implied)]) for prior, implied in direct(tx).items()]


def _refuse_built_in(row: Row, verb: str) -> None:
    if row["name"] in BUILT_IN:
        raise Forbidden(f"Cannot {verb} immutable role {row['id']}: {row['name']} is one that Pileus itself relies on.")


def _duplicate(name: str) -> Conflict:
    return Conflict(f"Conflict occurred attempting to store role - Duplicate entry found with name {name}.")
