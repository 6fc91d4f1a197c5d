"""/os-hypervisors: the hosts as an admin sees them. A hypervisor has its host's name."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from pileus.compute import hosts
from pileus.compute.api import forms
from pileus.compute.api.shape import add_next, number_of
from pileus.compute.service import Compute
from pileus.errors import BadRequest, NotFound
from pileus.http import paging
from pileus.http.face import Call, Reply, Route
from pileus.store import Tx
from pileus.store.paging import Page
from pileus.store.sql import Row

_NO_HOST: Row = {"facts": {"vcpus": 0, "memory_mb": 0, "disk_gb": 0}}
LIST_QUERY = ("limit", "marker", "hypervisor_hostname_pattern", "with_servers")
Counts = Mapping[str, Mapping[str, int]]


async def list_hypervisors(compute: Compute, call: Call) -> Reply:
    return await _list(compute, call, detail=False)


async def list_details(compute: Compute, call: Call) -> Reply:
    return await _list(compute, call, detail=True)


async def show_hypervisor(compute: Compute, call: Call) -> Reply:
    forms.known_query(call, ("with_servers",))
    row = await compute.store.read(_find, call.path["id"], call.since(2, 53))
    counts = await _counts(compute, call)
    view = _view(compute, call, row, detail=True, counts=counts)
    if call.since(2, 53) and paging.boolean(call, "with_servers"):
        found = await compute.store.read(hosts.guests_on, [row["name"]])
        _add_servers(call, view, found.get(row["name"], []))
    return Reply(body={"hypervisor": view})


async def show_uptime(compute: Compute, call: Call) -> Reply:
    row = await compute.store.read(_find, call.path["id"], call.since(2, 53))
    uptime = _uptime(compute, row)
    if uptime is None:
        raise BadRequest(f"Service is unavailable at this time: host {row['name']} is down")
    return Reply(body={"hypervisor": _view(compute, call, row, detail=False, counts={}) | {"uptime": uptime}})


async def search(compute: Compute, call: Call) -> Reply:
    found = await compute.store.read(_matching, call.path["id"])
    return Reply(body={"hypervisors": [_view(compute, call, row, detail=False, counts={}) for row in found]})


async def list_servers(compute: Compute, call: Call) -> Reply:
    found = await compute.store.read(_matching, call.path["id"])
    on = await compute.store.read(hosts.guests_on, [row["name"] for row in found])
    views = []
    for row in found:
        view = _view(compute, call, row, detail=False, counts={})
        _add_servers(call, view, on.get(row["name"], []))
        views.append(view)
    return Reply(body={"hypervisors": views})


async def show_statistics(compute: Compute, call: Call) -> Reply:
    found = await compute.store.read(hosts.all_hosts)
    counts = await compute.store.read(hosts.guest_counts)
    each = [_figures(_NO_HOST, {}), *[_figures(row, counts.get(row["name"], {})) for row in found]]
    total = {key: sum(figures[key] for figures in each) for key in each[0]}
    return Reply(body={"hypervisor_statistics": total | {"count": len(found)}})


async def _list(compute: Compute, call: Call, *, detail: bool) -> Reply:
    known = LIST_QUERY if call.since(2, 53) else LIST_QUERY[:2]
    forms.known_query(call, known)
    pattern = call.query("hypervisor_hostname_pattern") if call.since(2, 53) else None
    asked = paging.parse(call) if call.since(2, 33) else Page(limit=call.max_limit)
    page = Page(asked.limit, asked.marker, (("name", "asc"),))
    if pattern is not None:
        if call.query("limit") is not None or page.marker is not None:
            raise BadRequest("Paging over hypervisors with the hypervisor_hostname_pattern query parameter is not supported.")
        found = await compute.store.read(_matching, pattern)
    else:
        found = await compute.store.read(_page, page, call.since(2, 53))
    counts = await _counts(compute, call) if detail else {}
    views = [_view(compute, call, row, detail=detail, counts=counts) for row in found]
    if call.since(2, 53) and paging.boolean(call, "with_servers"):
        on = await compute.store.read(hosts.guests_on, [row["name"] for row in found])
        for row, view in zip(found, views, strict=True):
            _add_servers(call, view, on.get(row["name"], []))
    body: dict[str, Any] = {"hypervisors": views}
    if pattern is None and call.since(2, 33):
        add_next(body, call, views, page, "/os-hypervisors/detail" if detail else "/os-hypervisors", "hypervisors_links")
    return Reply(body=body)


async def _counts(compute: Compute, call: Call) -> Counts:
    return {} if call.since(2, 88) else await compute.store.read(hosts.guest_counts)


def _page(tx: Tx, page: Page, by_uuid: bool) -> list[Row]:
    if page.marker is not None and not by_uuid:
        try:
            page = replace(page, marker=_find(tx, page.marker, False)["id"])
        except NotFound:
            raise BadRequest(f"marker [{page.marker}] not found") from None
    return hosts.page(tx, page)


def _find(tx: Tx, identifier: str, by_uuid: bool) -> Row:
    """A hypervisor by its UUID, or before 2.53 by its number. Raises BadRequest, NotFound."""
    if by_uuid:
        forms.uid(identifier, "hypervisor id")
    for row in hosts.all_hosts(tx):
        if identifier == (row["id"] if by_uuid else str(number_of(row["id"]))):
            return row
    raise NotFound(f"Hypervisor with ID '{identifier}' could not be found.")


def _matching(tx: Tx, pattern: str) -> list[Row]:
    found = hosts.matching(tx, pattern)
    if not found:
        raise NotFound(f"No hypervisor matching '{pattern}' could be found.")
    return found


def _add_servers(call: Call, view: dict[str, Any], found: list[Row]) -> None:
    if found or call.since(2, 75):
        view["servers"] = [{"name": row["name"], "uuid": row["id"]} for row in found]


def _view(compute: Compute, call: Call, row: Row, *, detail: bool, counts: Counts) -> dict[str, Any]:
    by_uuid = call.since(2, 53)
    view: dict[str, Any] = {
        "id": row["id"] if by_uuid else number_of(row["id"]),
        "hypervisor_hostname": row["name"],
        "state": "up" if hosts.is_up(row, compute.settings.compute) else "down",
        "status": "disabled" if row["disabled"] else "enabled",
    }
    if not detail:
        return view
    facts = row["facts"]
    view |= {
        "hypervisor_type": facts["hypervisor_type"],
        "hypervisor_version": facts["hypervisor_version"],
        "host_ip": facts["address"],
        "service": {
            "id": row["service_id"] if by_uuid else number_of(row["service_id"]),
            "host": row["name"],
            "disabled_reason": row["disabled_reason"],
        },
    }
    if call.since(2, 88):
        return view | {"uptime": _uptime(compute, row)}
    view |= _figures(row, counts.get(row["name"], {}))
    view["cpu_info"] = facts["cpu_info"] if call.since(2, 28) else msgspec.json.encode(facts["cpu_info"]).decode()
    return view


def _figures(row: Row, used: Mapping[str, int]) -> dict[str, int]:
    """What 2.88 dropped. Used is what the flavors of the host's servers say."""
    facts = row["facts"]
    memory, disk = used.get("ram", 0), used.get("disk", 0)
    return {
        "vcpus": facts["vcpus"],
        "memory_mb": facts["memory_mb"],
        "local_gb": facts["disk_gb"],
        "vcpus_used": used.get("vcpus", 0),
        "memory_mb_used": memory,
        "local_gb_used": disk,
        "free_ram_mb": facts["memory_mb"] - memory,
        "free_disk_gb": facts["disk_gb"] - disk,
        "disk_available_least": facts["disk_gb"] - disk,
        "current_workload": used.get("tasks", 0),
        "running_vms": used.get("servers", 0),
    }


