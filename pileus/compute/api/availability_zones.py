"""/os-availability-zone: zones are what hosts say of themselves; one is available while an enabled host in it is up."""

from __future__ import annotations

from typing import Any

from pileus.compute import hosts
from pileus.compute.api.services import COMPUTE
from pileus.compute.api.shape import micro
from pileus.compute.service import Compute
from pileus.http.face import Call, Reply, Route
from pileus.store.sql import Row


async def list_zones(compute: Compute, call: Call) -> Reply:
    zones = _by_zone(await compute.store.read(hosts.all_hosts))
    return Reply(body={"availabilityZoneInfo": [_view(compute, zone, found) | {"hosts": None} for zone, found in zones.items()]})


async def list_details(compute: Compute, call: Call) -> Reply:
    zones = _by_zone(await compute.store.read(hosts.all_hosts))
    views = []
    for zone, found in zones.items():
        view = _view(compute, zone, found)
        view["hosts"] = {row["name"]: {COMPUTE: _service(compute, row)} for row in found} if view["zoneState"]["available"] else None
        views.append(view)
    return Reply(body={"availabilityZoneInfo": views})


def _by_zone(found: list[Row]) -> dict[str, list[Row]]:
    zones: dict[str, list[Row]] = {}
    for row in found:
        zones.setdefault(row["zone"], []).append(row)
    return dict(sorted(zones.items()))


def _view(compute: Compute, zone: str, found: list[Row]) -> dict[str, Any]:
    available = any(not row["disabled"] and hosts.is_up(row, compute.settings.compute) for row in found)
    return {"zoneName": zone, "zoneState": {"available": available}}


def _service(compute: Compute, row: Row) -> dict[str, Any]:
    up = hosts.is_up(row, compute.settings.compute)
    return {"available": up, "active": not row["disabled"], "updated_at": micro(row["seen_at"])}


ROUTES = [
    Route("GET", "/v2.1/os-availability-zone", list_zones, "reader"),
    Route("GET", "/v2.1/os-availability-zone/detail", list_details, "admin"),
]
