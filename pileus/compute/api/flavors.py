"""/flavors, with their extra specs and who may use them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from pileus.compute import flavors
from pileus.compute.api import forms
from pileus.compute.api.shape import add_next, links
from pileus.compute.service import Compute
from pileus.errors import BadRequest, NotFound
from pileus.http import paging
from pileus.http.face import Call, Reply, Route
from pileus.store.sql import Row

LIST_QUERY = ("limit", "marker", "is_public", "minRam", "minDisk", "sort_key", "sort_dir")
_ID = re.compile(r"^(?! )[a-zA-Z0-9. _-]{1,255}(?<! )\Z")
_SPEC = re.compile(r"^[a-zA-Z0-9-_:. ]{1,255}\Z")


class NewFlavor(forms.Body):
    name: str
    ram: forms.Whole
    vcpus: forms.Whole
    disk: forms.Whole
    id: str | int | None = None
    ephemeral: forms.Whole = msgspec.field(default=0, name="OS-FLV-EXT-DATA:ephemeral")
    swap: forms.Whole = 0
    rxtx_factor: float | str = 1.0
    is_public: forms.Flag = msgspec.field(default=True, name="os-flavor-access:is_public")
    description: str | UnsetType | None = UNSET


class CreateFlavor(forms.Body):
    flavor: NewFlavor


class Description(forms.Body):
    description: str | None


class UpdateFlavor(forms.Body):
    flavor: Description


class ExtraSpecs(forms.Body):
    extra_specs: dict[str, str | int | float]


class Tenant(forms.Body):
    tenant: str


class AccessAction(forms.Body):
    add: Tenant | UnsetType = msgspec.field(default=UNSET, name="addTenantAccess")
    remove: Tenant | UnsetType = msgspec.field(default=UNSET, name="removeTenantAccess")


async def list_flavors(compute: Compute, call: Call) -> Reply:
    return await _list(compute, call, "/flavors", _brief)


async def list_details(compute: Compute, call: Call) -> Reply:
    return await _list(compute, call, "/flavors/detail", _view)


async def create_flavor(compute: Compute, call: Call) -> Reply:
    given = (await call.json(CreateFlavor)).flavor
    if given.description is not UNSET and not call.since(2, 55):
        raise BadRequest("Additional properties are not allowed ('description' was unexpected)")
    for field, value in (("OS-FLV-EXT-DATA:ephemeral", given.ephemeral), ("swap", given.swap)):
        if forms.whole(value, field):
            raise BadRequest(f"{field}: only 0 is offered; a server has its root disk and no other")
    row = await compute.store.write(
        flavors.create,
        name=forms.name(given.name),
        ram=forms.whole(given.ram, "ram", 1),
        vcpus=forms.whole(given.vcpus, "vcpus", 1),
        disk=forms.whole(given.disk, "disk"),
        flavor_id=_flavor_id(given.id),
        rxtx_factor=_factor(given.rxtx_factor),
        is_public=forms.flag(given.is_public, "os-flavor-access:is_public"),
        description=None if given.description is UNSET else forms.text(given.description, "description", 65535),
    )
    return Reply(body={"flavor": _view(call, row)})


async def show_flavor(compute: Compute, call: Call) -> Reply:
    row = await compute.store.read(flavors.get, call.context, call.path["id"])
    return Reply(body={"flavor": _view(call, row)})


async def update_flavor(compute: Compute, call: Call) -> Reply:
    given = (await call.json(UpdateFlavor)).flavor
    description = forms.text(given.description, "description", 65535)
    row = await compute.store.write(flavors.describe, call.context, call.path["id"], description)
    return Reply(body={"flavor": _view(call, row)})


async def delete_flavor(compute: Compute, call: Call) -> Reply:
    await compute.store.write(flavors.delete, call.path["id"])
    return Reply(202)


async def list_specs(compute: Compute, call: Call) -> Reply:
    row = await compute.store.read(flavors.get, call.context, call.path["id"])
    return Reply(body={"extra_specs": row["extra_specs"]})


async def create_specs(compute: Compute, call: Call) -> Reply:
    specs = _specs((await call.json(ExtraSpecs)).extra_specs)
    await compute.store.write(flavors.add_specs, call.context, call.path["id"], specs)
    return Reply(body={"extra_specs": specs})


async def show_spec(compute: Compute, call: Call) -> Reply:
    row = await compute.store.read(flavors.get, call.context, call.path["id"])
    key = call.path["key"]
    if key not in row["extra_specs"]:
        raise NotFound(f"Flavor {row['id']} has no extra specs with key {key}.")
    return Reply(body={key: row["extra_specs"][key]})


async def update_spec(compute: Compute, call: Call) -> Reply:
    specs = _specs(await call.json(dict[str, str | int | float]))
    if list(specs) != [call.path["key"]]:
        raise BadRequest("Request body and URI mismatch")
    await compute.store.write(flavors.add_specs, call.context, call.path["id"], specs)
    return Reply(body=specs)


async def delete_spec(compute: Compute, call: Call) -> Reply:
    await compute.store.write(flavors.remove_spec, call.context, call.path["id"], call.path["key"])
    return Reply(200)


async def list_access(compute: Compute, call: Call) -> Reply:
    row = await compute.store.read(flavors.get, call.context, call.path["id"])
    if row["is_public"]:
        raise NotFound("Access list not available for public flavors.")
    return Reply(body=_access(row["id"], await compute.store.read(flavors.projects, row["id"])))


async def change_access(compute: Compute, call: Call) -> Reply:
    given = await call.json(AccessAction)
    flavor_id = call.path["id"]
    if given.add is not UNSET and given.remove is UNSET:
        project = forms.name(given.add.tenant, "tenant")
        found = await compute.store.write(flavors.give, call.context, flavor_id, project, private_only=call.since(2, 7))
    elif given.remove is not UNSET and given.add is UNSET:
        project = forms.name(given.remove.tenant, "tenant")
        found = await compute.store.write(flavors.take_back, call.context, flavor_id, project)
    else:
        raise BadRequest("There is no such action; give one of addTenantAccess, removeTenantAccess")
    return Reply(body=_access(flavor_id, found))


async def _list(compute: Compute, call: Call, path: str, view: Callable[[Call, Row], dict[str, Any]]) -> Reply:
    forms.known_query(call, LIST_QUERY)
    page = paging.parse(call, default=(("flavorid", "asc"),))
    if not call.query("sort_dir"):
        page = replace(page, sorts=tuple((key, "asc") for key, _ in page.sorts))
    found = await compute.store.read(
        flavors.page,
        call.context,
        page,
        is_public=_is_public(call.query("is_public")),
        min_ram=_least(call, "minRam"),
        min_disk=_least(call, "minDisk"),
    )
    body = {"flavors": [view(call, row) for row in found]}
    return Reply(body=add_next(body, call, found, page, path, "flavors_links"))


def _is_public(text: str | None) -> bool | None:
    """Left out: the public ones. `none`: all."""
    if text is None:
        return True
    if text.lower() == "none":
        return None
    return forms.flag({"t": "true", "f": "false"}.get(text.lower(), text), "is_public")


def _least(call: Call, name: str) -> int | None:
    text = call.query(name)
    return None if text is None else forms.whole(text, name, -forms.MAX_INT)


def _flavor_id(given: str | int | None) -> str | None:
    if given is None:
        return None
    if not _ID.match(str(given)):
        raise forms.invalid("id", given, "expected 1 to 255 letters, digits, dots, dashes, underscores and inner spaces")
    return str(given)


def _factor(given: float | str) -> float:
    try:
        factor = float(given)
    except ValueError:
        factor = 0.0
    if not 0 < factor <= 3.40282e38:
        raise forms.invalid("rxtx_factor", given, "expected a number above 0")
    return factor


def _specs(given: Mapping[str, str | int | float]) -> dict[str, str]:
    for key, value in given.items():
        if not _SPEC.match(key) or len(str(value)) > 255:
            raise forms.invalid(f"extra_specs.{key}", value, "expected keys of letters, digits, spaces and -_:., values of at most 255")
    return {key: str(value) for key, value in given.items()}


def _access(flavor_id: str, projects: list[str]) -> dict[str, Any]:
    return {"flavor_access": [{"flavor_id": flavor_id, "tenant_id": project} for project in projects]}


def _brief(call: Call, row: Row) -> dict[str, Any]:
    view = {"id": row["id"], "name": row["name"], "links": links(call.base, "flavors", row["id"])}
    return view | {"description": row["description"]} if call.since(2, 55) else view


def _view(call: Call, row: Row) -> dict[str, Any]:
    view = _brief(call, row) | {
        "ram": row["ram"],
        "disk": row["disk"],
        "swap": row["swap"] or (0 if call.since(2, 75) else ""),
        "vcpus": row["vcpus"],
        "OS-FLV-EXT-DATA:ephemeral": row["ephemeral"],
        "OS-FLV-DISABLED:disabled": False,
        "os-flavor-access:is_public": row["is_public"],
        "rxtx_factor": row["rxtx_factor"],
    }
    if call.since(2, 61):
        view["extra_specs"] = row["extra_specs"]
    return view


ROUTES = [
    Route("GET", "/v2.1/flavors", list_flavors, "reader"),
    Route("POST", "/v2.1/flavors", create_flavor, "admin"),
    Route("GET", "/v2.1/flavors/detail", list_details, "reader"),
    Route("GET", "/v2.1/flavors/{id}", show_flavor, "reader"),
    Route("PUT", "/v2.1/flavors/{id}", update_flavor, "admin", since=(2, 55)),
    Route("DELETE", "/v2.1/flavors/{id}", delete_flavor, "admin"),
    Route("POST", "/v2.1/flavors/{id}/action", change_access, "admin"),
    Route("GET", "/v2.1/flavors/{id}/os-flavor-access", list_access, "admin"),
    Route("GET", "/v2.1/flavors/{id}/os-extra_specs", list_specs, "reader"),
    Route("POST", "/v2.1/flavors/{id}/os-extra_specs", create_specs, "admin"),
    Route("GET", "/v2.1/flavors/{id}/os-extra_specs/{key}", show_spec, "reader"),
    Route("PUT", "/v2.1/flavors/{id}/os-extra_specs/{key}", update_spec, "admin"),
    Route("DELETE", "/v2.1/flavors/{id}/os-extra_specs/{key}", delete_spec, "admin"),
]
