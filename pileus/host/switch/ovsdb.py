"""OVSDB over its unix socket: transactions, and a replica of the columns we watch. JSON-RPC as RFC 7047 has it.

Plain `monitor` on purpose: its updates carry whole rows of the few columns we ask for, and we never watch `Bridge.ports`, the one
column that grows with the number of ports.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from pileus.host.chores import Chores
from pileus.host.switch.sockets import connect_unix

Row = dict[str, Any]
"""Column → value: sets are lists (an optional value that is not there: []), maps are dicts, uuids are strings."""

Change = tuple[str, str, Row | None]
"""Table, row's uuid, the row as it is now; None: it is gone."""

_DATABASE = "Open_vSwitch"
_RETRY_FIRST, _RETRY_MOST = 0.02, 1.0
_PROBE = 10.0
_CONNECT_LIMIT = 10.0


class OvsdbError(Exception):
    """A transaction was refused, or the database did not answer. One line."""


class OvsdbLost(OvsdbError):
    """The connection ended; nothing is known of what was under way."""


class Ovsdb:
    """A connection that is made again for ever. After each (re)connect the whole of the watched tables is compared with what was
    known, so that `on_changes` hears of everything once, whatever happened meanwhile."""

    def __init__(
        self,
        path: Path,
        columns: Mapping[str, Sequence[str]],
        *,
        on_changes: Callable[[list[Change]], None],
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.rows: dict[str, dict[str, Row]] = {table: {} for table in columns}
        self._path = path
        self._columns = columns
        self._on_changes, self._on_lost = on_changes, on_lost
        self._line: _Line | None = None
        self._up = asyncio.Event()
        self._chores = Chores()

    async def start(self, *, limit: float) -> None:
        """Connect; returns when the tables are read. Raises TimeoutError (and is closed) after `limit` seconds."""
        self._chores.start(self._keep_connected(), "ovsdb")
        try:
            await self.connected(limit)
        except BaseException:
            await self.close()
            raise

    async def connected(self, limit: float) -> None:
        """Returns when there is a connection. Raises TimeoutError after `limit` seconds."""
        async with asyncio.timeout(limit):
            await self._up.wait()

    async def close(self) -> None:
        """End the connection. Calls under way fail with OvsdbError."""
        self._on_lost = lambda: None
        await self._chores.close(patience=0)

    async def transact(self, operations: Sequence[Mapping[str, Any]], *, limit: float = 10.0) -> list[Any]:
        """One transaction; the results of its operations. Where there is no connection, it is waited for.

        What it changed in watched columns is in `rows` on return. Raises OvsdbError, TimeoutError.
        """
        async with asyncio.timeout(limit):
            await self._up.wait()
            line = self._line
            if line is None:
                raise OvsdbLost("the switch's database connection was lost")
            results: list[Any] = await line.call("transact", [_DATABASE, *operations])
        for result in results:
            if isinstance(result, dict) and "error" in result:
                raise OvsdbError(": ".join(str(part) for part in (result["error"], result.get("details")) if part))
        return results

    async def _keep_connected(self) -> None:
        pause = _RETRY_FIRST
        while True:
            try:
                async with asyncio.timeout(_CONNECT_LIMIT):
                    line = await _Line.connect(self._path, self._update, self._down)
            except (OSError, TimeoutError):
                await asyncio.sleep(pause)
                pause = min(2 * pause, _RETRY_MOST)
                continue
            try:
                async with asyncio.timeout(_CONNECT_LIMIT):
                    wanted = {table: {"columns": list(names)} for table, names in self._columns.items()}
                    self._replace(await line.call("monitor", [_DATABASE, None, wanted]))
                self._line = line
                self._up.set()
                pause = _RETRY_FIRST
                await self._probe(line)
            except (OvsdbError, TimeoutError):
                await asyncio.sleep(pause)
                pause = min(2 * pause, _RETRY_MOST)
            finally:
                line.close()
                self._down(line)

    def _down(self, line: _Line) -> None:
        """At once when the connection ends, so that nobody is sent to it any more."""
        if self._line is line:
            self._line = None
            self._up.clear()
            self._on_lost()

    async def _probe(self, line: _Line) -> None:
        """Returns when the connection has ended; a peer that does not answer is taken for dead."""
        while True:
            done, _ = await asyncio.wait([line.closed], timeout=_PROBE)
            if done:
                return
            async with asyncio.timeout(_PROBE):
                await line.call("echo", [])

    def _replace(self, tables: Mapping[str, Mapping[str, Any]]) -> None:
        changes: list[Change] = []
        for table, known in self.rows.items():
            fresh = {uuid: _row(update["new"]) for uuid, update in tables.get(table, {}).items()}
            changes += [(table, uuid, None) for uuid in known if uuid not in fresh]
            changes += [(table, uuid, row) for uuid, row in fresh.items() if known.get(uuid) != row]
            known.clear()
            known.update(fresh)
        if changes:
            self._on_changes(changes)

    def _update(self, tables: Mapping[str, Mapping[str, Any]]) -> None:
        changes: list[Change] = []
        for table, updates in tables.items():
            for uuid, update in updates.items():
                if "new" in update:
                    row = self.rows[table][uuid] = _row(update["new"])
                    changes.append((table, uuid, row))
                else:
                    self.rows[table].pop(uuid, None)
                    changes.append((table, uuid, None))
        self._on_changes(changes)


def as_map(values: Mapping[str, str]) -> list[Any]:
    """A map as OVSDB writes it."""
    return ["map", [[key, value] for key, value in values.items()]]


def as_set(values: Sequence[Any]) -> list[Any]:
    """A set as OVSDB writes it."""
    return ["set", list(values)]


def split(buffer: bytearray) -> Iterator[bytes]:
    """The whole JSON objects at the start of `buffer`, which loses them: the stream has no other mark between messages."""
    depth, start, in_string, skip = 0, 0, False, -1
    end = 0
    for found in _MARKS.finditer(buffer):
        at, mark = found.start(), found.group()
        if at == skip:
            continue
        if mark == b"\\":
            skip = at + 1
        elif mark == b'"':
            in_string = not in_string
        elif in_string:
            continue
        elif mark == b"{":
            if depth == 0:
                start = at
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                end = at + 1
                yield bytes(buffer[start:end])
    del buffer[:end]


_MARKS = re.compile(rb'["{}\\]')


def _row(columns: Mapping[str, Any]) -> Row:
    return {name: _value(value) for name, value in columns.items()}


def _value(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 2:
        kind, content = value
        if kind == "set":
            return [_value(item) for item in content]
        if kind == "map":
            return {key: _value(item) for key, item in content}
        if kind == "uuid":
            return content
    return value


class _Line(asyncio.Protocol):
    """One connection: requests, answers, notifications."""

    def __init__(self, on_update: Callable[[Mapping[str, Any]], None], on_close: Callable[[_Line], None]) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_update, self._on_close = on_update, on_close
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._numbers = itertools.count(1)
        self._calls: dict[int, asyncio.Future[Any]] = {}

    @classmethod
    async def connect(cls, path: Path, on_update: Callable[[Mapping[str, Any]], None], on_close: Callable[[_Line], None]) -> _Line:
        channel = await connect_unix(path)
        try:
            _, line = await asyncio.get_running_loop().create_unix_connection(lambda: cls(on_update, on_close), sock=channel)
        except BaseException:
            channel.close()
            raise
        return line

    async def call(self, method: str, params: list[Any]) -> Any:
        if self._transport is None or self._transport.is_closing():
            raise OvsdbLost("the switch's database connection was lost")
        number = next(self._numbers)
        self._calls[number] = answer = asyncio.get_running_loop().create_future()
        self._transport.write(msgspec.json.encode({"method": method, "params": params, "id": number}))
        try:
            return await answer
        finally:
            self._calls.pop(number, None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        for text in split(self._buffer):
            self._receive(msgspec.json.decode(text))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(OvsdbLost("the switch's database connection was lost"))
        if not self.closed.done():
            self.closed.set_result(None)
            self._on_close(self)

    def _receive(self, message: dict[str, Any]) -> None:
        method = message.get("method")
        if method == "update":
            self._on_update(message["params"][1])
        elif method == "echo" and self._transport is not None:
            answer = {"result": message["params"], "error": None, "id": message["id"]}
            self._transport.write(msgspec.json.encode(answer))
        elif method is None:
            waiting = self._calls.get(message["id"])
            if waiting is None or waiting.done():
                return
            error = message.get("error")
            if error:
                waiting.set_exception(OvsdbError(error.get("error", str(error)) if isinstance(error, dict) else str(error)))
            else:
                waiting.set_result(message["result"])
