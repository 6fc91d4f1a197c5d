"""/v2/images/{id}/file: data in and out, as it comes."""

from __future__ import annotations

import re

from pileus.context import SYSTEM
from pileus.errors import BadRequest, Forbidden, RangeNotSatisfiable, UnsupportedMediaType
from pileus.http.face import Call, Reply, Route
from pileus.image import images as rules
from pileus.image import tickets
from pileus.image.service import Images

MEDIA = "application/octet-stream"

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})\Z", re.ASCII)


async def upload(images: Images, call: Call) -> Reply:
    if call.media != MEDIA:
        raise UnsupportedMediaType(f"Invalid content type {call.media!r}: image data is sent as {MEDIA}")
    await images.upload(call.context, call.path["id"], call.stream(), _announced(call))
    return Reply(204)


async def download(images: Images, call: Call) -> Reply:
    ticket = call.http.headers.get(tickets.HEADER)
    if ticket is not None:
        await images.tickets.check(ticket, call.path["id"])
    row = await images.store.read(rules.show, call.context if ticket is None else SYSTEM, call.path["id"])
    if row["status"] == "deactivated" and ticket is None and not call.context.is_admin:
        raise Forbidden("The requested image has been deactivated. Image data download is forbidden.")
    if row["status"] not in rules.WITH_DATA:
        return Reply(204)
    size, wanted = row["size"], call.http.headers.get("range")
    start, end = (0, size) if wanted is None else _range(wanted, size)
    headers = {"Content-Type": MEDIA, "Content-MD5": row["checksum"], "Content-Length": str(end - start), "Accept-Ranges": "bytes"}
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    stream = None if call.http.method == "HEAD" else await images.open(row["id"], start, end - start)
    return Reply(200 if wanted is None else 206, headers=headers, stream=stream)


def _announced(call: Call) -> int | None:
    """How many bytes the sender says that it sends; None where it does not."""
    headers = call.http.headers
    text = headers.get("x-openstack-image-size") or headers.get("content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadRequest(f"Invalid image size in request headers: {text}")
    return int(text)


def _range(text: str, size: int) -> tuple[int, int]:
    """The first byte and the one behind the last. Raises RangeNotSatisfiable."""
    match = _RANGE.match(text.strip())
    if match is None or not (match[1] or match[2]):
        raise RangeNotSatisfiable(f"Range {text!r} is not of the form bytes=FIRST-LAST", headers={"Content-Range": f"bytes */{size}"})
    if match[1]:
        start, end = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
    else:
        start, end = max(size - int(match[2]), 0), size
    if start >= end:
        raise RangeNotSatisfiable(f"Range {text!r} lies outside of the image's {size} bytes", headers={"Content-Range": f"bytes */{size}"})
    return start, end


ROUTES = [
    Route("PUT", "/v2/images/{id}/file", upload, "member"),
    Route("GET", "/v2/images/{id}/file", download, "reader", instead=tickets.HEADER),
]
