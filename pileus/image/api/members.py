"""/v2/images/{id}/members"""

from __future__ import annotations

from msgspec import Struct

from pileus.http.face import Call, Reply, Route
from pileus.image import members as rules
from pileus.image.api import shape
from pileus.image.service import Images


class New(Struct, forbid_unknown_fields=True):
    member: str


class Answer(Struct, forbid_unknown_fields=True):
    status: rules.Status


async def index(images: Images, call: Call) -> Reply:
    found = await images.store.read(rules.listed, call.context, call.path["id"])
    return Reply(body={"members": [shape.member(row) for row in found], "schema": "/v2/schemas/members"})


async def add(images: Images, call: Call) -> Reply:
    body = await call.json(New)
    return Reply(body=shape.member(await images.store.write(rules.add, call.context, call.path["id"], body.member)))


async def show(images: Images, call: Call) -> Reply:
    found = await images.store.read(rules.member, call.context, call.path["id"], call.path["member"])
    return Reply(body=shape.member(found))


async def answer(images: Images, call: Call) -> Reply:
    body = await call.json(Answer)
    changed = await images.store.write(rules.answer, call.context, call.path["id"], call.path["member"], body.status)
    return Reply(body=shape.member(changed))


async def remove(images: Images, call: Call) -> Reply:
    await images.store.write(rules.remove, call.context, call.path["id"], call.path["member"])
    return Reply(204)


ROUTES = [
    Route("GET", "/v2/images/{id}/members", index, "reader"),
    Route("POST", "/v2/images/{id}/members", add, "member"),
    Route("GET", "/v2/images/{id}/members/{member}", show, "reader"),
    Route("PUT", "/v2/images/{id}/members/{member}", answer, "member"),
    Route("DELETE", "/v2/images/{id}/members/{member}", remove, "member"),
]
