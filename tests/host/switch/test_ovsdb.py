"""OVSDB: cutting the stream into messages, and a client against a server of the test's own that misbehaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pileus.host.switch.ovsdb import Change, Ovsdb, OvsdbError, OvsdbLost, split

LIMIT = 5.0

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=5), values, max_size=4)


@given(messages=st.lists(objects, max_size=6), data=st.data(), gap=st.sampled_from(["", " ", "\n"]))
def test_messages_are_found_wherever_the_stream_is_cut(messages: list[dict[str, Any]], data: st.DataObject, gap: str) -> None:
    stream = gap.join(json.dumps(message, ensure_ascii=False) for message in messages).encode("utf-8", "surrogatepass")
    buffer, found = bytearray(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        buffer += stream[:size]
        stream = stream[size:]
        found += [json.loads(text.decode("utf-8", "surrogatepass")) for text in split(buffer)]
    assert found == messages
    assert not bytes(buffer).strip()


class Server:
    """Answers as it is told: one handler a method."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections: list[asyncio.StreamWriter] = []
        self.rows: dict[str, Any] = {}
        self.answer: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda request: {"result": [], "error": None}
        self.echoes: asyncio.Queue[Any] = asyncio.Queue()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.drop()

    def drop(self) -> None:
        for writer in self.connections:
            writer.close()
        self.connections.clear()

    def tell(self, message: dict[str, Any]) -> None:
        self.connections[-1].write(json.dumps(message).encode())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        buffer = bytearray()
        while data := await reader.read(1 << 16):
            buffer += data
            for text in split(buffer):
                request = json.loads(text)
                if request.get("method") == "monitor":
                    reply: dict[str, Any] | None = {"result": self.rows, "error": None}
                elif request.get("method") == "transact":
                    reply = self.answer(request)
                else:
                    self.echoes.put_nowait(request)
                    continue
                if reply is not None:
                    writer.write(json.dumps({"id": request["id"], **reply}).encode())


class Heard:
    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.lost = asyncio.Semaphore(0)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path / "db.sock")
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def heard() -> Heard:
    return Heard()


@pytest.fixture
async def client(server: Server, heard: Heard) -> AsyncIterator[Ovsdb]:
    made = Ovsdb(
        server.path,
        {"Port": ["name", "tags"]},
        on_changes=heard.changes.extend,
        on_lost=heard.lost.release,
    )
    await made.start(limit=LIMIT)
    yield made
    await made.close()


def row(name: str, *tags: int) -> dict[str, Any]:
    return {"new": {"name": name, "tags": ["set", list(tags)]}}


async def until(semaphore: asyncio.Semaphore) -> None:
    await asyncio.wait_for(semaphore.acquire(), LIMIT)


async def test_each_refusal_is_told_in_words(server: Server, client: Ovsdb) -> None:
    server.answer = lambda request: {
        "result": [{}, None, {"error": "constraint violation", "details": "no such bridge"}],
        "error": None,
    }
    with pytest.raises(OvsdbError, match="constraint violation: no such bridge"):
        await client.transact([])
    server.answer = lambda request: {"result": None, "error": {"error": "unknown database"}}
    with pytest.raises(OvsdbError, match="unknown database"):
        await client.transact([])


async def test_a_database_that_does_not_answer_is_given_up(server: Server, client: Ovsdb) -> None:
    server.answer = lambda request: None
    with pytest.raises(TimeoutError):
        await client.transact([], limit=0.02)


async def test_updates_are_kept_and_told(server: Server, client: Ovsdb, heard: Heard) -> None:
    server.tell({"method": "update", "id": None, "params": [None, {"Port": {"u1": row("a", 1, 2), "u2": row("b")}}]})
    server.tell({"method": "update", "id": None, "params": [None, {"Port": {"u1": {"old": {}}}}]})
    await client.transact([])
    assert heard.changes == [
        ("Port", "u1", {"name": "a", "tags": [1, 2]}),
        ("Port", "u2", {"name": "b", "tags": []}),
        ("Port", "u1", None),
    ]
    assert client.rows == {"Port": {"u2": {"name": "b", "tags": []}}}


async def test_an_echo_is_answered(server: Server, client: Ovsdb) -> None:
    server.tell({"method": "echo", "id": "e7", "params": ["x"]})
    assert await asyncio.wait_for(server.echoes.get(), LIMIT) == {"id": "e7", "result": ["x"], "error": None}


async def test_after_a_lost_connection_only_what_changed_is_told(server: Server, client: Ovsdb, heard: Heard) -> None:
    server.tell({"method": "update", "id": None, "params": [None, {"Port": {u: row(u) for u in ("same", "other", "gone")}}]})
    await client.transact([])
    heard.changes.clear()
    server.rows = {"Port": {"same": row("same"), "other": row("other", 5), "fresh": row("fresh")}}
    server.drop()
    await until(heard.lost)
    await client.connected(LIMIT)
    told = {(uuid, None if new is None else tuple(new["tags"])) for _, uuid, new in heard.changes}
    assert told == {("gone", None), ("other", (5,)), ("fresh", ())}
    assert set(client.rows["Port"]) == {"same", "other", "fresh"}


async def test_a_call_under_way_ends_with_the_connection_and_later_ones_wait_for_the_next(
    server: Server, client: Ovsdb, heard: Heard
) -> None:
    server.answer = lambda request: server.drop()
    with pytest.raises(OvsdbLost):
        await client.transact([])
    server.answer = lambda request: {"result": ["fine"], "error": None}
    assert await client.transact([]) == ["fine"]


async def test_the_server_may_be_away_for_a_while(server: Server, client: Ovsdb, heard: Heard) -> None:
    await server.stop()
    server.path.unlink(missing_ok=True)
    await until(heard.lost)
    await server.start()
    await client.connected(LIMIT)


async def test_nobody_there_is_a_timeout(tmp_path: Path) -> None:
    client = Ovsdb(tmp_path / "none.sock", {}, on_changes=lambda changes: None)
    with pytest.raises(TimeoutError):
        await client.start(limit=0.05)
