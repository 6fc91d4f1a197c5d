"""Images over HTTP: what a host that shares nothing with the control plane but the network fetches them by.

A fetch that is cut off goes on where it was (a range request), tried again with growing pauses for as long as its caller waits: whoever
boots a server has a limit for it. An answer that will not change by asking again ends it at once.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from http import HTTPStatus

import httpx
import structlog

from pileus.errors import StartupError
from pileus.host.images import ImageError

log = structlog.get_logger(__name__)

TICKET = "X-Pileus-Image-Ticket"
CONNECT_LIMIT = 5.0
READ_LIMIT = 30.0
"""Seconds that a connection may bring nothing before another one is made."""
FIRST_PAUSE, LAST_PAUSE = 0.1, 5.0
PASSING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


class HttpImages:
    """See `pileus.host.images.ImageSource`. `api_url`: of the control plane, without a slash at its end."""

    def __init__(self, api_url: str, ca: str = "") -> None:
        self._base = f"{api_url}/image/v2/images"
        # Every fetch has a connection of its own: how many there are at once is the cache's to bound.
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(READ_LIMIT, connect=CONNECT_LIMIT, pool=None),
            verify=_trust(ca),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=4),
            trust_env=False,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def read(self, image_id: str, ticket: str) -> AsyncIterator[bytes]:
        """Raises ImageError for what asking again does not change: a ticket that is not taken, an image that is not there."""
        at, pause = 0, FIRST_PAUSE
        while True:
            try:
                async with self._client.stream("GET", f"{self._base}/{image_id}/file", headers=_headers(ticket, at)) as answer:
                    await _check(image_id, answer, at)
                    async for chunk in answer.aiter_raw():
                        at, pause = at + len(chunk), FIRST_PAUSE
                        yield chunk
                    return
            except httpx.TransportError as error:
                log.warning("image fetch cut off, it goes on", image=image_id, at=at, cause=str(error) or type(error).__name__)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)


def _headers(ticket: str, at: int) -> dict[str, str]:
    headers = {TICKET: ticket, "Accept-Encoding": "identity"}
    return headers | {"Range": f"bytes={at}-"} if at else headers


async def _check(image_id: str, answer: httpx.Response, at: int) -> None:
    """Raises ImageError, or TransportError where asking again may help."""
    wanted = HTTPStatus.PARTIAL_CONTENT if at else HTTPStatus.OK
    if answer.status_code == wanted and (not at or answer.headers.get("content-range", "").startswith(f"bytes {at}-")):
        return
    if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.status_code in PASSING:
        raise httpx.RemoteProtocolError(f"the image service answered {answer.status_code}")
    raise ImageError(f"image {image_id}: the image service answered {answer.status_code} {answer.reason_phrase}".rstrip())


def _trust(ca: str) -> ssl.SSLContext:
    """Raises StartupError."""
    try:
        return ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        raise StartupError(f"setting host.api_ca: {ca}: {getattr(error, 'strerror', None) or error}") from None
