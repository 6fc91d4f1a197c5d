"""What placement's handlers share: answers with their dates, uuids, and the `resources` query."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterable
from email.utils import formatdate
from typing import Annotated, Any

from msgspec import Meta

from pileus.errors import BadRequest
from pileus.http.face import Call, Reply
from pileus.http.microversions import Version, show
from pileus.placement.classes import PATTERN

MAX = 2**31 - 1

ClassName = Annotated[str, Meta(pattern=PATTERN)]
Amount = Annotated[int, Meta(ge=1, le=MAX)]
Amounts = Annotated[dict[ClassName, Amount], Meta(min_length=1)]

NOT_OFFERED = {
    "member_of": "aggregates are not offered",
    "required": "traits are not offered",
    "root_required": "traits are not offered",
    "in_tree": "every provider is a tree of its own; ask for it by uuid",
    "same_subtree": "every provider is a tree of its own",
    "group_policy": "request groups need nested providers, which are not offered; put all into resources",
}


def answer(call: Call, body: Any, modified: Iterable[float] = (), *, status: int = 200, location: str = "") -> Reply:
    """A body, from 1.15 on with the time of its latest change (now where it has none)."""
    headers = {"Location": location} if location else {}
    if call.since(1, 15):
        headers |= {"Last-Modified": formatdate(max(modified, default=time.time()), usegmt=True), "Cache-Control": "no-cache"}
    return Reply(status, body, headers)


def uuid_of(text: str, name: str) -> str:
    """The uuid in its usual form. Raises BadRequest."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise BadRequest(f"Malformed {name}: {text}; give a UUID") from None


def check_query(call: Call, known: dict[str, Version]) -> None:
    """Raises BadRequest for a parameter that is not offered, not in this version, or given twice."""
    names = [name for name, _ in call.http.query_params.multi_items()]
    for name in names:
        since = known.get(name)
        if since is None:
            raise BadRequest(f"Invalid query string parameters: {name}: {_why_not(name, known)}")
        if not call.since(*since):
            raise BadRequest(f"Invalid query string parameters: {name} needs placement microversion {show(since)} or later")
        if names.count(name) > 1:
            raise BadRequest(f"Query parameter {name} was given more than once", kind="placement.query.duplicate_key")


def resources_query(text: str) -> dict[str, int]:
    """`VCPU:2,MEMORY_MB:512`. Raises BadRequest."""
    found: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = part.partition(":")
        if not name or not (number.isascii() and number.isdigit() and len(number) < 11 and 1 <= int(number) <= MAX):
            raise BadRequest(
                f"Badly formed resources parameter. Expected resources=NAME:AMOUNT,NAME:AMOUNT with amounts of 1 or more. Got: {text}",
                kind="placement.query.bad_value",
            )
        if name in found:
            raise BadRequest(f"Badly formed resources parameter: {name} is there more than once.", kind="placement.query.bad_value")
        found[name] = int(number)
    return found


def _why_not(name: str, known: Collection[str]) -> str:
    if name in NOT_OFFERED:
        return NOT_OFFERED[name]
    if "resources" in known and name.startswith("resources"):
        return NOT_OFFERED["group_policy"]
    return f"known are {', '.join(sorted(known)) or 'none'}"
