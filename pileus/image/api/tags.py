"""/v2/images/{id}/tags/{tag}"""

from __future__ import annotations

from pileus.http.face import Call, Reply, Route
from pileus.image import images as rules
from pileus.image.service import Images


async def add(images: Images, call: Call) -> Reply:
    await images.store.write(rules.add_tag, call.context, call.path["id"], call.path["tag"])
    return Reply(204)


async def remove(images: Images, call: Call) -> Reply:
    await images.store.write(rules.remove_tag, call.context, call.path["id"], call.path["tag"])
    return Reply(204)


ROUTES = [
    Route("PUT", "/v2/images/{id}/tags/{tag}", add, "member"),
    Route("DELETE", "/v2/images/{id}/tags/{tag}", remove, "member"),
]
