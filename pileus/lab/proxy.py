"""Stands between two processes and makes each round trip a stated time longer: so far away is what they talk to.

    python -m pileus.lab.proxy --round-trip 0.001 database=5432 network=9696

says where it listens for each name, in one line of JSON, then that it runs. A question is on its way for the whole time and its answer
for none: so each round trip needs one timer and not two, and nobody who waits for answers can tell. What was said first arrives first,
and any number of messages are on their way at once, as on a wire. It counts round trips and how long they took: who connects to `counts`
is told, in JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import re
import struct
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import msgspec

from pileus import process

COUNTS = "counts"
NEAR = 20e-6
"""Seconds before its time that a message may go, rather than wait for a timer of its own."""
CONNECT_LIMIT = 10.0
METHODS = (b"GET ", b"POST ", b"PUT ", b"DELETE ", b"PATCH ", b"HEAD ")
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")

_CLOCK_MONOTONIC, _NONBLOCK, _CLOEXEC, _ABSTIME = 1, 0o4000, 0o2000000, 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class Count(msgspec.Struct):
    """Of one name. `trips`: questions that were asked; `seconds`: from question to answer, all of them together; `open`: connections."""

    trips: int = 0
    seconds: float = 0.0
    open: int = 0
    kinds: dict[str, int] = {}
    """Of what is HTTP: method, path without ids, and the names of what is asked for in its query → questions."""


def kind(data: bytes) -> str:
    """Of a request, by its first line."""
    method, _, rest = data.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    path, _, query = rest.partition(" ")[0].partition("?")
    names = sorted({word.partition("=")[0] for word in query.split("&")} - {""})
    return f"{method} {_ID.sub('{id}', path)}{'?' if names else ''}{'&'.join(names)}"


class Timer:
    """Calls back at a moment to within some hundredth of a millisecond; event loops' own timers know whole milliseconds. Source:
    timerfd_create(2)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._fd = _LIBC.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK | _CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop = loop
        self._spec = ctypes.create_string_buffer(32)

    def start(self, fire: Wire) -> None:
        self._loop.add_reader(self._fd, fire.due)

    def at(self, moment: float) -> None:
        """`moment` as time.monotonic() says it."""
        whole = int(moment)
        struct.pack_into("qqqq", self._spec, 0, 0, 0, whole, max(1, int((moment - whole) * 1e9)))
        _LIBC.timerfd_settime(self._fd, _ABSTIME, self._spec, None)

    def heard(self) -> None:
        """It has called."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)


class Wire:
    """Messages under way, all for the same time: so the first that was sent is the first that is due."""

    def __init__(self, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        self._seconds = seconds
        self._under_way: deque[tuple[float, End, bytes | None]] = deque()
        self._timer = Timer(loop)
        self._timer.start(self)

    def send(self, end: End, data: bytes | None) -> None:
        """Data arrive there when their time is over; None: the end of the connection does."""
        if not self._seconds:
            end.arrive(data)
            return
        moment = time.monotonic() + self._seconds
        self._under_way.append((moment, end, data))
        if len(self._under_way) == 1:
            self._timer.at(moment)

    def due(self) -> None:
        self._timer.heard()
        under_way, now = self._under_way, time.monotonic() + NEAR
        while under_way and under_way[0][0] <= now:
            _, end, data = under_way.popleft()
            end.arrive(data)
        if under_way:
            self._timer.at(under_way[0][0])

    def close(self) -> None:
        self._timer.close()


class End(asyncio.Protocol):
    """One end of a connection: what it hears goes to the other end, at once."""

    def __init__(self, wire: Wire) -> None:
        self.other: End | None = None
        self._wire = wire
        self._early: list[bytes | None] = []
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        early, self._early = self._early, []
        for data in early:
            self.arrive(data)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.arrive(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None:
            self._wire.send(self.other, None)

    def arrive(self, data: bytes | None) -> None:
        """What the other end heard."""
        if self.transport is None:
            self._early.append(data)
        elif data is None:
            self.transport.close()
        elif not self.transport.is_closing():
            self.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()


class Asker(End):
    """The end of who connects: what it hears is on its way for a while. It counts; a round trip is over with the first word of the
    answer."""

    def __init__(self, wire: Wire, count: Count, connect: Connect) -> None:
        super().__init__(wire)
        self._count = count
        self._connect = connect
        self._asked_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._count.open += 1
        self._connect.to(self)

    def data_received(self, data: bytes) -> None:
        if not self._asked_at:
            self._asked_at = time.monotonic()
            self._count.trips += 1
            if data.startswith(METHODS):
                told = kind(data)
                self._count.kinds[told] = self._count.kinds.get(told, 0) + 1
        if self.other is not None:
            self._wire.send(self.other, data)

    def arrive(self, data: bytes | None) -> None:
        if self._asked_at:
            self._count.seconds += time.monotonic() - self._asked_at
            self._asked_at = 0.0
        super().arrive(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._count.open -= 1
        self._connect.ends.discard(self)
        super().connection_lost(error)


@dataclass
class Connect:
    """Where the connections of one name lead."""

    wire: Wire
    port: int
    ends: set[End] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def to(self, asker: Asker) -> None:
        answerer = End(self.wire)
        asker.other, answerer.other = answerer, asker
        self.ends.add(asker)
        task = asyncio.get_running_loop().create_task(self._open(asker, answerer), name="proxy-connect")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, asker: Asker, answerer: End) -> None:
        try:
            async with asyncio.timeout(CONNECT_LIMIT):
                await asyncio.get_running_loop().create_connection(lambda: answerer, "127.0.0.1", self.port)
        except OSError:
            asker.arrive(None)

    def cut(self) -> None:
        for end in list(self.ends):
            if end.transport is not None:
                end.transport.abort()
        self.ends.clear()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.cut()


class Proxy:
    """`targets`: name → loopback port. `ports`, once started: name → the port to connect to instead; `counts`: of each name."""

    def __init__(self, round_trip: float, targets: Mapping[str, int]) -> None:
        self.ports: dict[str, int] = {}
        self.counts = {name: Count() for name in targets}
        self._round_trip = round_trip
        self._targets = targets
        self._wire: Wire | None = None
        self._connects: list[Connect] = []
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._wire = Wire(self._round_trip, loop)
        for name, port in self._targets.items():
            await self._listen(name, Connect(self._wire, port))
        told = await asyncio.start_server(self._tell, "127.0.0.1", 0)
        self._servers.append(told)
        self.ports[COUNTS] = told.sockets[0].getsockname()[1]

    async def wait(self) -> None:
        await asyncio.Event().wait()

    def cut(self) -> None:
        """Every connection ends now, without a word."""
        for connect in self._connects:
            connect.cut()

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for connect in self._connects:
            await connect.close()
        if self._wire is not None:
            self._wire.close()

    async def _listen(self, name: str, connect: Connect) -> None:
        self._connects.append(connect)
        count, wire = self.counts[name], connect.wire
        server = await asyncio.get_running_loop().create_server(lambda: Asker(wire, count, connect), "127.0.0.1", 0, backlog=1024)
        self._servers.append(server)
        self.ports[name] = server.sockets[0].getsockname()[1]

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(msgspec.json.encode(self.counts))
        writer.close()


async def counts(port: int, *, limit: float = 10.0) -> dict[str, Count]:
    """What the proxy that tells it on this port has counted since its start. Raises OSError (TimeoutError is one)."""
    async with asyncio.timeout(limit):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            return msgspec.json.decode(await reader.read(), type=dict[str, Count])
        finally:
            writer.close()


def _arguments(words: Sequence[str]) -> tuple[float, dict[str, int]]:
    parser = argparse.ArgumentParser(prog="python -m pileus.lab.proxy")
    parser.add_argument("--round-trip", type=float, required=True, metavar="SECONDS")
    parser.add_argument("targets", nargs="+", metavar="NAME=PORT")
    given = parser.parse_args(words)
    pairs = [word.partition("=") for word in given.targets]
    return given.round_trip, {name: int(port) for name, _, port in pairs}


def main() -> None:
    round_trip, targets = _arguments(sys.argv[1:])
    proxy = Proxy(round_trip, targets)
    process.run(lambda: proxy, lambda _: print(f"{json.dumps(proxy.ports)}\nThe proxy runs. Ctrl-C ends it.", flush=True))


if __name__ == "__main__":
    main()
