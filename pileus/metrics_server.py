"""The little listener that shows on /metrics what this process counts."""

from __future__ import annotations

import asyncio
import contextlib
import os

from pileus.errors import StartupError

REQUEST_LIMIT = 10.0
"""Seconds for one request and its answer."""
HEAD_LIMIT = 16384
"""Most bytes of a request's head."""


class MetricsServer:
    """GET /metrics, and nothing else, on `listen` (ADDRESS:PORT). `index`: of this process among those alike; it is added to the port."""

    def __init__(self, listen: str, index: int = 0) -> None:
        host, _, port = listen.rpartition(":")
        self._host = host.strip("[]")
        self._port = int(port) + index if int(port) else 0
        self._server: asyncio.Server | None = None
        self._answering: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The one that it listens on."""
        assert self._server is not None, "not started"
        number: int = self._server.sockets[0].getsockname()[1]
        return number

    async def start(self) -> None:
        """Raises StartupError."""
        from pileus import metrics  # noqa: F401 - from now on what parts of this process do is counted

        try:
            self._server = await asyncio.start_server(self._take, self._host, self._port, limit=HEAD_LIMIT)
        except (OSError, OverflowError) as error:
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            raise StartupError(f"cannot listen on {self._host}:{self._port} for metrics: {why}; change metrics.listen") from None

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        answering = list(self._answering)
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_answer(reader, writer), name="metrics")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request a connection: a scrape every few seconds needs no more."""
    try:
        async with asyncio.timeout(REQUEST_LIMIT):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, *_ = [*head.split(b"\r\n", 1)[0].split(b" "), b"", b""]
            status, kind, body = _response(method, target.split(b"?", 1)[0])
            said = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            writer.write(said.encode() + (b"" if method == b"HEAD" else body))
            await writer.drain()
    except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        writer.transport.abort()
    finally:
        with contextlib.suppress(OSError):
            writer.close()


def _response(method: bytes, path: bytes) -> tuple[str, str, bytes]:
    if path != b"/metrics":
        return "404 Not Found", "text/plain", b"only /metrics is here\n"
    if method not in (b"GET", b"HEAD"):
        return "405 Method Not Allowed", "text/plain", b"only GET\n"
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest  # costs 100 ms: who is never asked does without

    from pileus import metrics  # noqa: F401 - what nobody has counted yet is shown as 0

    return "200 OK", CONTENT_TYPE_LATEST, generate_latest()
