"""Small parts of compute's answers: links, times in Nova's forms, host ids, numbers for old microversions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pileus.http.face import Call
from pileus.http.paging import next_link
from pileus.http.shape import iso
from pileus.store.paging import Page

VERSION_PATH = "/v2.1"


def links(base: str, collection: str, item: str) -> list[dict[str, str]]:
    """An item's own link, with the API's version, and its bookmark, without."""
    return [{"rel": "self", "href": f"{base}{VERSION_PATH}/{collection}/{item}"}, bookmark(base, collection, item)]


def bookmark(base: str, collection: str, item: str) -> dict[str, str]:
    return {"rel": "bookmark", "href": f"{base}/{collection}/{item}"}


def add_next(
    body: dict[str, Any], call: Call, items: Sequence[Any], page: Page, path: str, name: str, *, key: str = "id"
) -> dict[str, Any]:
    """Add `name`, the links to the next page, where this one is full."""
    href = next_link(call, items, page, VERSION_PATH + path, key=key)
    if href is not None:
        body[name] = [{"rel": "next", "href": href}]
    return body


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return iso(seconds) or ""


def moment(seconds: float) -> str:
    """2026-11-22T13:00:00Z. Remembered: a page's servers share their seconds."""
    return _second(int(seconds))


def micro(seconds: float | None) -> str | None:
    """2026-11-22T13:00:00.000000"""
    if seconds is None:
        return None
    whole, part = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"{_second(whole)[:-1]}.{part:06}"


@lru_cache(maxsize=8192)
def host_id(host: str | None, project_id: str) -> str:
    """A host as a project sees it: the same for all its servers there, and nothing to be read from it."""
    return hashlib.sha224((project_id + host).encode()).hexdigest() if host else ""


def number_of(identifier: str) -> int:
    """The number that stands for an id where an old microversion wants one. Stable, and within what JSON readers keep exact."""
    return int(hashlib.sha256(identifier.encode()).hexdigest()[:12], 16)
