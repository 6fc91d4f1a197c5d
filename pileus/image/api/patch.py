"""Glance's JSON patch: add, replace, remove, each on one attribute or property. (Source: Glance's "HTTP PATCH media types", v2.1.)"""

from __future__ import annotations

import re
from typing import Any

from pileus.errors import BadRequest, UnsupportedMediaType
from pileus.http.face import Call, decode
from pileus.image.images import Change

MEDIA = "application/openstack-images-v2.1-json-patch"

_OPERATIONS = ("add", "replace", "remove")
_BAD_ESCAPE = re.compile(r"~(?![01])")


async def changes(call: Call) -> list[Change]:
    """The body's operations. Raises BadRequest, UnsupportedMediaType."""
    if call.media != MEDIA:
        raise UnsupportedMediaType(f"Image PATCH expects Content-Type {MEDIA}", headers={"Accept-Patch": MEDIA})
    return [_change(raw) for raw in decode(await call.body(MEDIA), list[dict[str, Any]])]


def _change(raw: dict[str, Any]) -> Change:
    op = raw.get("op")
    if op not in _OPERATIONS:
        raise BadRequest(f"Invalid operation: `{op}`. It must be one of the following: {', '.join(_OPERATIONS)}.")
    name = _name(raw.get("path"))
    if op != "remove" and "value" not in raw:
        raise BadRequest(f'Operation "{op}" requires a member named "value".')
    return Change(op, name, raw.get("value"))


def _name(path: Any) -> str:
    """What a pointer names; only pointers with one part are known."""
    if not isinstance(path, str):
        raise BadRequest("Unable to find 'path' in JSON Schema change")
    if not path.startswith("/"):
        raise BadRequest(f'Pointer `{path}` does not start with "/".')
    if _BAD_ESCAPE.search(path):
        raise BadRequest(f'Pointer `{path}` contains "~" not part of a recognized escape sequence.')
    if "/" in path[1:]:
        raise BadRequest(f"Invalid JSON pointer for this resource: '{path}'")
    return path[1:].replace("~1", "/").replace("~0", "~").strip()
