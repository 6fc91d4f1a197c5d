"""Domains: who owns projects and users."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, select, update

from pileus.errors import Conflict, Forbidden, NotFound
from pileus.identity.listing import listed
from pileus.identity.tables import assignments, domains, projects
from pileus.store import Tx
from pileus.store.paging import Page
from pileus.store.sql import Row, first, insert_new, rows

DEFAULT = "default"


def create(tx: Tx, values: Mapping[str, Any]) -> Row:
    row = {"id": uuid.uuid4().hex, **values}
    if not insert_new(tx, domains, row):
        raise _duplicate(row["name"])
    return row


def show(tx: Tx, domain_id: str) -> Row:
    """Raises NotFound."""
    row = first(tx, select(domains).where(domains.c.id == domain_id))
    if row is None:
        raise NotFound(f"Could not find domain: {domain_id}.")
    return row


def index(tx: Tx, page: Page, filters: Mapping[str, Any]) -> list[Row]:
    """`filters`: name, enabled; None means any."""
    return listed(tx, domains, page, filters)


def of_user(tx: Tx, user_id: str) -> list[Row]:
    """The enabled domains that a user has a role on."""
    ids = select(assignments.c.scope_id).where(assignments.c.scope == "domain", assignments.c.user_id == user_id)
    return rows(tx, select(domains).where(domains.c.id.in_(ids), domains.c.enabled).order_by(domains.c.name))


def change(tx: Tx, domain_id: str, values: Mapping[str, Any], extra: Mapping[str, Any]) -> Row:
    row = show(tx, domain_id)
    if domain_id == DEFAULT and values.get("enabled") is False:
        raise Forbidden("Cannot disable the default domain: Pileus's own user lives in it.")
    name = values.get("name", row["name"])
    if first(tx, select(domains.c.id).where(domains.c.name == name, domains.c.id != domain_id)):
        raise _duplicate(name)
    changed = {**values, "extra": {**row["extra"], **extra}}
    tx.execute(update(domains).where(domains.c.id == domain_id).values(**changed))
    return {**row, **changed}


def remove(tx: Tx, domain_id: str) -> None:
    """Its projects and users, and their assignments, go with it."""
    row = show(tx, domain_id)
    if domain_id == DEFAULT:
        raise Forbidden("Cannot delete the default domain: Pileus's own user lives in it.")
    if row["enabled"]:
        raise Forbidden("Cannot delete a domain that is enabled, please disable it first.")
    inside = select(projects.c.id).where(projects.c.domain_id == domain_id)
    tx.execute(delete(assignments).where(assignments.c.scope == "project", assignments.c.scope_id.in_(inside)))
    tx.execute(delete(assignments).where(assignments.c.scope == "domain", assignments.c.scope_id == domain_id))
    tx.execute(delete(domains).where(domains.c.id == domain_id))


def _duplicate(name: str) -> Conflict:
    return Conflict(f"Conflict occurred attempting to store domain - Duplicate entry found with name {name}.")
