"""Lists of images: who sees which, filters, pages. (Source: Glance's api-ref, "List images".)"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, func, not_, or_, select, true

from pileus.context import Context
from pileus.errors import BadRequest
from pileus.image.images import completed, member_of
from pileus.image.tables import images, properties, tags
from pileus.store import Tx
from pileus.store.paging import Page, fetch
from pileus.store.sql import Row

Condition = ColumnElement[bool]

SORTABLE: dict[str, ColumnElement[Any]] = {
    "id": images.c.id,
    "name": func.coalesce(images.c.name, ""),
    "status": images.c.status,
    "container_format": func.coalesce(images.c.container_format, ""),
    "disk_format": func.coalesce(images.c.disk_format, ""),
    "size": func.coalesce(images.c.size, 0),
    "created_at": images.c.created_at,
    "updated_at": images.c.updated_at,
}

MEMBER_STATUSES = ("accepted", "pending", "rejected", "all")


@dataclass(frozen=True)
class Search:
    """What is looked for: `filters` by attribute or property, `labels` that an image has all of."""

    filters: Mapping[str, str]
    labels: Sequence[str] = ()
    visibility: str | None = None
    member_status: str = "accepted"


def listed(tx: Tx, context: Context, search: Search, page: Page) -> list[Row]:
    """One page of images with their `tags` and `properties`. Raises BadRequest for a filter, marker or sort key that cannot be."""
    statement: Select[Any] = select(images).where(_within(context, search))
    if "os_hidden" not in search.filters:
        statement = statement.where(images.c.os_hidden.is_(False))
    for name, value in search.filters.items():
        make = FILTERS.get(name)
        statement = statement.where(make(name, value) if make else _has_property(name, value))
    for tag in search.labels:
        statement = statement.where(exists().where(tags.c.image_id == images.c.id, tags.c.tag == tag))
    return completed(tx, fetch(tx, statement, page, id_column=images.c.id, sortable=SORTABLE))


def _within(context: Context, search: Search) -> Condition:
    """Without a visibility: what is the caller's, public, or shared with it and taken. Community images only when asked for."""
    status = None if search.member_status == "all" else search.member_status
    if search.member_status not in MEMBER_STATUSES:
        raise BadRequest(f"Invalid status: {search.member_status}; expected one of {', '.join(MEMBER_STATUSES)}")
    mine: Condition = true() if context.is_admin else images.c.owner == context.project_id
    within = {
        None: or_(mine, images.c.visibility == "public", member_of(context.project_id, status)),
        "all": or_(mine, images.c.visibility.in_(["public", "community"]), member_of(context.project_id, status)),
        "public": images.c.visibility == "public",
        "community": images.c.visibility == "community",
        "private": and_(mine, images.c.visibility == "private"),
        "shared": and_(images.c.visibility == "shared", or_(mine, member_of(context.project_id, status))),
    }
    if search.visibility not in within:
        raise BadRequest(f"Invalid visibility value: {search.visibility}; expected one of {', '.join(k for k in within if k)}")
    return within[search.visibility]


def _text(name: str, value: str) -> Condition:
    return images.c[name] == value


def _one_of(name: str, value: str) -> Condition:
    """`value`, or `in:a,b,"c,d"`."""
    operator, colon, rest = value.partition(":")
    if not colon or operator not in ("in", "eq", "neq", "gt", "gte", "lt", "lte"):
        return _text(name, value)
    if operator == "eq":
        return _text(name, rest)
    if operator != "in":
        raise BadRequest(f"Unable to filter {name} by operator '{operator}': only in: and eq: are known for it.")
    return images.c[name].in_(_split(rest))


def _split(text: str) -> list[str]:
    """Commas part values, unless quoted."""
    parts, quoted = [""], False
    for char in text:
        if char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            parts.append("")
        else:
            parts[-1] += char
    if quoted:
        raise BadRequest(f"Invalid filter value {text}: a quote is not closed.")
    return parts


def _number(name: str, value: str) -> Condition:
    return images.c[name] == _whole(name, value)


def _least(name: str, value: str) -> Condition:
    return images.c[name.removesuffix("_min")] >= _whole(name, value)


def _most(name: str, value: str) -> Condition:
    return images.c[name.removesuffix("_max")] <= _whole(name, value)


def _whole(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 18):
        raise BadRequest(f"Unable to filter {name} with a non-numeric value: {value}")
    return int(value)


def _flag(name: str, value: str) -> Condition:
    if value.lower() not in ("true", "false"):
        raise BadRequest(f"Invalid value '{value}' for '{name}' filter. Valid values are 'true' or 'false'.")
    return images.c[name].is_(value.lower() == "true")


def _time(name: str, value: str) -> Condition:
    """`2026-11-22T13:00:00Z`, `gt:…` and the like; to the second, as times are shown."""
    operator, _, rest = value.partition(":")
    if operator not in _COMPARE:
        operator, rest = "eq", value
    try:
        moment = datetime.fromisoformat(rest)
        second = float(int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()))
    except (ValueError, OverflowError):
        raise BadRequest(f'Bad "{name}" query filter format. Use ISO 8601 DateTime notation, as in gt:2026-11-22T13:00:00Z.') from None
    return _COMPARE[operator](images.c[name], second)


_COMPARE: dict[str, Callable[[ColumnElement[float], float], Condition]] = {
    "eq": lambda column, second: and_(column >= second, column < second + 1),
    "neq": lambda column, second: not_(and_(column >= second, column < second + 1)),
    "gt": lambda column, second: column >= second + 1,
    "gte": lambda column, second: column >= second,
    "lt": lambda column, second: column < second,
    "lte": lambda column, second: column < second + 1,
}


def _algorithm(name: str, value: str) -> Condition:
    return and_(images.c.os_hash_value.is_not(None), true() if value == "sha512" else not_(true()))


def _has_property(name: str, value: str) -> Condition:
    return exists().where(properties.c.image_id == images.c.id, properties.c.name == name, properties.c.value == value)


FILTERS: dict[str, Callable[[str, str], Condition]] = {
    **dict.fromkeys(("owner", "checksum", "os_hash_value"), _text),
    **dict.fromkeys(("id", "name", "status", "disk_format", "container_format"), _one_of),
    **dict.fromkeys(("size", "virtual_size", "min_disk", "min_ram"), _number),
    **dict.fromkeys(("size_min", "min_disk_min", "min_ram_min"), _least),
    **dict.fromkeys(("size_max", "min_disk_max", "min_ram_max"), _most),
    **dict.fromkeys(("protected", "os_hidden"), _flag),
    **dict.fromkeys(("created_at", "updated_at"), _time),
    "os_hash_algo": _algorithm,
}
"""By attribute; any other name is a property's."""
