"""A project's limits and what it uses of them. Usage is a counter row, changed in the transaction that uses: O(1), never over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, bindparam, case, delete, func, or_, select, update

from pileus.compute.tables import admission, quotas, usage
from pileus.errors import BadRequest, QuotaExceeded
from pileus.settings import Quota
from pileus.store import Tx
from pileus.store.sql import first, insert_new, upsert

RESOURCES = ("instances", "cores", "ram", "key_pairs", "metadata_items")
COUNTED = ("instances", "cores", "ram")

_NO_LIMIT = 2**62
_LIMITS = select(quotas.c.resource, quotas.c.value).where(quotas.c.project_id == bindparam("project"))
_ASKED = {name: bindparam(f"ask_{name}", type_=BigInteger) for name in COUNTED}
# Nothing asked of a resource is never too much of it, however far a lowered limit is passed.
_FITS = [or_(_ASKED[n] == 0, usage.c[n] + _ASKED[n] <= bindparam(f"top_{n}", type_=BigInteger)) for n in COUNTED]
# Where the project's next server queues: behind its last one, and never before those that are being let in now.
_NOW = func.coalesce(select(admission.c.virtual_time).where(admission.c.id == 1).scalar_subquery(), 0)
_TAKE = (
    update(usage)
    .where(usage.c.project_id == bindparam("project"), *_FITS)
    .values(
        {usage.c[n]: usage.c[n] + _ASKED[n] for n in COUNTED}
        | {usage.c.last_tag: case((usage.c.last_tag < _NOW, _NOW), else_=usage.c.last_tag) + _ASKED["instances"]}
    )
    .returning(usage.c.last_tag)
)
_LEAVE_QUEUE = update(usage).where(usage.c.project_id == bindparam("project"), usage.c.last_tag > 0).values(last_tag=usage.c.last_tag - 1)


def limits(tx: Tx, defaults: Quota, project_id: str) -> dict[str, int]:
    """Every limit of a project; -1: none."""
    own = {row.resource: row.value for row in tx.execute(_LIMITS, {"project": project_id})}
    return {name: own.get(name, getattr(defaults, name)) for name in RESOURCES}


def used(tx: Tx, project_id: str) -> dict[str, int]:
    row = first(tx, select(usage).where(usage.c.project_id == project_id))
    return {name: row[name] if row else 0 for name in COUNTED}


def set_limits(tx: Tx, project_id: str, values: Mapping[str, int]) -> None:
    for name, value in values.items():
        upsert(tx, quotas, {"project_id": project_id, "resource": name}, {"value": value})


def check_limits(tx: Tx, project_id: str, values: Mapping[str, int]) -> None:
    """Raises BadRequest where a limit is below what the project uses."""
    now = used(tx, project_id)
    for name, value in values.items():
        if 0 <= value < now.get(name, 0):
            raise BadRequest(
                f"Quota limit {value} for {name} must be greater than or equal to already used and reserved {now[name]}; "
                "use force to set it all the same"
            )


def reset_limits(tx: Tx, project_id: str) -> None:
    tx.execute(delete(quotas).where(quotas.c.project_id == project_id))


def take(tx: Tx, defaults: Quota, project_id: str, *, instances: int, cores: int, ram: int) -> int:
    """Count new servers in; the tag of the first of them in the queue (the others' follow). Raises QuotaExceeded, in Nova's words,
    and counts nothing."""
    asked = {"instances": instances, "cores": cores, "ram": ram}
    allowed = limits(tx, defaults, project_id)
    tops = {name: allowed[name] if allowed[name] >= 0 else _NO_LIMIT for name in COUNTED}
    given = {"project": project_id} | {f"ask_{name}": asked[name] for name in COUNTED} | {f"top_{name}": tops[name] for name in COUNTED}
    last: int | None = tx.execute(_TAKE, given).scalar()
    if last is None:
        insert_new(tx, usage, {"project_id": project_id} | dict.fromkeys(COUNTED, 0))  # or somebody else has just made the row
        last = tx.execute(_TAKE, given).scalar()
    if last is not None:
        return last - instances
    now = used(tx, project_id)
    over = [name for name in COUNTED if 0 <= allowed[name] < now[name] + asked[name]]
    what = ", ".join(over)
    raise QuotaExceeded(
        f"Quota exceeded for {what}: Requested {', '.join(str(asked[n]) for n in over)}, "
        f"but already used {', '.join(f'{now[n]} of {allowed[n]}' for n in over)} {what}"
    )


def leave_queue(tx: Tx, project_id: str) -> None:
    """A create of the project ended before its turn: what it would have used of the project's turns is given back."""
    tx.execute(_LEAVE_QUEUE, {"project": project_id})


def room(tx: Tx, defaults: Quota, project_id: str, flavor: Mapping[str, Any]) -> int:
    """How many more servers of a flavor the limits allow (2³¹ without any)."""
    allowed, now = limits(tx, defaults, project_id), used(tx, project_id)
    need = {"instances": 1, "cores": flavor["vcpus"], "ram": flavor["ram"]}
    rooms: list[int] = [max(0, allowed[n] - now[n]) // need[n] for n in COUNTED if allowed[n] >= 0]
    return min([2**31, *rooms])


def give_back(tx: Tx, project_id: str, *, instances: int, cores: int, ram: int) -> None:
    tx.execute(
        update(usage)
        .where(usage.c.project_id == project_id)
        .values(instances=usage.c.instances - instances, cores=usage.c.cores - cores, ram=usage.c.ram - ram)
    )
