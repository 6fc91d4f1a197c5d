"""/v2/images"""

from __future__ import annotations

import uuid
from typing import Any
from urllib.parse import urlencode

from pileus.errors import BadRequest
from pileus.http import paging
from pileus.http.face import Call, Reply, Route
from pileus.image import images as rules
from pileus.image.api import patch, shape
from pileus.image.listing import Search, listed
from pileus.image.service import Images

_PAGING = frozenset({"limit", "marker", "sort", "sort_key", "sort_dir", "tag", "visibility", "member_status"})


async def index(images: Images, call: Call) -> Reply:
    params = call.http.query_params
    if "sort" in params and ("sort_key" in params or "sort_dir" in params):
        raise BadRequest("Old and new sorting syntax cannot be combined: give sort, or sort_key and sort_dir.")
    page = paging.parse(call)
    search = Search(
        filters={name: value for name, value in params.items() if name not in _PAGING},
        labels=[tag.strip() for tag in params.getlist("tag")],
        visibility=params.get("visibility"),
        member_status=params.get("member_status", "accepted"),
    )
    found = await images.store.read(listed, call.context, search, page)
    query = urlencode([(name, value) for name, value in params.multi_items() if name != "marker"])
    body: dict[str, Any] = {
        "images": [shape.image(row) for row in found],
        "first": f"/v2/images?{query}" if query else "/v2/images",
        "schema": "/v2/schemas/images",
    }
    following = paging.next_link(call, found, page, "/v2/images")
    if following is not None:
        body["next"] = following.removeprefix(call.base)
    return Reply(body=body)


async def create(images: Images, call: Call) -> Reply:
    given = await call.json(dict[str, Any])
    image_id = shape.uuid_of(given.pop("id")) if "id" in given else str(uuid.uuid4())
    made = await images.store.write(rules.create, call.context, image_id, given)
    return Reply(201, shape.image(made), {"Location": f"{call.base}/v2/images/{image_id}"})


async def show(images: Images, call: Call) -> Reply:
    return Reply(body=shape.image(await images.store.read(rules.show, call.context, call.path["id"])))


async def update(images: Images, call: Call) -> Reply:
    changes = await patch.changes(call)
    return Reply(body=shape.image(await images.store.write(rules.change, call.context, call.path["id"], changes)))


async def delete(images: Images, call: Call) -> Reply:
    await images.delete(call.context, call.path["id"])
    return Reply(204)


async def deactivate(images: Images, call: Call) -> Reply:
    await images.store.write(rules.set_status, call.context, call.path["id"], "deactivated")
    return Reply(204)


async def reactivate(images: Images, call: Call) -> Reply:
    await images.store.write(rules.set_status, call.context, call.path["id"], "active")
    return Reply(204)


ROUTES = [
    Route("GET", "/v2/images", index, "reader"),
    Route("POST", "/v2/images", create, "member"),
    Route("GET", "/v2/images/{id}", show, "reader"),
    Route("PATCH", "/v2/images/{id}", update, "member"),
    Route("DELETE", "/v2/images/{id}", delete, "member"),
    Route("POST", "/v2/images/{id}/actions/deactivate", deactivate, "member"),
    Route("POST", "/v2/images/{id}/actions/reactivate", reactivate, "member"),
]