def _uptime(compute: Compute, row: Row) -> str | None:
    """The time of day, and since when the host's process runs; None for one that is down."""
    started = row["facts"].get("started_at") or 0.0
    if not started or not hosts.is_up(row, compute.settings.compute):
        return None
    minutes = int((time.time() - started) // 60)
    days, rest = divmod(minutes, 1440)
    since = f"{rest // 60}:{rest % 60:02}"
    return f"{datetime.now(UTC):%H:%M:%S} up {f'{days} days, ' if days else ''}{since}"


ROUTES = [
    Route("GET", "/v2.1/os-hypervisors", list_hypervisors, "admin"),
    Route("GET", "/v2.1/os-hypervisors/detail", list_details, "admin"),
    Route("GET", "/v2.1/os-hypervisors/statistics", show_statistics, "admin", until=(2, 87)),
    Route("GET", "/v2.1/os-hypervisors/{id}", show_hypervisor, "admin"),
    Route("GET", "/v2.1/os-hypervisors/{id}/uptime", show_uptime, "admin", until=(2, 87)),
    Route("GET", "/v2.1/os-hypervisors/{id}/search", search, "admin", until=(2, 52)),
    Route("GET", "/v2.1/os-hypervisors/{id}/servers", list_servers, "admin", until=(2, 52)),
]
