"""/allocation_candidates: providers with room for a request, each with the body that would claim it."""

from __future__ import annotations

from typing import Any

from pileus.clients.placement import ProviderPicture
from pileus.errors import BadRequest
from pileus.http.face import Call, Reply, Route
from pileus.placement.api.shape import answer, check_query, resources_query
from pileus.placement.candidates import candidates
from pileus.placement.service import Placement


async def index(placement: Placement, call: Call) -> Reply:
    check_query(call, {"resources": (1, 10), "limit": (1, 16)})
    resources = resources_query(call.query("resources") or "")
    found = await placement.store.read(candidates, resources, _limit(call))
    body = {
        "allocation_requests": [_request(call, picture, resources) for picture in found],
        "provider_summaries": {picture.id: _summary(call, picture, resources) for picture in found},
    }
    return answer(call, body)


def _limit(call: Call) -> int | None:
    text = call.query("limit")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise BadRequest(f"limit={text}: expected a whole number, 1 or larger")
    return int(text)


def _request(call: Call, picture: ProviderPicture, resources: dict[str, int]) -> dict[str, Any]:
    if not call.since(1, 12):
        return {"allocations": [{"resource_provider": {"uuid": picture.id}, "resources": resources}]}
    request: dict[str, Any] = {"allocations": {picture.id: {"resources": resources}}}
    if call.since(1, 34):
        request["mappings"] = {"": [picture.id]}
    return request


def _summary(call: Call, picture: ProviderPicture, resources: dict[str, int]) -> dict[str, Any]:
    shown = picture.capacity if call.since(1, 27) else resources
    summary: dict[str, Any] = {
        "resources": {name: {"capacity": picture.capacity[name], "used": picture.used[name]} for name in shown},
    }
    if call.since(1, 17):
        summary["traits"] = []
    if call.since(1, 29):
        summary |= {"parent_provider_uuid": None, "root_provider_uuid": picture.id}
    return summary


ROUTES = [Route("GET", "/allocation_candidates", index, "service", since=(1, 10))]
