"""/resource_providers/{uuid}/usages and /usages"""

from __future__ import annotations

import re

from pileus.errors import BadRequest
from pileus.http.face import Call, Reply, Route
from pileus.placement import usages
from pileus.placement.api.shape import answer, check_query
from pileus.placement.classes import PATTERN
from pileus.placement.service import Placement


async def of_provider(placement: Placement, call: Call) -> Reply:
    provider, used = await placement.store.read(usages.of_provider, call.path["uuid"])
    return answer(call, {"resource_provider_generation": provider["generation"], "usages": used})


async def of_project(placement: Placement, call: Call) -> Reply:
    check_query(call, {"project_id": (1, 9), "user_id": (1, 9), "consumer_type": (1, 38)})
    project, user, kind = call.query("project_id"), call.query("user_id"), call.query("consumer_type")
    if not project:
        raise BadRequest("Invalid query string parameters: project_id is missing")
    if not call.since(1, 38):
        return answer(call, {"usages": await placement.store.read(usages.of_project, project, user)})
    if kind is not None and kind not in (usages.ALL, usages.UNKNOWN) and not re.match(PATTERN, kind):
        raise BadRequest(f"consumer_type={kind}: expected all, unknown, or a type made of A-Z, 0-9 and _")
    return answer(call, {"usages": await placement.store.read(usages.by_type, project, user, kind)})


ROUTES = [
    Route("GET", "/resource_providers/{uuid}/usages", of_provider, "service"),
    Route("GET", "/usages", of_project, "service", since=(1, 9)),
]
