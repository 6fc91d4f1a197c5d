"""A project's limits and what it uses of them. Usage is a counter row, changed in the transaction that uses: O(1), never over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, select, update

from pileus.compute.tables import quotas, usage
from pileus.errors import BadRequest, QuotaExceeded
from pileus.settings import Quota
from pileus.store import Tx
from pileus.store.sql import first, insert_new, upsert

RESOURCES = ("instances", "cores", "ram", "key_pairs", "metadata_items")
COUNTED = ("instances", "cores", "ram")


def limits(tx: Tx, defaults: Quota, project_id: str) -> dict[str, int]:
    """Every limit of a project; -1: none."""
    own = {
        row.resource: row.value for row in tx.execute(select(quotas.c.resource, quotas.c.value).where(quotas.c.project_id == project_id))
    }
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


def take(tx: Tx, defaults: Quota, project_id: str, *, instances: int, cores: int, ram: int) -> None:
    """Count new servers in. Raises QuotaExceeded, in Nova's words, and counts nothing."""
    asked = {"instances": instances, "cores": cores, "ram": ram}
    allowed = limits(tx, defaults, project_id)
    insert_new(tx, usage, {"project_id": project_id, "instances": 0, "cores": 0, "ram": 0})
    guards = [usage.c[name] + asked[name] <= allowed[name] for name in COUNTED if allowed[name] >= 0 and asked[name] > 0]
    done = tx.execute(
        update(usage).where(usage.c.project_id == project_id, *guards).values({name: usage.c[name] + asked[name] for name in COUNTED})
    )
    if done.rowcount == 1:
        return
    now = used(tx, project_id)
    over = [name for name in COUNTED if 0 <= allowed[name] < now[name] + asked[name]]
    what = ", ".join(over)
    raise QuotaExceeded(
        f"Quota exceeded for {what}: Requested {', '.join(str(asked[n]) for n in over)}, "
        f"but already used {', '.join(f'{now[n]} of {allowed[n]}' for n in over)} {what}"
    )


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
