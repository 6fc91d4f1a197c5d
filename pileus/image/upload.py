"""The steps of an upload in the database: queued → saving → active, and back to queued when it fails.

While an image is `saving`, its `upload` names the one upload that may finish it.
"""

from __future__ import annotations

import time
from typing import Literal

from sqlalchemy import select, update

from pileus.context import Context
from pileus.errors import BadRequest, Conflict, PileusError
from pileus.image.files import Received
from pileus.image.images import WITH_DATA, for_change
from pileus.image.tables import images
from pileus.store import Tx
from pileus.store.sql import Row, first


class Gone(PileusError):
    status = 410


def begin(tx: Tx, context: Context, image_id: str, upload: str) -> Row:
    """Raises NotFound, Forbidden, BadRequest (formats missing), Conflict (it has data, or is getting some)."""
    found = for_change(tx, context, image_id)
    missing = [name for name in ("disk_format", "container_format") if found[name] is None]
    if missing:
        raise BadRequest(f"Properties {', '.join(missing)} must be set prior to saving data.")
    if found["status"] != "queued":
        raise Conflict(f"Image status transition from {found['status']} to saving is not allowed: data can be uploaded once.")
    tx.execute(update(images).where(images.c.id == image_id).values(status="saving", upload=upload, updated_at=time.time()))
    return found


def finish(tx: Tx, image_id: str, upload: str, received: Received, virtual_size: int) -> None:
    """Raises Gone where the image was deleted meanwhile."""
    statement = update(images).where(images.c.id == image_id, images.c.status == "saving", images.c.upload == upload)
    values = {
        "status": "active",
        "size": received.size,
        "virtual_size": virtual_size,
        "checksum": received.md5,
        "os_hash_value": received.sha512,
        "updated_at": time.time(),
    }
    if tx.execute(statement.values(**values)).rowcount != 1:
        raise Gone(f"Image {image_id} was deleted during its upload; what came was thrown away.")


def disown(tx: Tx, image_id: str, upload: str) -> Literal["ours", "gone", "not ours"]:
    """Before what a failed upload left is removed: whose is the image? If this upload's, it is nobody's after this."""
    found = first(tx, select(images.c.status, images.c.upload).where(images.c.id == image_id))
    if found is None:
        return "gone"
    if found != {"status": "saving", "upload": upload}:
        return "not ours"
    tx.execute(update(images).where(images.c.id == image_id).values(upload=None))
    return "ours"


def requeue(tx: Tx, image_id: str) -> None:
    """After a failed upload's files are removed: the image may be uploaded again."""
    ours = (images.c.id == image_id, images.c.status == "saving", images.c.upload.is_(None))
    tx.execute(update(images).where(*ours).values(status="queued", updated_at=time.time()))


def recover(tx: Tx) -> set[str]:
    """After a start: no upload is under way any more. The ids of all images that have data."""
    tx.execute(update(images).where(images.c.status == "saving").values(status="queued", upload=None))
    return set(tx.execute(select(images.c.id).where(images.c.status.in_(WITH_DATA))).scalars())
