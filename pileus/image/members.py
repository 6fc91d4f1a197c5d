"""Sharing: the projects that an image of visibility `shared` is shared with, and whether they took it. (Source: Glance's api-ref.)"""

from __future__ import annotations

import time
from typing import Literal

from sqlalchemy import delete, select, update

from pileus.context import Context
from pileus.errors import BadRequest, Conflict, Forbidden, NotFound
from pileus.image.images import for_change, show
from pileus.image.tables import members
from pileus.store import Tx
from pileus.store.sql import Row, first, insert_new, rows

Status = Literal["pending", "accepted", "rejected"]

MAX_MEMBERS = 128


def listed(tx: Tx, context: Context, image_id: str) -> list[Row]:
    """All of them for the owner, a member sees itself. Raises NotFound, Forbidden (an image that is not shared)."""
    image = _shared(tx, context, image_id)
    found = rows(tx, select(members).where(members.c.image_id == image_id).order_by(members.c.member))
    if context.sees(image["owner"]):
        return found
    return [row for row in found if row["member"] == context.project_id]


def member(tx: Tx, context: Context, image_id: str, project: str) -> Row:
    """Raises NotFound, also for members that the caller may not see."""
    image = show(tx, context, image_id)
    found = first(tx, select(members).where(members.c.image_id == image_id, members.c.member == project))
    if found is None or not (context.sees(image["owner"]) or project == context.project_id):
        raise NotFound(f"{project} not found in the member list of the image {image_id}.")
    return found


def add(tx: Tx, context: Context, image_id: str, project: str) -> Row:
    """Share an image; the other project takes it or not. Raises NotFound, Forbidden, BadRequest, Conflict (shared already)."""
    for_change(tx, context, image_id)
    _shared(tx, context, image_id)
    if not 1 <= len(project) <= 255:
        raise BadRequest("Member can't be empty, nor longer than 255 characters.")
    if len(listed(tx, context, image_id)) >= MAX_MEMBERS:
        raise BadRequest(f"An image can be shared with at most {MAX_MEMBERS} projects.")
    now = time.time()
    values = {"image_id": image_id, "member": project, "status": "pending", "created_at": now, "updated_at": now}
    if not insert_new(tx, members, values):
        raise Conflict(f"{project} is already associated with image {image_id}.")
    return member(tx, context, image_id, project)


def answer(tx: Tx, context: Context, image_id: str, project: str, status: Status) -> Row:
    """Take an image that is shared with one's own project, or not. Raises NotFound, Forbidden."""
    member(tx, context, image_id, project)
    if not (context.is_admin or project == context.project_id):
        raise Forbidden("Only the project that an image is shared with may accept or reject it.")
    this = (members.c.image_id == image_id, members.c.member == project)
    tx.execute(update(members).where(*this).values(status=status, updated_at=time.time()))
    return member(tx, context, image_id, project)


def remove(tx: Tx, context: Context, image_id: str, project: str) -> None:
    """Raises NotFound, Forbidden."""
    for_change(tx, context, image_id)
    member(tx, context, image_id, project)
    tx.execute(delete(members).where(members.c.image_id == image_id, members.c.member == project))


def _shared(tx: Tx, context: Context, image_id: str) -> Row:
    image = show(tx, context, image_id)
    if image["visibility"] != "shared":
        raise Forbidden(f"Only shared images have members; image {image_id} is {image['visibility']}.")
    return image
