"""Hosts as compute knows them: what they have, up or down, enabled or not, and what is on them. How they are heard: `beats`."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import bindparam, func, select, update

from pileus.clients.placement import Inventory
from pileus.compute.tables import host_beats, hosts, servers
from pileus.hearing import silent_before
from pileus.messages import HostFacts
from pileus.settings import Compute
from pileus.store import Tx
from pileus.store.paging import Page, fetch
from pileus.store.sql import Row, first, rows


def inventories(facts: HostFacts, settings: Compute) -> dict[str, Inventory]:
    """What a host offers to placement."""
    reserved = min(settings.reserved_host_memory_mb, max(0, facts.memory_mb - 64))
    return {
        "VCPU": Inventory(facts.vcpus, 0, settings.cpu_allocation_ratio, max_unit=facts.vcpus),
        "MEMORY_MB": Inventory(facts.memory_mb, reserved, settings.ram_allocation_ratio, max_unit=facts.memory_mb),
        "DISK_GB": Inventory(facts.disk_gb, 0, settings.disk_allocation_ratio, max_unit=facts.disk_gb),
    }


EARS = ""
"""The name under which the control plane notes that it hears."""

_beats = host_beats.alias("beats")
_ears = host_beats.alias("ears")
_HOSTS = select(
    hosts,
    _beats.c.seen_at,
    _beats.c.guests,
    _beats.c.started_at,
    _ears.c.seen_at.label("hearing_at"),
    _ears.c.started_at.label("hearing_since"),
).select_from(hosts.join(_beats, _beats.c.name == hosts.c.name).outerjoin(_ears, _ears.c.name == EARS))
_BY_NAME = _HOSTS.where(hosts.c.name == bindparam("wanted"))
_BY_NAMES = _HOSTS.where(hosts.c.name.in_(bindparam("names", expanding=True)))
_BY_SERVICE = _HOSTS.where(hosts.c.service_id == bindparam("service"))
_ALL = _HOSTS.order_by(hosts.c.name)


def all_hosts(tx: Tx) -> list[Row]:
    return _whole(rows(tx, _ALL))


def by_name(tx: Tx, name: str) -> Row | None:
    return next(iter(_whole(rows(tx, _BY_NAME, wanted=name))), None)


def by_names(tx: Tx, names: Collection[str]) -> dict[str, Row]:
    return {row["name"]: row for row in _whole(rows(tx, _BY_NAMES, names=list(names)))} if names else {}


def matching(tx: Tx, part: str) -> list[Row]:
    """Hosts whose name contains it."""
    return _whole(rows(tx, _HOSTS.where(hosts.c.name.contains(part, autoescape=True)).order_by(hosts.c.name)))


def page(tx: Tx, wanted: Page) -> list[Row]:
    """One page of hosts; markers are ids. Sorted by `name`."""
    return _whole(fetch(tx, _HOSTS, wanted, id_column=hosts.c.id, sortable={"name": hosts.c.name}))


def _whole(found: Iterable[Row]) -> list[Row]:
    """The facts as they are now: what each beat tells is kept apart from them."""
    return [row | {"facts": row["facts"] | {"guests": row["guests"], "started_at": row["started_at"]}} for row in found]


def has_zone(tx: Tx, zone: str) -> bool:
    """Is there a host in this availability zone?"""
    return first(tx, select(hosts.c.name).where(hosts.c.zone == zone).limit(1)) is not None


def is_up(row: Mapping[str, Any], settings: Compute, now: float | None = None) -> bool:
    """Was it heard of lately? Time in which the control plane itself heard nobody does not count."""
    now = time.time() if now is None else now
    return not row["forced_down"] and row["seen_at"] > deaf_to(row["hearing_at"], row["hearing_since"], settings, now)


def deaf_to(hearing_at: float | None, hearing_since: float | None, settings: Compute, now: float) -> float:
    """Whoever was heard of later than this is up. Minus infinity: nobody is known to be down."""
    if hearing_at is None or hearing_since is None:
        return now - settings.service_down_time
    return silent_before(hearing_at, hearing_since, settings.service_down_time, now)


def change(tx: Tx, service_id: str, /, **values: Any) -> Row | None:
    """Disable, enable or force down; the row afterwards, None where there is no such service."""
    values["updated_at"] = time.time()
    if tx.execute(update(hosts).where(hosts.c.service_id == service_id).values(**values)).rowcount == 0:
        return None
    return next(iter(_whole(rows(tx, _BY_SERVICE, service=service_id))), None)


def guests_on(tx: Tx, names: Collection[str]) -> dict[str, list[Row]]:
    """Per host: id and name of its servers, the oldest first."""
    on: dict[str, list[Row]] = {}
    columns = (servers.c.host, servers.c.id, servers.c.name)
    wanted = select(*columns).where(servers.c.host.in_(names), servers.c.deleted_at.is_(None)).order_by(servers.c.created_at)
    for row in rows(tx, wanted):
        on.setdefault(row["host"], []).append(row)
    return on


def guest_counts(tx: Tx) -> dict[str, dict[str, int]]:
    """Per host: its servers, how many of them are being changed, and the CPUs, memory and disk of their flavors."""
    statement = (
        select(
            servers.c.host,
            func.count().label("servers"),
            func.count(servers.c.task_state).label("tasks"),
            func.sum(servers.c.flavor["vcpus"].as_integer()).label("vcpus"),
            func.sum(servers.c.flavor["ram"].as_integer()).label("ram"),
            func.sum(servers.c.flavor["disk"].as_integer()).label("disk"),
        )
        .where(servers.c.host.is_not(None), servers.c.deleted_at.is_(None))
        .group_by(servers.c.host)
    )
    return {
        row.host: {"servers": row.servers, "tasks": row.tasks, "vcpus": row.vcpus, "ram": row.ram, "disk": row.disk}
        for row in tx.execute(statement)
    }
