"""/servers/{id}/os-instance-actions: what was done to a server, and the steps of each action."""

from __future__ import annotations

from typing import Any

from pileus.compute import actions, servers, timelines
from pileus.compute.api import forms
from pileus.compute.api.shape import VERSION_PATH, host_id, micro
from pileus.compute.service import Compute
from pileus.context import Context
from pileus.errors import BadRequest, NotFound
from pileus.http import paging
from pileus.http.face import Call, Reply, Route
from pileus.store import Tx
from pileus.store.sql import Row


async def list_actions(compute: Compute, call: Call) -> Reply:
    server, found = await compute.store.read(_load, call.context, call.path["id"], call.since(2, 21))
    if not call.since(2, 58):
        return Reply(body={"instanceActions": [_view(call, row) for row in found]})
    forms.known_query(call, ("limit", "marker", "changes-since", *(["changes-before"] if call.since(2, 66) else [])), since=(2, 58))
    wanted = _changed(call, found)
    page = paging.parse(call)
    if page.marker is not None:
        ids = [row["request_id"] for row in wanted]
        if page.marker not in ids:
            raise BadRequest(f"Marker {page.marker} could not be found.")
        wanted = wanted[ids.index(page.marker) + 1 :]
    wanted = wanted[: page.limit]
    body: dict[str, Any] = {"instanceActions": [_view(call, row) for row in wanted]}
    path = f"{VERSION_PATH}/servers/{server['id']}/os-instance-actions"
    href = paging.next_link(call, wanted, page, path, key="request_id")
    if href is not None:
        body["links"] = [{"rel": "next", "href": href}]
    return Reply(body=body)


async def show_action(compute: Compute, call: Call) -> Reply:
    server, found = await compute.store.read(_load, call.context, call.path["id"], call.since(2, 21))
    row = next((row for row in found if row["request_id"] == call.path["request"]), None)
    if row is None:
        raise NotFound(f"Action {call.path['request']} not found")
    view = _view(call, row)
    if call.context.is_admin or call.since(2, 51):
        told = compute.settings.compute.explain
        events = timelines.events(row, server["host"]) if told else [timelines.whole(row, server["host"])]
        view["events"] = [_event(call, server, event) for event in events]
    return Reply(body={"instanceAction": view})


def _load(tx: Tx, context: Context, server_id: str, deleted: bool) -> tuple[Row, list[Row]]:
    server = servers.get(tx, context, server_id, deleted=deleted)
    return server, actions.of_server(tx, server_id)


def _changed(call: Call, found: list[Row]) -> list[Row]:
    since, before = call.query("changes-since"), call.query("changes-before")
    least = forms.moment(since, "changes-since") if since is not None else 0.0
    most = forms.moment(before, "changes-before") + 1 if before is not None else float("inf")  # times are asked for to the second
    if most < least:
        raise BadRequest("The value of changes-since must be less than or equal to changes-before.")
    return [row for row in found if least <= row["updated_at"] < most]


def _view(call: Call, row: Row) -> dict[str, Any]:
    view = {
        "action": timelines.shown_name(row),
        "instance_uuid": row["server_id"],
        "request_id": row["request_id"],
        "user_id": row["user_id"],
        "project_id": row["project_id"],
        "start_time": micro(row["started_at"]),
        "message": row["message"],
    }
    return view | {"updated_at": micro(row["updated_at"])} if call.since(2, 58) else view


def _event(call: Call, server: Row, event: timelines.Event) -> dict[str, Any]:
    view: dict[str, Any] = {
        "event": event.step,
        "start_time": micro(event.start),
        "finish_time": micro(event.finish),
        "result": "Success" if event.ok else "Error",
    }
    if call.context.is_admin:
        view["traceback"] = None
    if call.since(2, 62):
        view["hostId"] = host_id(event.host, server["project_id"])
        if call.context.is_admin:
            view["host"] = event.host
    if call.since(2, 84):
        view["details"] = event.details
    return view


ROUTES = [
    Route("GET", "/v2.1/servers/{id}/os-instance-actions", list_actions, "reader"),
    Route("GET", "/v2.1/servers/{id}/os-instance-actions/{request}", show_action, "reader"),
]
