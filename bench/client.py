"""A small keep-alive HTTP client on asyncio streams: its own cost must not hide the server's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def body(self) -> Any:
        """The data as JSON where it is: work of a client's own, so only done when asked for."""
        return json.loads(self.data) if self.data and "json" in self.headers.get("content-type", "") else self.data


@dataclass
class Client:
    """Any number of requests at once; connections are kept and used again."""

    host: str
    port: int
    headers: dict[str, str] = field(default_factory=dict)
    _idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def request(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        head = {"Host": f"{self.host}:{self.port}", "Content-Length": str(len(data)), **self.headers, **(headers or {})}
        if data and "Content-Type" not in head:
            head["Content-Type"] = "application/json"
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        message = f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + data
        connection = self._idle.pop() if self._idle else await asyncio.open_connection(self.host, self.port)
        reader, writer = connection
        writer.write(message)
        answer = await asyncio.wait_for(_read(reader, method), 60)
        self._idle.append(connection)
        return answer

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


async def _read(reader: asyncio.StreamReader, method: str) -> Answer:
    raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in raw[1:] if line)}
    data = b""
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            data += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    elif method != "HEAD":
        data = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(int(raw[0].split()[1]), headers, data)
