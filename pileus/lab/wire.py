"""A load generator's HTTP client: keep-alive connections as bare protocols, answers taken apart no further than asked for.

It shares the cores with what it measures, so its own cost counts.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import cast

LIMIT = 120.0
"""Seconds that an answer may take."""
_LENGTH = b"content-length:"


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    head: bytes = b""

    def header(self, name: str) -> str:
        """Its value; empty: there is none."""
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.lower() == name.encode():
                return value.strip().decode()
        return ""


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answer: asyncio.Future[Reply] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(f"the server closed the connection: {error}"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        at = head.find(_LENGTH)
        length = int(head[at + len(_LENGTH) :].split(b"\r", 1)[0]) if at >= 0 else 0
        if len(self._received) < end + 4 + length:
            return
        reply = Reply(int(head[9:12]), bytes(self._received[end + 4 : end + 4 + length]), bytes(self._received[:end]))
        self._received.clear()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(reply)

    @property
    def open(self) -> bool:
        return self._transport is not None

    async def ask(self, message: bytes) -> Reply:
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        async with asyncio.timeout(LIMIT):
            return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Wire:
    """As many requests at once as are asked for, each on a connection of its own."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self.token = token
        self._host, self._port = host, port
        self._head = f"Host: {host}:{port}\r\nX-Auth-Token: {token}\r\nContent-Type: application/json\r\n".encode()
        self._idle: list[_Connection] = []

    async def warm(self, count: int) -> None:
        """Open connections ahead, so that what is measured is no handshake."""
        while len(self._idle) < count:
            more = min(100, count - len(self._idle))  # a listener's queue is bounded
            self._idle += await asyncio.gather(*[self._connect() for _ in range(more)])

    async def request(self, method: str, path: str, body: bytes = b"") -> Reply:
        message = b"%s %s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (method.encode(), path.encode(), self._head, len(body), body)
        connection = self._idle.pop() if self._idle else await self._connect()
        if not connection.open:  # kept idle for longer than the server does
            connection = await self._connect()
        reply = await connection.ask(message)
        self._idle.append(connection)
        return reply

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _connect(self) -> _Connection:
        _, made = await asyncio.get_running_loop().create_connection(_Connection, self._host, self._port)
        return made
