"""An image's own attributes: which can be set, to what. Everything else is a free property. (Source: Glance's image schema.)"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pileus.errors import BadRequest, Forbidden
from pileus.messages import DiskFormat

Visibility = Literal["public", "private", "community", "shared"]
ContainerFormat = Literal["bare", "aki", "ari", "ami"]
Number = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Tag = Annotated[str, Meta(min_length=1, max_length=255)]

SETTABLE: dict[str, Any] = {
    "name": Annotated[str, Meta(max_length=255)] | None,
    "visibility": Visibility,
    "protected": bool,
    "os_hidden": bool,
    "owner": Annotated[str, Meta(min_length=1, max_length=255)],
    "min_disk": Number,
    "min_ram": Number,
    "disk_format": DiskFormat | None,
    "container_format": ContainerFormat | None,
    "tags": list[Tag],
}
"""Attribute → what it may be."""

DEFAULTS: dict[str, Any] = {
    "name": None,
    "visibility": "shared",
    "protected": False,
    "os_hidden": False,
    "min_disk": 0,
    "min_ram": 0,
    "disk_format": None,
    "container_format": None,
    "tags": [],
}

CONTAINER_OF: dict[str, str] = {"raw": "bare", "qcow2": "bare", "aki": "aki", "ari": "ari", "ami": "ami"}
"""Disk format → the container format that goes with it."""

FORMATS = ("disk_format", "container_format")

READ_ONLY = frozenset(
    [
        *("id", "created_at", "updated_at", "status", "checksum", "size", "virtual_size", "os_hash_algo", "os_hash_value"),
        *("self", "file", "schema", "direct_url", "stores"),
    ]
)
RESERVED = frozenset({"location", "locations", "deleted", "deleted_at"})
RESERVED_PREFIX = "os_glance"

MAX_TAGS = 128
MAX_PROPERTIES = 128


def check_name(name: str) -> None:
    """May the attribute or property be set at all? Raises Forbidden, BadRequest."""
    if name in READ_ONLY:
        raise Forbidden(f"Attribute '{name}' is read-only.")
    if name in RESERVED or name.startswith(RESERVED_PREFIX):
        raise Forbidden(f"Attribute '{name}' is reserved.")
    if not 1 <= len(name) <= 255:
        raise BadRequest("A property's name must have from 1 to 255 characters.")


def checked(name: str, value: Any) -> Any:
    """The value as it is kept. Raises Forbidden, BadRequest."""
    check_name(name)
    try:
        found = msgspec.convert(value, SETTABLE.get(name, str))
    except msgspec.ValidationError as error:
        raise BadRequest(f"Provided object does not match schema 'image': {name}: {error}") from None
    return sorted(set(found)) if name == "tags" else found


def check_formats(disk: str | None, container: str | None) -> None:
    """Raises BadRequest where the two do not go together."""
    if disk is not None and container is not None and CONTAINER_OF[disk] != container:
        raise BadRequest(f"disk_format {disk} goes with container_format {CONTAINER_OF[disk]}, not with {container}.")


def check_amounts(tags: list[str], properties: dict[str, str]) -> None:
    """Raises BadRequest where an image has too many of them."""
    for what, found, most in (("tags", len(tags), MAX_TAGS), ("properties", len(properties), MAX_PROPERTIES)):
        if found > most:
            raise BadRequest(f"An image can have at most {most} {what}; {found} were given.")
