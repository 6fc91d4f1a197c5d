"""Who has which role where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import Select, delete, select

from pileus.errors import Forbidden, NotFound
from pileus.identity import domains, projects, roles, users
from pileus.identity import tables as t
from pileus.store import Tx
from pileus.store.sql import Row, insert_new, rows

Kind = Literal["project", "domain"]
Names = dict[str, tuple[str, str | None]]
"""Id → (name, the id of the domain it is in)."""


@dataclass(frozen=True)
class Assignment:
    """`prior_id`: the role that brought this one along; None for one that was given."""

    user_id: str
    scope: Kind
    scope_id: str
    role_id: str
    prior_id: str | None = None


def grant(tx: Tx, given: Assignment) -> None:
    """Raises NotFound for a user, project, domain or role that is not there. Again is fine."""
    _check_parts(tx, given)
    insert_new(tx, t.assignments, _key(given))


def revoke(tx: Tx, given: Assignment) -> None:
    """Raises NotFound if it was not given."""
    user = _check_parts(tx, given)
    if users.is_service(user) and given.scope == "project" and projects.is_service(projects.show(tx, given.scope_id)):
        raise Forbidden(f"Cannot take a role in the project {projects.SERVICE} from the user {users.SERVICE}: Pileus itself needs it.")
    table = t.assignments.c
    found = tx.execute(
        delete(t.assignments).where(
            table.user_id == given.user_id,
            table.scope == given.scope,
            table.scope_id == given.scope_id,
            table.role_id == given.role_id,
        )
    )
    if found.rowcount == 0:
        raise _missing(given)


def check(tx: Tx, given: Assignment) -> None:
    """Raises NotFound if the role was not given itself (being implied is not enough)."""
    _check_parts(tx, given)
    if given.role_id not in tx.execute(_given(given.user_id, given.scope, given.scope_id)).scalars().all():
        raise _missing(given)


def of(tx: Tx, user_id: str, scope: Kind, scope_id: str) -> list[Row]:
    """The roles that were given to a user in a scope. Raises NotFound for a user or scope that is not there."""
    users.show(tx, user_id)
    _SCOPES[scope](tx, scope_id)
    return rows(tx, select(t.roles).where(t.roles.c.id.in_(_given(user_id, scope, scope_id))).order_by(t.roles.c.name))


def effective_roles(tx: Tx, user_id: str, scope: Kind, scope_id: str) -> dict[str, str]:
    """Id → name of the roles that a user has in a scope, implied ones too."""
    ids = roles.closure(tx.execute(_given(user_id, scope, scope_id)).scalars(), roles.direct(tx))
    found = rows(tx, select(t.roles.c.id, t.roles.c.name).where(t.roles.c.id.in_(ids)).order_by(t.roles.c.name)) if ids else []
    return {row["id"]: row["name"] for row in found}


def index(
    tx: Tx, *, effective: bool, role_id: str | None, user_id: str | None, scope: Kind | None, scope_id: str | None
) -> list[Assignment]:
    """All assignments that fit. `effective` adds the implied ones, and then `role_id` finds these as well."""
    table = t.assignments.c
    wanted = {table.user_id: user_id, table.scope: scope, table.scope_id: scope_id, table.role_id: None if effective else role_id}
    where = [column == value for column, value in wanted.items() if value is not None]
    given = select(t.assignments).where(*where).order_by(table.scope, table.scope_id, table.user_id, table.role_id)
    found = [Assignment(**row) for row in rows(tx, given)]
    if effective:
        implied = roles.implied_by(tx)
        found = [each for direct in found for each in _with_implied(direct, implied)]
    return [each for each in found if role_id in (None, each.role_id)]


def names(tx: Tx, found: list[Assignment]) -> Names:
    """Of every role, user, project and domain in `found`, and of the domains of those."""
    known: Names = {row["id"]: (row["name"], None) for table in (t.roles, t.domains) for row in rows(tx, select(table.c.id, table.c.name))}
    for table, ids in ((t.users, {each.user_id for each in found}), (t.projects, {each.scope_id for each in found})):
        for some in _chunks(sorted(ids)):
            for row in rows(tx, select(table.c.id, table.c.name, table.c.domain_id).where(table.c.id.in_(some))):
                known[row["id"]] = (row["name"], row["domain_id"])
    return known


def _with_implied(given: Assignment, implied: roles.Implied) -> list[Assignment]:
    more = sorted(implied.get(given.role_id, frozenset()))
    return [given, *[replace(given, role_id=role, prior_id=given.role_id) for role in more]]


def _given(user_id: str, scope: Kind, scope_id: str) -> Select[str]:
    table = t.assignments.c
    return select(table.role_id).where(table.user_id == user_id, table.scope == scope, table.scope_id == scope_id)


_SCOPES = {"project": projects.show, "domain": domains.show}


def _check_parts(tx: Tx, given: Assignment) -> Row:
    """The user."""
    user = users.show(tx, given.user_id)
    _SCOPES[given.scope](tx, given.scope_id)
    roles.show(tx, given.role_id)
    return user


def _key(given: Assignment) -> Mapping[str, str]:
    return {"user_id": given.user_id, "scope": given.scope, "scope_id": given.scope_id, "role_id": given.role_id}


def _missing(given: Assignment) -> NotFound:
    return NotFound(f"Could not find role assignment with role: {given.role_id}, user: {given.user_id}, {given.scope}: {given.scope_id}.")


def _chunks(ids: list[str], size: int = 500) -> list[list[str]]:
    return [ids[i : i + size] for i in range(0, len(ids), size)]
