"""/os-services: nova-compute of each host, which can be disabled and forced down, and this control process's own parts."""

from __future__ import annotations

import socket
import time
import uuid
from typing import Any, Literal

from msgspec import UNSET, UnsetType

from pileus.compute import hosts
from pileus.compute.api import forms
from pileus.compute.api.shape import micro, number_of
from pileus.compute.service import Compute
from pileus.errors import BadRequest, NotFound
from pileus.http.face import Call, Reply, Route
from pileus.store import Tx
from pileus.store.sql import Row

COMPUTE = "nova-compute"
CONTROL = ("nova-conductor", "nova-scheduler")
"""What the worker and the scheduler are called in Nova. They are up while they answer."""
CONTROL_ZONE = "internal"
ACTIONS = ("enable", "disable", "disable-log-reason", "force-down")


class OldChange(forms.Body):
    host: str
    binary: str
    disabled_reason: str | UnsetType = UNSET
    forced_down: forms.Flag | UnsetType = UNSET


class Change(forms.Body):
    status: Literal["enabled", "disabled"] | UnsetType = UNSET
    disabled_reason: str | UnsetType | None = UNSET
    forced_down: forms.Flag | UnsetType = UNSET


async def list_services(compute: Compute, call: Call) -> Reply:
    forms.known_query(call, ("host", "binary"))
    found = [_compute_view(compute, call, row) for row in await compute.store.read(hosts.all_hosts)]
    found += [_control_view(call, binary) for binary in CONTROL]
    for key in ("host", "binary"):
        wanted = call.query(key)
        if wanted:
            found = [service for service in found if service[key] == wanted]
    return Reply(body={"services": found})


async def update_service(compute: Compute, call: Call) -> Reply:
    return await (_update(compute, call) if call.since(2, 53) else _update_old(compute, call))


async def _update(compute: Compute, call: Call) -> Reply:
    service_id = forms.uid(call.path["id"], "service id")
    given = await call.json(Change)
    if service_id in (_control_id(binary) for binary in CONTROL):
        raise BadRequest("Only nova-compute services can be updated.")
    values: dict[str, Any] = {}
    reason = None if given.disabled_reason is UNSET else _reason(given.disabled_reason)
    if given.status == "enabled":
        if reason:
            raise BadRequest("Specifying 'disabled_reason' with status 'enabled' is invalid.")
        values |= {"disabled": False, "disabled_reason": None}
    elif given.status == "disabled":
        values |= {"disabled": True, "disabled_reason": reason}
    if given.forced_down is not UNSET:
        values["forced_down"] = forms.flag(given.forced_down, "forced_down")
    if not values:
        raise BadRequest("No updates were requested. Fields 'status' or 'forced_down' should be specified.")
    row = await compute.store.write(hosts.change, service_id, **values)
    if row is None:
        raise NotFound(f"Service {service_id} could not be found.")
    await compute.changed(row)
    return Reply(body={"service": _compute_view(compute, call, row)})


async def _update_old(compute: Compute, call: Call) -> Reply:
    """Before 2.53: the path names what to do, the body the service."""
    action = call.path["id"]
    if action not in ACTIONS or (action == "force-down" and not call.since(2, 11)):
        raise NotFound("Unknown action")
    given = await call.json(OldChange)
    if given.forced_down is not UNSET and not call.since(2, 11):
        raise BadRequest("Additional properties are not allowed ('forced_down' was unexpected)")
    answer: dict[str, Any] = {"host": given.host, "binary": given.binary}
    if action == "force-down":
        if given.forced_down is UNSET:
            raise BadRequest("Missing forced_down field")
        values: dict[str, Any] = {"forced_down": forms.flag(given.forced_down, "forced_down")}
        answer |= values
    else:
        values, shown = _enabling(action, None if given.disabled_reason is UNSET else _reason(given.disabled_reason))
        answer |= shown
    if given.binary != COMPUTE:
        raise BadRequest(f"Updating a {given.binary} service is not supported. Only nova-compute services can be updated.")
    row = await compute.store.write(_change_by_host, given.host, values)
    if row is None:
        raise NotFound(f"Could not find binary {given.binary} on host {given.host}.")
    await compute.changed(row)
    return Reply(body={"service": answer})


def _enabling(action: str, reason: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What to write, and what to answer."""
    if action == "enable":
        return {"disabled": False, "disabled_reason": None}, {"status": "enabled"}
    if action == "disable":
        return {"disabled": True, "disabled_reason": None}, {"status": "disabled"}
    if reason is None:
        raise BadRequest("Missing disabled reason field")
    return {"disabled": True, "disabled_reason": reason}, {"status": "disabled", "disabled_reason": reason}


def _change_by_host(tx: Tx, host: str, values: dict[str, Any]) -> Row | None:
    row = hosts.by_name(tx, host)
    return None if row is None else hosts.change(tx, row["service_id"], **values)


def _reason(given: str | None) -> str | None:
    if given is not None and not 1 <= len(given) <= 255:
        raise forms.invalid("disabled_reason", given, "expected 1 to 255 characters")
    return given


def _compute_view(compute: Compute, call: Call, row: Row) -> dict[str, Any]:
    view = {
        "id": row["service_id"] if call.since(2, 53) else number_of(row["service_id"]),
        "binary": COMPUTE,
        "host": row["name"],
        "zone": row["zone"],
        "status": "disabled" if row["disabled"] else "enabled",
        "state": "up" if hosts.is_up(row, compute.settings.compute) else "down",
        "updated_at": micro(row["seen_at"]),
        "disabled_reason": row["disabled_reason"],
    }
    return view | {"forced_down": row["forced_down"]} if call.since(2, 11) else view


def _control_view(call: Call, binary: str) -> dict[str, Any]:
    service_id = _control_id(binary)
    view = {
        "id": service_id if call.since(2, 53) else number_of(service_id),
        "binary": binary,
        "host": socket.gethostname(),
        "zone": CONTROL_ZONE,
        "status": "enabled",
        "state": "up",
        "updated_at": micro(time.time()),
        "disabled_reason": None,
    }
    return view | {"forced_down": False} if call.since(2, 11) else view


def _control_id(binary: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{binary}.{socket.gethostname()}"))


ROUTES = [
    Route("GET", "/v2.1/os-services", list_services, "admin"),
    Route("PUT", "/v2.1/os-services/{id}", update_service, "admin"),
]
