"""limit, marker and sort keys of a request, and the links to the next page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from pileus.errors import BadRequest
from pileus.http.face import Call
from pileus.store.paging import Direction, Page


def parse(call: Call, *, default: Sequence[tuple[str, Direction]] = (("created_at", "desc"),), reverse: bool = False) -> Page:
    """The page asked for, capped at the largest allowed. `sort_key`/`sort_dir` may repeat; Glance's `sort=a:asc,b` is taken too."""
    return Page(_limit(call), call.query("marker") or None, _sorts(call) or tuple(default), reverse)


def next_link(call: Call, items: Sequence[Any], page: Page, path: str, *, key: str = "id") -> str | None:
    """The URL of the next page; None when this one was not full."""
    if page.limit is None or len(items) < page.limit or not items:
        return None
    query = [(k, v) for k, v in call.http.query_params.multi_items() if k != "marker"]
    return f"{call.base}{path}?{urlencode([*query, ('marker', items[-1][key])])}"


def boolean(call: Call, name: str) -> bool | None:
    """A query parameter as a boolean; None when it is not given. Raises BadRequest."""
    text = call.query(name)
    if text is None:
        return None
    known = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if text.lower() not in known:
        raise BadRequest(f"{name}={text}: expected true or false")
    return known[text.lower()]


def _limit(call: Call) -> int:
    text = call.query("limit")
    if text is None:
        return call.max_limit
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise BadRequest(f"limit={text}: expected a whole number, 0 or larger", kind="InvalidInput")
    return min(int(text), call.max_limit)


def _sorts(call: Call) -> tuple[tuple[str, Direction], ...]:
    params = call.http.query_params
    if params.get("sort"):
        pairs = [part.partition(":")[::2] for part in params["sort"].split(",")]
        return tuple((key, _direction(way or "desc")) for key, way in pairs)
    ways = [_direction(way) for way in params.getlist("sort_dir")]
    keys = params.getlist("sort_key")
    if len(ways) > len(keys) and keys:
        raise BadRequest("more sort_dir than sort_key; give one for each")
    return tuple((key, ways[i] if i < len(ways) else _default_way(ways)) for i, key in enumerate(keys))


def _default_way(ways: Sequence[Direction]) -> Direction:
    return ways[0] if ways else "desc"


def _direction(text: str) -> Direction:
    if text == "asc":
        return "asc"
    if text == "desc":
        return "desc"
    raise BadRequest(f"sort direction {text!r} is neither asc nor desc")
