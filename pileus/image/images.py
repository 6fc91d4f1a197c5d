"""Images as records: who sees and changes them, and how. Their data: upload.py."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, delete, insert, or_, select, true, update

from pileus.clients.image import ImageInfo
from pileus.context import Context
from pileus.errors import Conflict, Forbidden, NotFound
from pileus.image import attributes
from pileus.image.tables import images, members, properties, tags
from pileus.store import Tx
from pileus.store.sql import Row, first, insert_new, rows

WITH_DATA = ("active", "deactivated")


@dataclass(frozen=True)
class Change:
    """One operation of a patch on one attribute or property."""

    op: Literal["add", "replace", "remove"]
    name: str
    value: Any = None


def member_of(project: str | None, status: str | None = None) -> ColumnElement[bool]:
    """Images that are shared with a project (and taken by it as `status` says)."""
    who = select(members.c.image_id).where(members.c.member == project)
    if status is not None:
        who = who.where(members.c.status == status)
    return and_(images.c.visibility == "shared", images.c.id.in_(who))


def visible(context: Context) -> ColumnElement[bool]:
    """The images that a caller may look at when it knows their ids."""
    if context.is_admin:
        return true()
    mine = images.c.owner == context.project_id
    return or_(mine, images.c.visibility.in_(["public", "community"]), member_of(context.project_id))


def show(tx: Tx, context: Context, image_id: str) -> Row:
    """An image with its `tags` and `properties`. Raises NotFound, also where the caller may not see it."""
    found = first(tx, select(images).where(images.c.id == image_id, visible(context)))
    if found is None:
        raise NotFound(f"No image found with ID {image_id}")
    return completed(tx, [found])[0]


def completed(tx: Tx, found: list[Row]) -> list[Row]:
    """Rows of images with their `tags` and `properties`."""
    by_id = {row["id"]: row | {"tags": [], "properties": {}} for row in found}
    for image_id, tag in tx.execute(select(tags).where(tags.c.image_id.in_(list(by_id))).order_by(tags.c.tag)):
        by_id[image_id]["tags"].append(tag)
    for image_id, name, value in tx.execute(select(properties).where(properties.c.image_id.in_(list(by_id)))):
        by_id[image_id]["properties"][name] = value
    return list(by_id.values())


def info(tx: Tx, context: Context, image_id: str) -> ImageInfo:
    """An image as compute needs it. Raises NotFound."""
    row = show(tx, context, image_id)
    extra = row["properties"]
    return ImageInfo(
        id=row["id"],
        name=row["name"] or "",
        status=row["status"],
        disk_format=row["disk_format"] or "",
        size=row["size"] or 0,
        virtual_size=row["virtual_size"] or row["size"] or 0,
        sha512=row["os_hash_value"] or "",
        min_disk=row["min_disk"],
        min_ram=row["min_ram"],
        kernel_id=extra.get("kernel_id") or None,
        ramdisk_id=extra.get("ramdisk_id") or None,
        command_line=extra.get("os_command_line", ""),
    )


def create(tx: Tx, context: Context, image_id: str, given: Mapping[str, Any]) -> Row:
    """A new image without data. Raises BadRequest, Forbidden (an attribute or a visibility that the caller may not set), Conflict."""
    values = {name: attributes.checked(name, value) for name, value in given.items()}
    now = time.time()
    image: Row = {"owner": context.project_id, **attributes.DEFAULTS} | {k: v for k, v in values.items() if k in attributes.SETTABLE}
    image |= {"id": image_id, "status": "queued", "created_at": now, "updated_at": now}
    extra = {name: value for name, value in values.items() if name not in attributes.SETTABLE}
    labels = image.pop("tags")
    _check_rights(context, values)
    attributes.check_formats(image["disk_format"], image["container_format"])
    attributes.check_amounts(labels, extra)
    if not insert_new(tx, images, image):
        raise Conflict(f"Image ID {image_id} already exists!")
    _add_tags(tx, image_id, labels)
    _add_properties(tx, image_id, extra)
    return show(tx, context, image_id)


def change(tx: Tx, context: Context, image_id: str, changes: Sequence[Change]) -> Row:
    """Apply a patch, whole or not at all. Raises NotFound, Forbidden, BadRequest, Conflict (a property that is not there)."""
    before = for_change(tx, context, image_id)
    values: Row = {}
    extra = dict(before["properties"])
    for one in changes:
        _apply(one, values, extra)
    _check_rights(context, values)
    if before["status"] != "queued":
        for name in attributes.FORMATS:
            if values.get(name, before[name]) != before[name]:
                raise Forbidden(f"Attribute {name} can be only replaced for a queued image.")
    after = before | values
    attributes.check_formats(after["disk_format"], after["container_format"])
    attributes.check_amounts(after["tags"], extra)
    labels = values.pop("tags", None)
    tx.execute(update(images).where(images.c.id == image_id).values(**values, updated_at=time.time()))
    if labels is not None:
        tx.execute(delete(tags).where(tags.c.image_id == image_id))
        _add_tags(tx, image_id, labels)
    if extra != before["properties"]:
        tx.execute(delete(properties).where(properties.c.image_id == image_id))
        _add_properties(tx, image_id, extra)
    # A caller that hands an image to another project, or makes it private, still gets told what it did.
    return completed(tx, rows(tx, select(images).where(images.c.id == image_id)))[0]


def remove(tx: Tx, context: Context, image_id: str) -> None:
    """Forget an image; its file is the caller's to remove once this is committed. Raises NotFound, Forbidden (also: protected)."""
    if for_change(tx, context, image_id)["protected"]:
        raise Forbidden(f"Image {image_id} is protected and cannot be deleted; set protected to false first.")
    for table in (properties, tags, members):
        tx.execute(delete(table).where(table.c.image_id == image_id))
    tx.execute(delete(images).where(images.c.id == image_id))


