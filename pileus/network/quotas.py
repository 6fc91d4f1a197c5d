"""Quotas: limits a project has, and counters of what it uses, kept in the same transaction as what they count.

A counter is one row that every creator of the project changes, so a transaction gathers what it has to count (`Tally`) and writes it
last (`settle`): the row is held for one commit only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from sqlalchemy import Integer, String, Update, and_, bindparam, delete, func, or_, select, update

from pileus.errors import BadRequest, QuotaExceeded
from pileus.network.config import Config
from pileus.network.tables import quota_limits, quota_usage
from pileus.store import Tx
from pileus.store.sql import insert_new, rows, upsert

RESOURCES = ("network", "port", "security_group", "security_group_rule", "subnet")

Tally = Counter[tuple[str, str]]
"""(Project, resource) → how many more; fewer below 0."""


def _use() -> Update:
    """Count `amount` more where the limit allows it. Built once: it is on the path of every boot."""
    project, resource = bindparam("project", type_=String), bindparam("of", type_=String)
    own = select(quota_limits.c.limit).where(quota_limits.c.project_id == project, quota_limits.c.resource == resource)
    limit = func.coalesce(own.scalar_subquery(), bindparam("default", type_=Integer))
    more = quota_usage.c.used + bindparam("amount", type_=Integer)
    mine = and_(quota_usage.c.project_id == project, quota_usage.c.resource == resource)
    return update(quota_usage).where(mine, or_(limit < 0, more <= limit)).values(used=more)


_USE = _use()
_GIVE_BACK = (
    update(quota_usage)
    .where(quota_usage.c.project_id == bindparam("project"), quota_usage.c.resource == bindparam("of"))
    .values(used=quota_usage.c.used - bindparam("amount", type_=Integer))
)


def defaults(config: Config) -> dict[str, int]:
    """Resource → limit of a project that has none of its own; -1: none."""
    quota = config.settings.quota
    return {name: getattr(quota, name) for name in RESOURCES}


_LIMITS = select(quota_limits).where(quota_limits.c.project_id == bindparam("project"))
_USED = select(quota_usage).where(quota_usage.c.project_id == bindparam("project"))


def limits(tx: Tx, config: Config, project_id: str) -> dict[str, int]:
    own = rows(tx, _LIMITS, project=project_id)
    return defaults(config) | {row["resource"]: row["limit"] for row in own}


def usage(tx: Tx, project_id: str) -> dict[str, int]:
    used = rows(tx, _USED, project=project_id)
    return dict.fromkeys(RESOURCES, 0) | {row["resource"]: row["used"] for row in used}


def projects(tx: Tx) -> list[str]:
    """Projects that have a limit of their own."""
    return list(tx.execute(select(quota_limits.c.project_id).distinct().order_by(quota_limits.c.project_id)).scalars())


def set_limits(tx: Tx, project_id: str, values: Mapping[str, int]) -> None:
    for resource, limit in values.items():
        upsert(tx, quota_limits, {"project_id": project_id, "resource": resource}, {"limit": limit})


def check_room(tx: Tx, project_id: str, values: Mapping[str, int]) -> None:
    """Raises BadRequest where a limit is below what the project uses."""
    used = usage(tx, project_id)
    below = [f"{resource}: {limit} is below {used[resource]} in use" for resource, limit in values.items() if 0 <= limit < used[resource]]
    if below:
        raise BadRequest(f"Quota limit is below current usage ({'; '.join(below)}): delete some, or leave check_limit out.")


def reset(tx: Tx, project_id: str) -> None:
    """Back to the defaults."""
    tx.execute(delete(quota_limits).where(quota_limits.c.project_id == project_id))


def use(tx: Tx, config: Config, project_id: str, resource: str, amount: int = 1) -> None:
    """Count `amount` more. Raises QuotaExceeded."""
    values = {"project": project_id, "of": resource, "amount": amount, "default": defaults(config)[resource]}
    if tx.execute(_USE, values).rowcount == 1:
        return
    insert_new(tx, quota_usage, {"project_id": project_id, "resource": resource, "used": 0})
    if tx.execute(_USE, values).rowcount != 1:
        raise exceeded(resource)


def count(tx: Tx, project_id: str, resource: str, amount: int) -> None:
    """Count `amount` more whatever the limit: for what is made without being asked for."""
    insert_new(tx, quota_usage, {"project_id": project_id, "resource": resource, "used": 0})
    give_back(tx, project_id, resource, -amount)


def give_back(tx: Tx, project_id: str, resource: str, amount: int = 1) -> None:
    tx.execute(_GIVE_BACK, {"project": project_id, "of": resource, "amount": amount})


def settle(tx: Tx, config: Config, tally: Tally) -> None:
    """Write the counters, in one order for everybody; the last thing a transaction does. Raises QuotaExceeded."""
    for (project_id, resource), amount in sorted(tally.items()):
        if amount > 0:
            use(tx, config, project_id, resource, amount)
        elif amount < 0:
            give_back(tx, project_id, resource, -amount)


def room(tx: Tx, config: Config, project_id: str, resource: str) -> int | None:
    """How many more fit; None: no limit."""
    limit = limits(tx, config, project_id)[resource]
    return None if limit < 0 else limit - usage(tx, project_id)[resource]


def exceeded(resource: str) -> QuotaExceeded:
    return QuotaExceeded(f"Quota exceeded for resources: ['{resource}'].")
