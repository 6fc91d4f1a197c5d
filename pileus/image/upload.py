"""The steps of an upload in the database: queued → saving → active, and back to queued when it fails.

While an image is `saving`, its `upload` names the one upload that may finish it; with a `-` in front, one that has failed and is being
cleaned up behind.
"""

from __future__ import annotations

import time
from collections.abc import Collection
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
    tx.execute(update(images).where(images.c.id == image_id).values(upload=_FAILED + upload))
    return "ours"


def requeue(tx: Tx, image_id: str, upload: str) -> None:
    """After a failed upload's data is removed: the image may be uploaded again."""
    _requeue(tx, image_id, _FAILED + upload)


def under_way(tx: Tx) -> set[tuple[str, str]]:
    """The uploads (image, upload) that are under way or were cut off."""
    return {(image_id, upload or "") for image_id, upload in tx.execute(_SAVING)}


def recover(tx: Tx, cut_off: Collection[tuple[str, str]]) -> set[str]:
    """After a start: these uploads will not go on. The ids of all images that have data."""
    for image_id, upload in cut_off:
        _requeue(tx, image_id, upload)
    return set(tx.execute(select(images.c.id).where(images.c.status.in_(WITH_DATA))).scalars())


def mark(upload: str) -> str:
    """The name of an upload's file, whether it failed or not."""
    return upload.removeprefix(_FAILED)


_FAILED = "-"
_SAVING = select(images.c.id, images.c.upload).where(images.c.status == "saving")


def _requeue(tx: Tx, image_id: str, upload: str) -> None:
    ours = (images.c.id == image_id, images.c.status == "saving", images.c.upload == upload)
    tx.execute(update(images).where(*ours).values(status="queued", upload=None, updated_at=time.time()))