def set_status(tx: Tx, context: Context, image_id: str, status: Literal["active", "deactivated"]) -> None:
    """Let an image's data out again, or keep it in. Raises NotFound, Forbidden (also: an image without data)."""
    before = for_change(tx, context, image_id)
    if before["status"] not in WITH_DATA:
        raise Forbidden(f"Not allowed to make an image {status} that is {before['status']}; upload its data first.")
    if before["status"] != status:
        tx.execute(update(images).where(images.c.id == image_id).values(status=status, updated_at=time.time()))


def add_tag(tx: Tx, context: Context, image_id: str, tag: str) -> None:
    """Raises NotFound, Forbidden, BadRequest."""
    change(tx, context, image_id, [Change("add", "tags", [*for_change(tx, context, image_id)["tags"], tag])])


def remove_tag(tx: Tx, context: Context, image_id: str, tag: str) -> None:
    """Raises NotFound (also: no such tag), Forbidden."""
    before = for_change(tx, context, image_id)["tags"]
    if tag not in before:
        raise NotFound(f"Image {image_id} has no tag {tag}")
    change(tx, context, image_id, [Change("replace", "tags", [other for other in before if other != tag])])


def for_change(tx: Tx, context: Context, image_id: str) -> Row:
    """`show`, for who is about to change it. Raises NotFound, Forbidden for somebody else's image."""
    found = show(tx, context, image_id)
    if not context.sees(found["owner"]):
        raise Forbidden(f"Image {image_id} belongs to another project: only its owner or an admin may change it.")
    return found


def _apply(one: Change, values: Row, extra: dict[str, str]) -> None:
    attributes.check_name(one.name)
    own = one.name in attributes.SETTABLE
    if one.op == "remove" and own:
        raise Forbidden(f"Property {one.name} may not be removed.")
    if one.op != "add" and not own and one.name not in extra:
        raise Conflict(f"Property {one.name} does not exist.")
    if one.op == "remove":
        del extra[one.name]
    else:
        (values if own else extra)[one.name] = attributes.checked(one.name, one.value)


def _check_rights(context: Context, values: Mapping[str, Any]) -> None:
    if context.is_admin:
        return
    if values.get("visibility") == "public":
        raise Forbidden("You are not authorized to make an image public: it needs the admin role.")
    if values.get("owner", context.project_id) != context.project_id:
        raise Forbidden("Owner can't be updated by non admin.")


def _add_tags(tx: Tx, image_id: str, labels: Iterable[str]) -> None:
    if entries := [{"image_id": image_id, "tag": tag} for tag in labels]:
        tx.execute(insert(tags), entries)


def _add_properties(tx: Tx, image_id: str, extra: Mapping[str, str]) -> None:
    if entries := [{"image_id": image_id, "name": name, "value": value} for name, value in extra.items()]:
        tx.execute(insert(properties), entries)
