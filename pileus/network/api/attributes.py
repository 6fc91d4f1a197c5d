"""Request bodies: which attributes a resource takes, who may set them, and what values they may have. Refusals as Neutron words them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pileus.context import Context
from pileus.errors import BadRequest, Forbidden
from pileus.http.face import Call

Convert = Callable[[str, Any], Any]
"""(attribute's name, value) → value; raises BadRequest."""

_MAC = re.compile(r"([0-9a-fA-F]{2})([:-]?)([0-9a-fA-F]{2})\2([0-9a-fA-F]{2})\2([0-9a-fA-F]{2})\2([0-9a-fA-F]{2})\2([0-9a-fA-F]{2})")
_NO_DEFAULT = object()


@dataclass(frozen=True)
class Attribute:
    """`field`: its name in the rules. `admin`: only an admin may give it a value other than `default`."""

    name: str
    field: str
    convert: Convert
    post: bool = True
    put: bool = True
    required: bool = False
    admin: bool = False
    default: Any = _NO_DEFAULT


def read_only(*names: str) -> tuple[Attribute, ...]:
    return tuple(Attribute(name, name, anything, post=False, put=False) for name in names)


async def bodies(call: Call, singular: str, plural: str) -> tuple[list[dict[str, Any]], bool]:
    """The resources of a POST, and whether they came as a list (bulk)."""
    body = await call.json(dict[str, Any])
    if plural in body:
        found = body[plural]
        if not isinstance(found, list) or not found or not all(isinstance(item, dict) for item in found):
            raise bad(f"Invalid input for {plural}. Reason: a list of objects is needed, with one at least.")
        return found, True
    return [_one(body, singular)], False


async def body(call: Call, singular: str) -> dict[str, Any]:
    return _one(await call.json(dict[str, Any]), singular)


def convert(given: dict[str, Any], attributes: Sequence[Attribute], context: Context, *, create: bool, singular: str) -> dict[str, Any]:
    """Field → value of what was given. Raises BadRequest, Forbidden."""
    known = {attribute.name: attribute for attribute in attributes}
    unknown = [name for name in given if name not in known]
    if unknown:
        raise bad(f"Unrecognized attribute(s) '{', '.join(unknown)}'")
    values: dict[str, Any] = {}
    for name, value in given.items():
        attribute = known[name]
        if not (attribute.post if create else attribute.put):
            raise bad(f"Attribute '{name}' not allowed in POST" if create else f"Cannot update read-only attribute {name}")
        converted = attribute.convert(name, value)
        if attribute.admin and not context.is_admin and converted != attribute.default:
            raise disallowed(f"{'create' if create else 'update'}_{singular}:{name}")
        if attribute.field in values and values[attribute.field] != converted:
            raise bad(f"Attributes that mean the same differ: '{name}' and another name of it")
        values[attribute.field] = converted
    missing = [attribute.name for attribute in attributes if create and attribute.required and attribute.name not in given]
    if missing:
        raise bad(f"Failed to parse request. Required attribute '{missing[0]}' not specified")
    return values


def owner(values: dict[str, Any], context: Context) -> str:
    """Whose the new resource will be; takes `project_id` out of the values."""
    project_id: str = values.pop("project_id", None) or context.project
    if project_id != context.project and not context.is_admin:
        raise bad("Specifying 'project_id' or 'tenant_id' other than the authenticated project in request requires admin privileges")
    return project_id


async def new(call: Call, attributes: Sequence[Attribute], singular: str) -> tuple[list[tuple[str, dict[str, Any]]], bool]:
    """What a POST asks for: whose each resource will be and its values, and whether they came as a list (bulk)."""
    given, bulk = await bodies(call, singular, f"{singular}s")
    found = [convert(one, attributes, call.context, create=True, singular=singular) for one in given]
    return [(owner(values, call.context), values) for values in found], bulk


def disallowed(rule: str) -> Forbidden:
    return Forbidden(f"(rule:{rule}) is disallowed by policy: it needs the admin role or the network's owner.", kind="PolicyNotAuthorized")


def bad(message: str) -> BadRequest:
    return BadRequest(message, kind="HTTPBadRequest")


def invalid(name: str, reason: str) -> BadRequest:
    return bad(f"Invalid input for {name}. Reason: {reason}.")


def anything(name: str, value: Any) -> Any:
    return value


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise invalid(name, f"'{value}' is not a valid string")
    if len(value) > 255:
        raise invalid(name, f"'{value[:20]}…' exceeds maximum length of 255")
    return value


def identifier(name: str, value: Any) -> str:
    if not text(name, value):
        raise invalid(name, "an id is needed")
    return str(value)


def boolean(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false", "1", "0"):
        return value.lower() in ("true", "1")
    if value in (0, 1) and isinstance(value, int):
        return bool(value)
    raise invalid(name, f"'{value}' cannot be converted to boolean")


def integer(name: str, value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 31:
        return value
    raise invalid(name, f"'{value}' is not an integer")


def nothing(reason: str) -> Convert:
    """An attribute that exists in Neutron and here can only be left out or null."""

    def check(name: str, value: Any) -> None:
        if value is not None:
            raise BadRequest(f"Invalid input for operation: {name} is not offered: {reason}.", kind="InvalidInput")

    return check


def optional(inner: Convert) -> Convert:
    return lambda name, value: None if value is None else inner(name, value)


def mac(name: str, value: Any) -> str:
    found = _MAC.fullmatch(text(name, value))
    if found is None:
        raise invalid(name, f"'{value}' is not a valid MAC address")
    plain = re.sub("[:-]", "", value).lower()
    if int(plain[1], 16) & 1 or not int(plain, 16):
        raise invalid(name, f"'{value}' is not the address of one device")
    return ":".join(plain[i : i + 2] for i in range(0, 12, 2))


def items(keys: Sequence[str], needed: Sequence[str] = ()) -> Convert:
    """A list of objects with these keys, all strings."""

    def check(name: str, value: Any) -> list[dict[str, str]]:
        if value is None:
            return []
        if not isinstance(value, list):
            raise invalid(name, f"'{value}' is not a list")
        for item in value:
            if not isinstance(item, dict):
                raise invalid(name, f"'{item}' is not a dictionary")
            if not item.keys() <= set(keys) or not item.keys() >= set(needed):
                raise invalid(name, f"each entry has {', '.join(keys)}" + (f"; needed: {', '.join(needed)}" if needed else ""))
            for key, part in item.items():
                text(f"{name} ({key})", part)
        return value

    return check


def texts(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid(name, f"'{value}' is not a list")
    return [text(name, item) for item in value]


def _one(body: dict[str, Any], singular: str) -> dict[str, Any]:
    found = body.get(singular)
    if not isinstance(found, dict):
        raise bad(f"Unable to find '{singular}' in request body")
    return found
