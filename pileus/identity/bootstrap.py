"""The first start: the default domain, the roles, an admin, and Pileus's own user. Again it only mends what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from pileus.identity import assignments, domains, projects, roles, users
from pileus.identity import tables as t
from pileus.identity.assignments import Assignment
from pileus.store import Tx, paging
from pileus.store.sql import first, insert_new, upsert

ADMIN = "admin"
"""The first user's name, and the first project's."""
PASSWORD, DONE = "admin-password", "first-start"
"""Marks: the admin was given a password; the first start is over."""


@dataclass(frozen=True)
class Bootstrapped:
    """`made_admin`: the admin was not there, and has the given password now; otherwise the password stays what it is."""

    admin_id: str
    admin_project_id: str
    service_id: str
    service_project_id: str
    made_admin: bool


def run(tx: Tx, admin_hash: str, service_hash: str, place: str, now: float) -> Bootstrapped:
    insert_new(
        tx,
        t.domains,
        {"id": domains.DEFAULT, "name": "Default", "description": "The default domain", "enabled": True, "extra": {}},
    )
    role = roles.ensure_built_in(tx)
    project_ids = {name: _project(tx, name, text) for name, text in ((ADMIN, "The cloud's admins"), (projects.SERVICE, "Pileus itself"))}
    had_admin = users.by_name(tx, domains.DEFAULT, ADMIN) is not None
    admin_id = _user(tx, ADMIN, admin_hash)
    service_id = _user(tx, users.SERVICE, service_hash)
    assignments.grant(tx, Assignment(admin_id, "project", project_ids[ADMIN], role["admin"]))
    assignments.grant(tx, Assignment(service_id, "project", project_ids[projects.SERVICE], role["service"]))
    if not had_admin:
        upsert(tx, t.marks, {"name": PASSWORD}, {"place": place, "at": now})
    return Bootstrapped(admin_id, project_ids[ADMIN], service_id, project_ids[projects.SERVICE], not had_admin)


def is_done(tx: Tx) -> bool:
    """Is the first start over? What a user removes after it stays removed."""
    return first(tx, select(t.marks.c.name).where(t.marks.c.name == DONE)) is not None


def done(tx: Tx, place: str, now: float) -> None:
    insert_new(tx, t.marks, {"name": DONE, "place": place, "at": now})


def was_run(tx: Tx) -> bool:
    """Has `run` been here, ever?"""
    return first(tx, select(t.domains.c.id).limit(1)) is not None


def password_place(tx: Tx) -> str:
    """Where the admin's first password is to be found, as `run` was told; empty when it is not known."""
    found = first(tx, select(t.marks.c.place).where(t.marks.c.name == PASSWORD))
    return found["place"] if found is not None else ""


def _project(tx: Tx, name: str, description: str) -> str:
    found = projects.index(tx, paging.Page(), {"name": name, "domain_id": domains.DEFAULT})
    if found:
        return str(found[0]["id"])
    values: dict[str, Any] = {
        "domain_id": domains.DEFAULT,
        "parent_id": None,
        "name": name,
        "description": description,
        "enabled": True,
        "extra": {},
    }
    return str(projects.create(tx, values)["id"])


def _user(tx: Tx, name: str, hashed: str) -> str:
    found = users.by_name(tx, domains.DEFAULT, name)
    if found is not None:
        return str(found["id"])
    values: dict[str, Any] = {
        "domain_id": domains.DEFAULT,
        "name": name,
        "password_hash": hashed,
        "enabled": True,
        "default_project_id": None,
        "extra": {},
    }
    return str(users.create(tx, values)["id"])
