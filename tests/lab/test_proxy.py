"""The wire of the lab: round trips are as much longer as it says, what was said first arrives first, and cut is cut."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pileus.lab.proxy import COUNTS, Proxy, counts


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def proxied(round_trip: float) -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    proxy = Proxy(round_trip, {"echo": server.sockets[0].getsockname()[1]})
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
        server.close()


async def _trips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: int) -> list[float]:
    taken = []
    for _ in range(count):
        begun = time.perf_counter()
        writer.write(b"?")
        await reader.readexactly(1)
        taken.append(time.perf_counter() - begun)
    return taken


@pytest.mark.parametrize("round_trip", [0.001, 0.005])
async def test_a_round_trip_takes_what_was_stated_more(round_trip: float) -> None:
    async with proxied(0.0) as bare, proxied(round_trip) as far:
        reader, writer = await asyncio.open_connection("127.0.0.1", bare.ports["echo"])
        without = statistics.median(await _trips(reader, writer, 60))
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", far.ports["echo"])
        more = min(await _trips(reader, writer, 60)) - without  # others' work on this machine only ever makes it longer
        writer.close()
    assert round_trip * 0.7 < more < round_trip + 0.0015


async def test_messages_are_under_way_together_and_none_overtakes_another() -> None:
    said = b"".join(b"%08d" % number for number in range(20_000))
    async with proxied(0.1) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.ports["echo"])
        begun = time.perf_counter()
        for at in range(0, len(said), 800):
            writer.write(said[at : at + 800])
            await asyncio.sleep(0)
        heard = await reader.readexactly(len(said))
        taken = time.perf_counter() - begun
        writer.close()
    assert heard == said
    assert taken < 200 * 0.1 / 4


async def test_more_than_the_buffers_hold_gets_through_to_a_slow_reader() -> None:
    said = bytes(8 << 20)
    async with proxied(0.001) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.ports["echo"], limit=4096)
        sending = asyncio.create_task(_send(writer, said))
        heard = 0
        while heard < len(said):
            heard += len(await reader.read(65536))
        await sending
        writer.close()
    assert heard == len(said)


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def test_cut_connections_end_and_new_ones_are_made() -> None:
    async with proxied(0.001) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.ports["echo"])
        await _trips(reader, writer, 1)
        proxy.cut()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await _trips(reader, writer, 1)
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.ports["echo"])
        assert len(await _trips(reader, writer, 3)) == 3
        writer.close()


async def test_nobody_there_ends_the_connection() -> None:
    proxy = Proxy(0.001, {"nobody": 1})
    await proxy.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.ports["nobody"])
    assert await reader.read() == b""
    writer.close()
    await proxy.close()


async def test_round_trips_are_counted() -> None:
    async with proxied(0.002) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.ports["echo"])
        await _trips(reader, writer, 25)
        told = await counts(proxy.ports[COUNTS])
        writer.close()
    assert (told["echo"].trips, told["echo"].open) == (25, 1)
    assert 0.002 <= told["echo"].seconds / 25 < 0.02
