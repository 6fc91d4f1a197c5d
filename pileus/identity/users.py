"""Users: who can log in."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, select, update

from pileus.errors import BadRequest, Conflict, Forbidden, NotFound
from pileus.identity import domains
from pileus.identity.listing import listed
from pileus.identity.tables import users
from pileus.store import Tx
from pileus.store.paging import Page
from pileus.store.sql import Row, first, insert_new

SERVICE = "pileus"
"""Pileus's own user, in the default domain."""


def create(tx: Tx, values: Mapping[str, Any]) -> Row:
    """`values`: every column but the id and the epoch. Raises NotFound (no such domain) or Conflict."""
    domains.show(tx, values["domain_id"])
    row = {"id": uuid.uuid4().hex, **values, "token_epoch": 0}
    if not insert_new(tx, users, row):
        raise _duplicate(row)
    return row


def show(tx: Tx, user_id: str) -> Row:
    """Raises NotFound."""
    row = first(tx, select(users).where(users.c.id == user_id))
    if row is None:
        raise NotFound(f"Could not find user: {user_id}.")
    return row


def by_name(tx: Tx, domain_id: str, name: str) -> Row | None:
    return first(tx, select(users).where(users.c.domain_id == domain_id, users.c.name == name))


def index(tx: Tx, page: Page, filters: Mapping[str, Any]) -> list[Row]:
    """`filters`: name, domain_id, enabled; None means any."""
    return listed(tx, users, page, filters)


def change(tx: Tx, user_id: str, values: Mapping[str, Any], extra: Mapping[str, Any]) -> Row:
    """A new password, and being disabled, end all tokens that the user has."""
    row = show(tx, user_id)
    if values.get("domain_id", row["domain_id"]) != row["domain_id"]:
        raise BadRequest("Update of `domain_id` is not allowed.")
    name = values.get("name", row["name"])
    if is_service(row) and (name != row["name"] or values.get("enabled") is False):
        raise Forbidden(f"Cannot rename or disable the user {SERVICE}: Pileus itself works as this user.")
    if first(tx, select(users.c.id).where(users.c.domain_id == row["domain_id"], users.c.name == name, users.c.id != user_id)):
        raise _duplicate({**row, "name": name})
    changed = {**values, "extra": {**row["extra"], **extra}}
    if "password_hash" in values or values.get("enabled") is False:
        changed["token_epoch"] = row["token_epoch"] + 1
    tx.execute(update(users).where(users.c.id == user_id).values(**changed))
    return {**row, **changed}


def change_password(tx: Tx, user_id: str, old_hash: str | None, new_hash: str) -> bool:
    """Whether the password was still the one that was checked."""
    row = show(tx, user_id)
    if row["password_hash"] != old_hash:
        return False
    change(tx, user_id, {"password_hash": new_hash}, {})
    return True


def remove(tx: Tx, user_id: str) -> None:
    """The user's assignments go too, and so do all tokens."""
    if is_service(show(tx, user_id)):
        raise Forbidden(f"Cannot delete the user {SERVICE}: Pileus itself works as this user.")
    tx.execute(delete(users).where(users.c.id == user_id))


def is_service(row: Row) -> bool:
    return bool(row["domain_id"] == domains.DEFAULT and row["name"] == SERVICE)


def _duplicate(row: Row) -> Conflict:
    return Conflict(
        f"Conflict occurred attempting to store user - Duplicate entry found with name {row['name']} at domain ID {row['domain_id']}."
    )
