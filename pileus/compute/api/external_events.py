"""POST /os-server-external-events: news of ports. One bad event makes the answer a 207; the good ones are delivered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from pileus.compute import external_events
from pileus.compute.api import forms
from pileus.compute.service import Compute
from pileus.http.face import Call, Reply, Route
from pileus.http.microversions import Version

NAMES: dict[str, Version] = {
    "network-changed": (2, 1),
    "network-vif-plugged": (2, 1),
    "network-vif-unplugged": (2, 1),
    "network-vif-deleted": (2, 1),
    "volume-extended": (2, 51),
    "power-update": (2, 76),
    "accelerator-request-bound": (2, 82),
    "volume-reimaged": (2, 93),
}
"""Since which microversion an event may be sent."""


class Event(forms.Body):
    name: str
    server_uuid: str
    status: Literal["failed", "completed", "in-progress"] = "completed"
    tag: Annotated[str, Meta(max_length=255)] | UnsetType = UNSET


class Events(forms.Body):
    events: Annotated[list[Event], Meta(min_length=1)]


async def create_events(compute: Compute, call: Call) -> Reply:
    given = (await call.json(Events)).events
    outcomes = await external_events.deliver(compute.store, compute.bus, [_event(call, event) for event in given])
    views = [_view(event, outcome) for event, outcome in zip(given, outcomes, strict=True)]
    return Reply(200 if all(outcome.code == 200 for outcome in outcomes) else 207, {"events": views})


def _event(call: Call, event: Event) -> external_events.Event:
    since = NAMES.get(event.name)
    if since is None or call.version < since:
        known = [name for name, first in NAMES.items() if call.version >= first]
        raise forms.invalid("name", event.name, f"expected one of {', '.join(known)}")
    tag = None if event.tag is UNSET else event.tag
    return external_events.Event(event.name, forms.uid(event.server_uuid, "server_uuid"), event.status, tag)


def _view(event: Event, outcome: external_events.Outcome) -> dict[str, Any]:
    view = {"name": event.name, "server_uuid": event.server_uuid, "status": outcome.status, "code": outcome.code}
    return view if event.tag is UNSET else view | {"tag": event.tag}


ROUTES = [Route("POST", "/v2.1/os-server-external-events", create_events, "service")]
