"""An image as the API shows it."""

from __future__ import annotations

import uuid
from typing import Any

from pileus.errors import BadRequest
from pileus.http.shape import iso
from pileus.store.sql import Row

SHOWN = (
    *("id", "name", "status", "visibility", "owner", "disk_format", "container_format", "min_disk", "min_ram"),
    *("protected", "os_hidden", "size", "virtual_size", "checksum", "os_hash_value", "tags"),
)


def image(row: Row) -> dict[str, Any]:
    """Properties stand beside the attributes. Links are paths without a host, as Glance gives them."""
    url = f"/v2/images/{row['id']}"
    return {
        **row["properties"],
        **{name: row[name] for name in SHOWN},
        "os_hash_algo": "sha512" if row["os_hash_value"] else None,
        "created_at": iso(row["created_at"]),
        "updated_at": iso(row["updated_at"]),
        "self": url,
        "file": f"{url}/file",
        "schema": "/v2/schemas/image",
    }


def member(row: Row) -> dict[str, Any]:
    return {
        "image_id": row["image_id"],
        "member_id": row["member"],
        "status": row["status"],
        "created_at": iso(row["created_at"]),
        "updated_at": iso(row["updated_at"]),
        "schema": "/v2/schemas/member",
    }


def uuid_of(text: Any) -> str:
    """Raises BadRequest."""
    try:
        return str(uuid.UUID(text))
    except (ValueError, TypeError, AttributeError):
        raise BadRequest(f"Invalid image id {text!r}: give a UUID, or leave it out.") from None
