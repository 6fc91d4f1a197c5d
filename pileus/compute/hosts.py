"""Hosts as compute knows them: heartbeats written down, up or down, enabled or not."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from sqlalchemy import bindparam, func, select, update

from pileus.clients.placement import Inventory
from pileus.compute.tables import hosts, servers
from pileus.messages import HostFacts
from pileus.settings import Compute
from pileus.store import Tx
from pileus.store.paging import Page, fetch
from pileus.store.sql import Row, first, insert_new, rows


def inventories(facts: HostFacts, settings: Compute) -> dict[str, Inventory]:
    """What a host offers to placement."""
    reserved = min(settings.reserved_host_memory_mb, max(0, facts.memory_mb - 64))
    return {
        "VCPU": Inventory(facts.vcpus, 0, settings.cpu_allocation_ratio, max_unit=facts.vcpus),
        "MEMORY_MB": Inventory(facts.memory_mb, reserved, settings.ram_allocation_ratio, max_unit=facts.memory_mb),
        "DISK_GB": Inventory(facts.disk_gb, 0, settings.disk_allocation_ratio, max_unit=facts.disk_gb),
    }


def beat(tx: Tx, facts: HostFacts) -> tuple[Row, bool]:
    """Write a heartbeat down: the host's row, and whether what it offers has changed (or it is new)."""
    now = time.time()
    new = msgspec.to_builtins(facts)
    before = first(tx, select(hosts).where(hosts.c.name == facts.host))
    if before is None:
        row = {
            "name": facts.host,
            "id": str(uuid.uuid4()),
            "service_id": str(uuid.uuid4()),
            "facts": new,
            "zone": facts.availability_zone,
            "disabled": False,
            "disabled_reason": None,
            "forced_down": False,
            "seen_at": now,
            "created_at": now,
            "updated_at": now,
        }
        insert_new(tx, hosts, row)
        return row, True
    tx.execute(update(hosts).where(hosts.c.name == facts.host).values(facts=new, zone=facts.availability_zone, seen_at=now))
    same = all(before["facts"].get(key) == new[key] for key in ("vcpus", "memory_mb", "disk_gb"))
    return before | {"facts": new, "seen_at": now}, not same


def all_hosts(tx: Tx) -> list[Row]:
    return rows(tx, select(hosts).order_by(hosts.c.name))


_BY_NAMES = select(hosts).where(hosts.c.name.in_(bindparam("names", expanding=True)))


def by_name(tx: Tx, name: str) -> Row | None:
    return first(tx, select(hosts).where(hosts.c.name == name))


def by_names(tx: Tx, names: Collection[str]) -> dict[str, Row]:
    return {row["name"]: row for row in rows(tx, _BY_NAMES, names=list(names))} if names else {}


def matching(tx: Tx, part: str) -> list[Row]:
    """Hosts whose name contains it."""
    return rows(tx, select(hosts).where(hosts.c.name.contains(part, autoescape=True)).order_by(hosts.c.name))


def page(tx: Tx, wanted: Page) -> list[Row]:
    """One page of hosts; markers are ids. Sorted by `name`."""
    return fetch(tx, select(hosts), wanted, id_column=hosts.c.id, sortable={"name": hosts.c.name})


def has_zone(tx: Tx, zone: str) -> bool:
    """Is there a host in this availability zone?"""
    return first(tx, select(hosts.c.name).where(hosts.c.zone == zone).limit(1)) is not None


def is_up(row: Mapping[str, Any], settings: Compute, now: float | None = None) -> bool:
    return not row["forced_down"] and (time.time() if now is None else now) - row["seen_at"] < settings.service_down_time


def change(tx: Tx, service_id: str, /, **values: Any) -> Row | None:
    """Disable, enable or force down; the row afterwards, None where there is no such service."""
    values["updated_at"] = time.time()
    if tx.execute(update(hosts).where(hosts.c.service_id == service_id).values(**values)).rowcount == 0:
        return None
    return first(tx, select(hosts).where(hosts.c.service_id == service_id))


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
