"""Flavors: the sizes of servers. Made by admins, seen by everyone or by the projects that were given access."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select, update

from pileus.compute.tables import flavor_access, flavors
from pileus.context import Context
from pileus.errors import Conflict, NotFound
from pileus.store import Tx
from pileus.store.paging import Page, fetch
from pileus.store.sql import Row, first, insert_new

SNAPSHOT = ("id", "name", "ram", "vcpus", "disk", "ephemeral", "swap", "extra_specs")

SORTABLE: dict[str, ColumnElement[Any]] = {
    "flavorid": flavors.c.id,
    "id": flavors.c.id,
    "name": flavors.c.name,
    "memory_mb": flavors.c.ram,
    "vcpus": flavors.c.vcpus,
    "root_gb": flavors.c.disk,
    "ephemeral_gb": flavors.c.ephemeral,
    "swap": flavors.c.swap,
    "rxtx_factor": flavors.c.rxtx_factor,
    "is_public": flavors.c.is_public,
    "created_at": flavors.c.created_at,
}


def create(
    tx: Tx,
    *,
    name: str,
    ram: int,
    vcpus: int,
    disk: int,
    flavor_id: str | None = None,
    rxtx_factor: float = 1.0,
    is_public: bool = True,
    description: str | None = None,
) -> Row:
    """A new flavor: `ram` in MiB, `disk` in GiB (0: as large as the image). Raises Conflict where id or name is taken."""
    row = {
        "id": flavor_id or str(uuid.uuid4()),
        "name": name,
        "ram": ram,
        "vcpus": vcpus,
        "disk": disk,
        "ephemeral": 0,
        "swap": 0,
        "rxtx_factor": rxtx_factor,
        "is_public": is_public,
        "description": description,
        "extra_specs": {},
        "created_at": time.time(),
    }
    if not insert_new(tx, flavors, row):
        same_id = first(tx, select(flavors.c.id).where(flavors.c.id == row["id"]))
        raise Conflict(f"Flavor with ID {row['id']} already exists." if same_id else f"Flavor with name {name} already exists.")
    return row


def get(tx: Tx, context: Context, flavor_id: str) -> Row:
    """Raises NotFound, also for a flavor that the caller's project has no access to."""
    row = first(tx, select(flavors).where(flavors.c.id == flavor_id, _visible(context)))
    if row is None:
        raise NotFound(f"Flavor {flavor_id} could not be found.")
    return row


def page(
    tx: Tx, context: Context, wanted: Page, *, is_public: bool | None = True, min_ram: int | None = None, min_disk: int | None = None
) -> list[Row]:
    """One page. `is_public` None: all that there are (admins); others see the public ones and those given to their project."""
    where = [_visible(context)]
    if context.is_admin and is_public is not None:
        where.append(_listed(context) if is_public else flavors.c.is_public.is_(False))
    if min_ram is not None:
        where.append(flavors.c.ram >= min_ram)
    if min_disk is not None:
        where.append(flavors.c.disk >= min_disk)
    return fetch(tx, select(flavors).where(*where), wanted, id_column=flavors.c.id, sortable=SORTABLE)


def describe(tx: Tx, context: Context, flavor_id: str, description: str | None) -> Row:
    row = get(tx, context, flavor_id)
    tx.execute(update(flavors).where(flavors.c.id == flavor_id).values(description=description))
    return row | {"description": description}


def delete(tx: Tx, flavor_id: str) -> None:
    """Servers keep their own copy. Raises NotFound."""
    if tx.execute(flavors.delete().where(flavors.c.id == flavor_id)).rowcount == 0:
        raise NotFound(f"Flavor {flavor_id} could not be found.")


def add_specs(tx: Tx, context: Context, flavor_id: str, specs: Mapping[str, str]) -> dict[str, str]:
    row = get(tx, context, flavor_id)
    return _set_specs(tx, flavor_id, {**row["extra_specs"], **specs})


def remove_spec(tx: Tx, context: Context, flavor_id: str, key: str) -> None:
    """Raises NotFound."""
    specs = dict(get(tx, context, flavor_id)["extra_specs"])
    if specs.pop(key, None) is None:
        raise NotFound(f"Flavor {flavor_id} has no extra specs with key {key}.")
    _set_specs(tx, flavor_id, specs)


def projects(tx: Tx, flavor_id: str) -> list[str]:
    """The projects that were given access to a flavor."""
    found = tx.execute(
        select(flavor_access.c.project_id).where(flavor_access.c.flavor_id == flavor_id).order_by(flavor_access.c.project_id)
    )
    return list(found.scalars())


def give(tx: Tx, context: Context, flavor_id: str, project_id: str, *, private_only: bool) -> list[str]:
    """Give a project access. Raises NotFound and Conflict (it has it already, or the flavor is public with `private_only`)."""
    row = get(tx, context, flavor_id)
    if private_only and row["is_public"]:
        raise Conflict("Can not add access to a public flavor.")
    if not insert_new(tx, flavor_access, {"flavor_id": flavor_id, "project_id": project_id}):
        raise Conflict(f"Flavor access already exists for flavor {flavor_id} and project {project_id} combination.")
    return projects(tx, flavor_id)


def take_back(tx: Tx, context: Context, flavor_id: str, project_id: str) -> list[str]:
    """Raises NotFound."""
    get(tx, context, flavor_id)
    which = and_(flavor_access.c.flavor_id == flavor_id, flavor_access.c.project_id == project_id)
    if tx.execute(flavor_access.delete().where(which)).rowcount == 0:
        raise NotFound(f"Flavor access not found for {flavor_id} / {project_id} combination.")
    return projects(tx, flavor_id)


def snapshot(row: Mapping[str, Any]) -> dict[str, Any]:
    """The copy that a server keeps of its flavor."""
    return {key: row[key] for key in SNAPSHOT}


def _set_specs(tx: Tx, flavor_id: str, specs: dict[str, str]) -> dict[str, str]:
    tx.execute(update(flavors).where(flavors.c.id == flavor_id).values(extra_specs=specs))
    return specs


def _listed(context: Context) -> ColumnElement[bool]:
    given = select(flavor_access.c.flavor_id).where(flavor_access.c.project_id == (context.project_id or ""))
    return or_(flavors.c.is_public, flavors.c.id.in_(given))


def _visible(context: Context) -> ColumnElement[bool]:
    return flavors.c.id.is_not(None) if context.is_admin else _listed(context)
