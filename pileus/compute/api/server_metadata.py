"""/servers/{id}/metadata."""

from __future__ import annotations

from pileus.compute import metadata, servers
from pileus.compute.api import forms
from pileus.compute.service import Compute
from pileus.errors import BadRequest, NotFound
from pileus.http.face import Call, Reply, Route


class Metadata(forms.Body):
    metadata: dict[str, str]


class Meta(forms.Body):
    meta: dict[str, str]


async def list_metadata(compute: Compute, call: Call) -> Reply:
    row = await compute.store.read(servers.get, call.context, call.path["id"])
    return Reply(body={"metadata": row["metadata"]})


async def add_metadata(compute: Compute, call: Call) -> Reply:
    return await _put(compute, call, replace=False)


async def replace_metadata(compute: Compute, call: Call) -> Reply:
    return await _put(compute, call, replace=True)


async def show_item(compute: Compute, call: Call) -> Reply:
    row = await compute.store.read(servers.get, call.context, call.path["id"])
    key = call.path["key"]
    if key not in row["metadata"]:
        raise NotFound("Metadata item was not found")
    return Reply(body={"meta": {key: row["metadata"][key]}})


async def put_item(compute: Compute, call: Call) -> Reply:
    items = forms.metadata((await call.json(Meta)).meta, "meta")
    if list(items) != [call.path["key"]]:
        raise BadRequest("Request body and URI mismatch: give the one item of the path")
    await compute.store.write(metadata.put, compute.settings.quota, call.context, call.path["id"], items, replace=False)
    return Reply(body={"meta": items})


async def delete_item(compute: Compute, call: Call) -> Reply:
    await compute.store.write(metadata.remove, call.context, call.path["id"], call.path["key"])
    return Reply(204)


async def _put(compute: Compute, call: Call, *, replace: bool) -> Reply:
    items = forms.metadata((await call.json(Metadata)).metadata)
    after = await compute.store.write(metadata.put, compute.settings.quota, call.context, call.path["id"], items, replace=replace)
    return Reply(body={"metadata": after})


ROUTES = [
    Route("GET", "/v2.1/servers/{id}/metadata", list_metadata, "reader"),
    Route("POST", "/v2.1/servers/{id}/metadata", add_metadata, "member"),
    Route("PUT", "/v2.1/servers/{id}/metadata", replace_metadata, "member"),
    Route("GET", "/v2.1/servers/{id}/metadata/{key}", show_item, "reader"),
    Route("PUT", "/v2.1/servers/{id}/metadata/{key}", put_item, "member"),
    Route("DELETE", "/v2.1/servers/{id}/metadata/{key}", delete_item, "member"),
]
