"""Forms of request values that Nova's schemas share: numbers as text, booleans as words, names, ids."""

from __future__ import annotations

import ipaddress
import re
import uuid
from collections.abc import Collection, Mapping
from datetime import UTC, datetime

import msgspec

from pileus.errors import BadRequest
from pileus.http.face import Call
from pileus.http.microversions import Version

MAX_INT = 0x7FFFFFFF
Flag = bool | str
Whole = int | str


class Body(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A request body; unknown keys are refused."""


_TRUE = frozenset({"true", "1", "on", "yes"})
_FALSE = frozenset({"false", "0", "off", "no"})
_METADATA_KEY = re.compile(r"^[a-zA-Z0-9-_:. ]{1,255}\Z")
_HOST_LABEL = re.compile(r"^[a-zA-Z0-9]+[a-zA-Z0-9-]*[a-zA-Z0-9]+\Z")
_FQDN = re.compile(r"^[a-zA-Z0-9-._]{1,255}\Z")


def invalid(where: str, value: object, why: str) -> BadRequest:
    text = repr(value)
    return BadRequest(f"Invalid input for field/attribute {where}. Value: {text if len(text) <= 100 else text[:100] + '…'}. {why}")


def flag(value: Flag, where: str) -> bool:
    """A JSON boolean or one of Nova's words for it. Raises BadRequest."""
    if isinstance(value, bool):
        return value
    if value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise invalid(where, value, "expected a boolean")


def whole(value: Whole, where: str, least: int = 0, most: int = MAX_INT) -> int:
    """A whole number, also as text. Raises BadRequest."""
    if isinstance(value, str):
        if not re.fullmatch(r"-?[0-9]{1,18}", value):
            raise invalid(where, value, "expected a whole number")
        value = int(value)
    if not least <= value <= most:
        raise invalid(where, value, f"expected {least} to {most}")
    return value


def name(value: str, where: str = "name") -> str:
    """1 to 255 printable characters, no space at either end. Raises BadRequest."""
    if not 1 <= len(value) <= 255:
        raise invalid(where, value, "expected 1 to 255 characters")
    if value != value.strip() or not value.replace("\t", " ").isprintable():
        raise invalid(where, value, "expected printable characters, without spaces at the beginning or end")
    return value


def text(value: str | None, where: str, most: int = 255) -> str | None:
    """Printable text, or null. Raises BadRequest."""
    if value is None:
        return None
    if len(value) > most or not re.sub(r"[\n\r\t]", " ", value).isprintable():
        raise invalid(where, value, f"expected at most {most} printable characters")
    return value


def uid(value: str, where: str) -> str:
    """A UUID in its usual form (Nova takes it without dashes as well). Raises BadRequest."""
    try:
        return str(uuid.UUID(value))
    except ValueError:
        raise invalid(where, value, "expected a UUID") from None


def address(value: str, where: str, version: int | None = None) -> str:
    """An IP address. Raises BadRequest."""
    try:
        found = ipaddress.ip_address(value)
    except ValueError:
        raise invalid(where, value, "expected an IP address") from None
    if version is not None and found.version != version:
        raise invalid(where, value, f"expected an IPv{version} address")
    return str(found)


def hostname(value: str, where: str, *, fqdn: bool) -> str:
    """A host's name: one label, or with dots where `fqdn` is allowed. Raises BadRequest."""
    good = _FQDN.match(value) if fqdn else (len(value) <= 63 and _HOST_LABEL.match(value))
    if not good:
        raise invalid(where, value, "expected letters, digits and dashes")
    return value


def metadata(given: Mapping[str, str], where: str = "metadata") -> dict[str, str]:
    """Keys of 1 to 255 of a-z A-Z 0-9 - _ : . and space, values of at most 255 characters. Raises BadRequest."""
    for key, value in given.items():
        if not _METADATA_KEY.match(key):
            raise invalid(where, key, "expected a key of 1 to 255 letters, digits, spaces and -_:.")
        if len(value) > 255:
            raise invalid(f"{where}.{key}", value, "expected at most 255 characters")
    return dict(given)


def moment(value: str, where: str) -> float:
    """An ISO 8601 time as Unix seconds; UTC where it names no zone. Raises BadRequest."""
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        raise invalid(where, value, "expected an ISO 8601 time") from None
    try:
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (OverflowError, ValueError):
        raise invalid(where, value, "the time is out of range") from None


def known_query(call: Call, allowed: Collection[str], since: Version = (2, 75)) -> None:
    """From a microversion on, refuse query parameters that are not known; older ones ignore them. Raises BadRequest."""
    if not call.since(*since):
        return
    for key in call.http.query_params:
        if key not in allowed:
            raise BadRequest(f"Additional properties are not allowed ({key!r} was unexpected)")
