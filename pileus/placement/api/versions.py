"""Placement's version discovery, and what each microversion changes. (Source: Placement's REST API Version History.)"""

from __future__ import annotations

from pileus.http.face import Call, Reply, Route
from pileus.http.microversions import Microversions, Version, show
from pileus.placement.api.shape import answer
from pileus.placement.service import Placement

AGGREGATES = "nothing here: aggregates are not offered"
TRAITS = "nothing here: traits are not offered"
NESTED = "nothing here: every provider is a tree of its own"

MICROVERSIONS: dict[Version, str] = {
    (1, 0): "providers, inventories, usages, allocations",
    (1, 1): AGGREGATES,
    (1, 2): "/resource_classes: list, show, create, rename, delete",
    (1, 3): AGGREGATES,
    (1, 4): "GET /resource_providers takes resources=",
    (1, 5): "DELETE /resource_providers/{uuid}/inventories",
    (1, 6): TRAITS,
    (1, 7): "PUT /resource_classes/{name} makes the class (201) or finds it (204) and takes no body",
    (1, 8): "PUT /allocations/{consumer} needs project_id and user_id",
    (1, 9): "GET /usages of a project, and of its user",
    (1, 10): "GET /allocation_candidates",
    (1, 11): "a provider's links name its allocations",
    (1, 12): "PUT /allocations/{consumer} and candidates hold allocations as an object by provider; GET shows project_id and user_id",
    (1, 13): "POST /allocations: several consumers at once, an empty object gives back",
    (1, 14): "providers show parent_provider_uuid (null) and root_provider_uuid (their own); null is taken for the parent",
    (1, 15): "Last-Modified and Cache-Control: no-cache on answers with a body",
    (1, 16): "GET /allocation_candidates takes limit",
    (1, 17): "provider summaries show traits (none)",
    (1, 18): TRAITS,
    (1, 19): AGGREGATES,
    (1, 20): "POST /resource_providers answers 200 with the provider",
    (1, 21): AGGREGATES,
    (1, 22): TRAITS,
    (1, 23): "nothing here: faults hold their code in every version",
    (1, 24): AGGREGATES,
    (1, 25): NESTED + ", so that numbered request groups are refused",
    (1, 26): "an inventory's reserved may equal its total",
    (1, 27): "provider summaries show all classes of a provider, not only those asked for",
    (1, 28): "consumer_generation: shown, and needed by PUT and POST of allocations (409 where it is not the current one); "
    "PUT takes an empty object",
    (1, 29): "provider summaries show parent_provider_uuid and root_provider_uuid",
    (1, 30): "nothing here: /reshaper is not offered",
    (1, 31): NESTED,
    (1, 32): AGGREGATES,
    (1, 33): NESTED + ", so that named request groups are refused",
    (1, 34): "candidates show mappings; PUT and POST of allocations take and ignore them",
    (1, 35): TRAITS,
    (1, 36): NESTED,
    (1, 37): NESTED,
    (1, 38): "consumer_type: shown, and needed by PUT and POST of allocations; GET /usages groups by it",
    (1, 39): TRAITS,
}

SPOKEN = Microversions("placement", min(MICROVERSIONS), max(MICROVERSIONS))


async def discover(placement: Placement, call: Call) -> Reply:
    version = {
        "id": f"v{show(SPOKEN.first)}",
        "min_version": show(SPOKEN.first),
        "max_version": show(SPOKEN.last),
        "status": "CURRENT",
        "links": [{"rel": "self", "href": call.base}],
    }
    return answer(call, {"versions": [version]})


ROUTES = [Route("GET", "/", discover, "anyone")]
