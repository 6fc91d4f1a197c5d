"""/allocations and /resource_providers/{uuid}/allocations. A body's form depends on the version: see FORMS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType

from pileus.errors import BadRequest, NotFound
from pileus.http.face import Call, Reply, Route
from pileus.http.microversions import Version
from pileus.placement import claims, usages
from pileus.placement.api.shape import Amounts, answer, uuid_of
from pileus.placement.classes import PATTERN
from pileus.placement.service import Placement

T = TypeVar("T")

INCOMPLETE = "00000000-0000-0000-0000-000000000000"
"""Project and user of allocations that were made by a version which does not ask for them."""

Owner = Annotated[str, Meta(min_length=1, max_length=255)]


class ProviderId(Struct, forbid_unknown_fields=True):
    uuid: str


class Item(Struct, forbid_unknown_fields=True):
    resource_provider: ProviderId
    resources: Amounts


class ByProvider(Struct, forbid_unknown_fields=True):
    resources: Amounts
    generation: int | None = None


class Form0(Struct, forbid_unknown_fields=True, kw_only=True):
    allocations: Annotated[list[Item], Meta(min_length=1)]


class Form8(Form0, forbid_unknown_fields=True, kw_only=True):
    project_id: Owner
    user_id: Owner


class Form13(Struct, forbid_unknown_fields=True, kw_only=True):
    """Of POST only: nothing gives everything back."""

    allocations: dict[str, ByProvider]
    project_id: Owner
    user_id: Owner


class Form12(Form13, forbid_unknown_fields=True, kw_only=True):
    allocations: Annotated[dict[str, ByProvider], Meta(min_length=1)]


class Form28(Form13, forbid_unknown_fields=True, kw_only=True):
    consumer_generation: int | None


class Form34(Form28, forbid_unknown_fields=True, kw_only=True):
    mappings: Annotated[dict[str, list[str]], Meta(min_length=1)] | UnsetType = UNSET


class Form38(Form34, forbid_unknown_fields=True, kw_only=True):
    consumer_type: Annotated[str, Meta(pattern=PATTERN)]


Form = Form0 | Form13

PUT_FORMS: Mapping[Version, type[Form]] = {
    (1, 38): Form38,
    (1, 34): Form34,
    (1, 28): Form28,
    (1, 12): Form12,
    (1, 8): Form8,
    (1, 0): Form0,
}
POST_FORMS: Mapping[Version, type[Mapping[str, Form]]] = {
    (1, 38): dict[str, Form38],
    (1, 34): dict[str, Form34],
    (1, 28): dict[str, Form28],
    (1, 13): dict[str, Form13],
}
"""From which version on; the latest first."""


async def of_consumer(placement: Placement, call: Call) -> Reply:
    consumer, held = await placement.store.read(claims.show_consumer, call.path["consumer"])
    body: dict[str, Any] = {"allocations": held}
    if consumer is None:
        return answer(call, body)
    if call.since(1, 12):
        body |= {"project_id": consumer["project_id"], "user_id": consumer["user_id"]}
    if call.since(1, 28):
        body["consumer_generation"] = consumer["generation"]
    if call.since(1, 38):
        body["consumer_type"] = consumer["consumer_type"] or usages.UNKNOWN
    return answer(call, body, [consumer["updated_at"]])


async def of_provider(placement: Placement, call: Call) -> Reply:
    provider, found = await placement.store.read(claims.of_provider, call.path["uuid"])
    shown = {
        consumer: {"resources": row["resources"], **({"consumer_generation": row["generation"]} if call.since(1, 28) else {})}
        for consumer, row in found.items()
    }
    body = {"allocations": shown, "resource_provider_generation": provider["generation"]}
    return answer(call, body, [row["updated_at"] for row in found.values()])


async def put(placement: Placement, call: Call) -> Reply:
    consumer = uuid_of(call.path["consumer"], "consumer_uuid")
    body = await call.json(_of_version(call, PUT_FORMS))
    await placement.store.write(claims.set_allocations, [_wanted(consumer, body)])
    return Reply(204)


async def post(placement: Placement, call: Call) -> Reply:
    body = await call.json(_of_version(call, POST_FORMS))
    if not body:
        raise BadRequest("The body names no consumer")
    wanted = [_wanted(uuid_of(consumer, "consumer_uuid"), form) for consumer, form in body.items()]
    if len({want.consumer for want in wanted}) < len(wanted):
        raise BadRequest("A consumer is named more than once")
    await placement.store.write(claims.set_allocations, wanted)
    return Reply(204)


async def delete(placement: Placement, call: Call) -> Reply:
    if not await placement.store.write(claims.release, call.path["consumer"]):
        raise NotFound(f"No allocations for consumer '{call.path['consumer']}'")
    return Reply(204)


def _of_version(call: Call, forms: Mapping[Version, T]) -> T:
    return next(form for since, form in forms.items() if call.since(*since))


def _wanted(consumer: str, form: Form) -> claims.Wanted:
    if isinstance(form, Form0):
        asked = [(item.resource_provider.uuid, item.resources) for item in form.allocations]
    else:
        asked = [(provider, item.resources) for provider, item in form.allocations.items()]
    project, user = (form.project_id, form.user_id) if isinstance(form, Form8 | Form13) else (INCOMPLETE, INCOMPLETE)
    return claims.Wanted(
        consumer,
        project,
        user,
        {uuid_of(provider, "resource provider uuid"): resources for provider, resources in asked},
        guarded=isinstance(form, Form28),
        generation=form.consumer_generation if isinstance(form, Form28) else None,
        consumer_type=form.consumer_type if isinstance(form, Form38) else None,
    )


ROUTES = [
    Route("GET", "/allocations/{consumer}", of_consumer, "service"),
    Route("PUT", "/allocations/{consumer}", put, "service"),
    Route("DELETE", "/allocations/{consumer}", delete, "service"),
    Route("POST", "/allocations", post, "service", since=(1, 13)),
    Route("GET", "/resource_providers/{uuid}/allocations", of_provider, "service"),
]
