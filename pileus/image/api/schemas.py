"""/v2/schemas: what clients read to know which attributes an image has."""

from __future__ import annotations

from typing import Any, get_args

from pileus.http.face import Call, Handler, Reply, Route
from pileus.image import attributes, members
from pileus.image.service import Images
from pileus.messages import DiskFormat

_ID = "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$"
_LINKS = [{"rel": "self", "href": "{self}"}, {"rel": "enclosure", "href": "{file}"}, {"rel": "describedby", "href": "{schema}"}]


def _text(description: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": description, **more}


def _maybe(kind: str, description: str, **more: Any) -> dict[str, Any]:
    return {"type": ["null", kind], "description": description, **more}


IMAGE: dict[str, Any] = {
    "name": "image",
    "properties": {
        "id": _text("The image's UUID.", pattern=_ID),
        "name": _maybe("string", "A name for people.", maxLength=255),
        "status": _text("Where the image is in its life.", readOnly=True, enum=["queued", "saving", "active", "deactivated"]),
        "visibility": _text("Who may see and use the image.", enum=[*get_args(attributes.Visibility)]),
        "protected": {"type": "boolean", "description": "The image cannot be deleted."},
        "os_hidden": {"type": "boolean", "description": "The image is left out of lists that do not ask for it."},
        "checksum": _maybe("string", "MD5 of the data.", readOnly=True, maxLength=32),
        "os_hash_algo": _maybe("string", "The algorithm of os_hash_value.", readOnly=True, maxLength=64),
        "os_hash_value": _maybe("string", "Hash of the data, hex.", readOnly=True, maxLength=128),
        "owner": _maybe("string", "The project that owns the image.", maxLength=255),
        "size": _maybe("integer", "Size of the data in bytes.", readOnly=True),
        "virtual_size": _maybe("integer", "Size of the disk that a guest sees, in bytes.", readOnly=True),
        "container_format": _maybe("string", "What is around the disk.", enum=[None, *get_args(attributes.ContainerFormat)]),
        "disk_format": _maybe("string", "The format of the data.", enum=[None, *get_args(DiskFormat)]),
        "created_at": _text("When the image was made.", readOnly=True),
        "updated_at": _text("When the image was last changed.", readOnly=True),
        "tags": {"type": "array", "description": "Labels.", "items": {"type": "string", "maxLength": 255}},
        "min_ram": {"type": "integer", "description": "MiB of memory that a server needs for it."},
        "min_disk": {"type": "integer", "description": "GiB of disk that a server needs for it."},
        "self": _text("The image's URL.", readOnly=True),
        "file": _text("The URL of its data.", readOnly=True),
        "schema": _text("The URL of this schema.", readOnly=True),
    },
    "additionalProperties": {"type": "string"},
    "links": _LINKS,
}

MEMBER: dict[str, Any] = {
    "name": "member",
    "properties": {
        "member_id": _text("The project that the image is shared with."),
        "image_id": _text("The image's UUID.", pattern=_ID),
        "status": _text("Whether the project took the image.", enum=[*get_args(members.Status)]),
        "created_at": _text("When the image was shared."),
        "updated_at": _text("When the status was last changed."),
        "schema": _text("The URL of this schema.", readOnly=True),
    },
}


def _collection(name: str, item: dict[str, Any]) -> dict[str, Any]:
    links = [{"rel": "first", "href": "{first}"}, {"rel": "next", "href": "{next}"}, {"rel": "describedby", "href": "{schema}"}]
    listed = {"type": "array", "items": item}
    return {"name": name, "properties": {name: listed, "first": {"type": "string"}, "next": {"type": "string"}}, "links": links}


SCHEMAS = {
    "image": IMAGE,
    "images": _collection("images", IMAGE),
    "member": MEMBER,
    "members": _collection("members", MEMBER),
}


def _shower(schema: dict[str, Any]) -> Handler[Images]:
    async def show(images: Images, call: Call) -> Reply:
        return Reply(body=schema)

    return show


ROUTES = [Route("GET", f"/v2/schemas/{name}", _shower(schema), "user") for name, schema in SCHEMAS.items()]
