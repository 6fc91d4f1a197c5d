"""Projects: a tree in each domain, whose top is the domain itself."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, exists, select, update

from pileus.errors import BadRequest, Conflict, Forbidden, NotFound
from pileus.identity import domains, tables
from pileus.identity.listing import listed
from pileus.identity.tables import assignments, projects
from pileus.store import Tx
from pileus.store.paging import Page
from pileus.store.sql import Row, first, insert_new, rows

SERVICE = "service"
"""The project of Pileus's own user, in the default domain."""
MAX_DEPTH = 5
"""Levels of the tree, the domain counted as the first."""


def create(tx: Tx, values: Mapping[str, Any]) -> Row:
    """`values`: every column but the id; `parent_id` and `domain_id` may be None: the parent's, the domain's, the default."""
    parent_id = values["parent_id"] or values["domain_id"] or domains.DEFAULT
    parent = first(tx, select(projects).where(projects.c.id == parent_id))
    domain_id = parent["domain_id"] if parent is not None else parent_id
    domains.show(tx, domain_id)
    if values["domain_id"] not in (None, domain_id):
        raise BadRequest(f"The parent project {parent_id} is not in the domain {values['domain_id']}.")
    if parent is not None:
        above = [parent, *_ancestors(tx, parent)]
        if len(above) + 2 > MAX_DEPTH:
            raise Forbidden(f"Max hierarchy depth reached for {parent_id} branch: {MAX_DEPTH} levels, the domain counted.")
        if values["enabled"] and not all(row["enabled"] for row in above):
            raise BadRequest("Cannot create an enabled project below a disabled one.")
    row = {"id": uuid.uuid4().hex, **values, "domain_id": domain_id, "parent_id": parent_id}
    if not insert_new(tx, projects, row):
        raise _duplicate(row)
    return row


def show(tx: Tx, project_id: str) -> Row:
    """Raises NotFound."""
    row = first(tx, select(projects).where(projects.c.id == project_id))
    if row is None:
        raise NotFound(f"Could not find project: {project_id}.")
    return row


def index(tx: Tx, page: Page, filters: Mapping[str, Any]) -> list[Row]:
    """`filters`: name, domain_id, parent_id, enabled; None means any."""
    return listed(tx, projects, page, filters)


def of_user(tx: Tx, user_id: str, *, enabled_only: bool) -> list[Row]:
    """The projects that a user has a role on."""
    ids = select(assignments.c.scope_id).where(assignments.c.scope == "project", assignments.c.user_id == user_id)
    statement = select(projects).where(projects.c.id.in_(ids)).order_by(projects.c.name, projects.c.id)
    if enabled_only:
        alive = select(tables.domains.c.id).where(tables.domains.c.enabled)
        statement = statement.where(projects.c.enabled, projects.c.domain_id.in_(alive))
    return rows(tx, statement)


def change(tx: Tx, project_id: str, values: Mapping[str, Any], extra: Mapping[str, Any]) -> Row:
    """`domain_id` and `parent_id` may only be repeated. Raises Forbidden where the tree forbids the change."""
    row = show(tx, project_id)
    if values.get("domain_id", row["domain_id"]) != row["domain_id"]:
        raise BadRequest("Update of `domain_id` is not allowed.")
    if values.get("parent_id", row["parent_id"]) != row["parent_id"]:
        raise Forbidden("Update of `parent_id` is not allowed.")
    if "enabled" in values and values["enabled"] != row["enabled"]:
        _check_switch(tx, row, values["enabled"])
    name = values.get("name", row["name"])
    if is_service(row) and name != row["name"]:
        raise Forbidden("Cannot rename the service project: Pileus's own user works in it.")
    taken = select(projects.c.id).where(projects.c.domain_id == row["domain_id"], projects.c.name == name, projects.c.id != project_id)
    if first(tx, taken):
        raise _duplicate({**row, "name": name})
    changed = {**values, "extra": {**row["extra"], **extra}}
    tx.execute(update(projects).where(projects.c.id == project_id).values(**changed))
    return {**row, **changed}


def remove(tx: Tx, project_id: str) -> None:
    """Its assignments go with it, and so do tokens for it."""
    row = show(tx, project_id)
    if is_service(row):
        raise Forbidden("Cannot delete the service project: Pileus's own user works in it.")
    if first(tx, select(projects.c.id).where(projects.c.parent_id == project_id).limit(1)):
        raise Forbidden(f"Cannot delete the project {project_id} since it is not a leaf in the hierarchy.")
    tx.execute(delete(assignments).where(assignments.c.scope == "project", assignments.c.scope_id == project_id))
    tx.execute(delete(projects).where(projects.c.id == project_id))


def is_service(row: Row) -> bool:
    return bool(row["domain_id"] == domains.DEFAULT and row["name"] == SERVICE)


def _check_switch(tx: Tx, row: Row, enabled: bool) -> None:
    if enabled:
        if not all(above["enabled"] for above in _ancestors(tx, row)):
            raise Forbidden(f"Cannot enable project {row['id']} since it has disabled parents.")
        return
    if is_service(row):
        raise Forbidden("Cannot disable the service project: Pileus's own user works in it.")
    # an enabled project never has a disabled parent, so the direct children are enough
    if first(tx, select(1).where(exists().where(projects.c.parent_id == row["id"], projects.c.enabled))):
        raise Forbidden(f"Cannot disable project {row['id']} since its subtree contains enabled projects.")


def _ancestors(tx: Tx, row: Row) -> list[Row]:
    """The nearest first, without the domain."""
    found: list[Row] = []
    while (above := first(tx, select(projects).where(projects.c.id == row["parent_id"]))) is not None:
        found.append(above)
        row = above
    return found


def _duplicate(row: Row) -> Conflict:
    return Conflict(
        f"Conflict occurred attempting to store project - Duplicate entry found with name {row['name']} at domain ID {row['domain_id']}."
    )
