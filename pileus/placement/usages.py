"""Usage of a provider, and of a project's consumers."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import Select, func, select

from pileus.placement.providers import inventories_of
from pileus.placement.tables import allocations, consumers
from pileus.store import Tx
from pileus.store.sql import Row

ALL = "all"
UNKNOWN = "unknown"
"""The type of consumers whose allocations were made without one."""


def of_provider(tx: Tx, provider: str) -> tuple[Row, dict[str, int]]:
    """The provider and what is used of each of its classes. Raises NotFound."""
    found, by_class = inventories_of(tx, provider)
    return found, {name: row["used"] for name, row in by_class.items()}


def of_project(tx: Tx, project: str, user: str | None) -> dict[str, int]:
    """Class → amount, of all consumers of a project (of one user)."""
    total = func.sum(allocations.c.used)
    statement = _of(project, user).add_columns(allocations.c.resource_class, total).group_by(allocations.c.resource_class)
    return {name: int(used) for name, used in tx.execute(statement)}


def by_type(tx: Tx, project: str, user: str | None, wanted: str | None) -> dict[str, dict[str, int]]:
    """Consumer type → class → amount, with the number of consumers as `consumer_count`. `wanted`: one type, `unknown`, or
    `all` for one sum over all types; None: each type by itself."""
    kind = func.coalesce(consumers.c.consumer_type, UNKNOWN)
    base = _of(project, user)
    if wanted not in (None, ALL):
        base = base.where(kind == wanted)
    counts = base.add_columns(kind, func.count(consumers.c.id.distinct())).group_by(kind)
    sums = base.add_columns(kind, allocations.c.resource_class, func.sum(allocations.c.used)).group_by(kind, allocations.c.resource_class)
    found: dict[str, Counter[str]] = {}
    for type_, count in tx.execute(counts):
        found.setdefault(ALL if wanted == ALL else type_, Counter())["consumer_count"] += int(count)
    for type_, name, used in tx.execute(sums):
        found[ALL if wanted == ALL else type_][name] += int(used)
    return {type_: dict(sum_) for type_, sum_ in found.items()}


def _of(project: str, user: str | None) -> Select[()]:
    statement = select().select_from(allocations.join(consumers, consumers.c.id == allocations.c.consumer_id))
    statement = statement.where(consumers.c.project_id == project)
    return statement if user is None else statement.where(consumers.c.user_id == user)
