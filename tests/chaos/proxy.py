"""Stands between NATS and its clients, and loses, doubles and delays what they publish. Source: NATS client protocol."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass
from types import TracebackType
from typing import Self

LIMIT = 10.0


@dataclass
class Weather:
    """Probabilities of what happens to a message, and the longest delay (s). May be changed at any time."""

    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    delay: float = 0.5


class Proxy:
    """Listens on a free loopback port; `url` is what clients are given. `cut` drops all connections, `closed` refuses new ones."""

    def __init__(self, port: int, dice: random.Random) -> None:
        self.weather = Weather()
        self.closed = False
        self.url = ""
        self.counts = {"passed": 0, "lost": 0, "doubled": 0, "late": 0}
        self._port = port
        self._dice = dice
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Every connection ends now; the clients make new ones."""
        for task in list(self._connections):
            task.cancel()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _accept(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if not self.closed:
                await self._join(client, back)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError, TimeoutError):
            pass
        finally:
            self._connections.discard(task)
            back.close()

    async def _join(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(LIMIT):
            server, forth = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            async with asyncio.TaskGroup() as both:
                answers = both.create_task(_copy(server, back))
                words = both.create_task(self._words(client, forth))
                await asyncio.wait({answers, words}, return_when=asyncio.FIRST_COMPLETED)
                answers.cancel()
                words.cancel()
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            forth.close()

    async def _words(self, client: asyncio.StreamReader, forth: asyncio.StreamWriter) -> None:
        """Pass what a client says, a frame at a time."""
        while line := await client.readline():
            word = line[:5].upper()
            if word.startswith((b"PUB ", b"HPUB ")):
                frame = line + await client.readexactly(int(line.split()[-1]) + 2)
                self._pass(frame, forth)
            else:
                forth.write(line)
            await forth.drain()

    def _pass(self, frame: bytes, forth: asyncio.StreamWriter) -> None:
        weather, roll = self.weather, self._dice.random()
        if roll < weather.lost:
            self.counts["lost"] += 1
            return
        self.counts["passed"] += 1
        if roll < weather.lost + weather.late:
            self.counts["late"] += 1
            asyncio.get_running_loop().call_later(self._dice.random() * weather.delay, _write, forth, frame)
            return
        forth.write(frame)
        if roll < weather.lost + weather.late + weather.doubled:
            self.counts["doubled"] += 1
            forth.write(frame)


def _write(forth: asyncio.StreamWriter, frame: bytes) -> None:
    if not forth.is_closing():
        with contextlib.suppress(OSError):
            forth.write(frame)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        target.write(data)
        await target.drain()
