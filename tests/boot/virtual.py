"""Virtual time: a loop whose clock jumps to the next thing that is due, so that what takes minutes is over in no time, and always alike.

Nothing may wait for another thread: work that is handed to one is done at once, and the store has none.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Concatenate

import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from pileus.settings import Settings
from pileus.store import P, Store, T, Tx
from pileus.store.schema import json_dumps, json_loads, metadata
from tests.boot.cloudlet import Cloudlet

START = 1_800_000_000.0


class _Jumping(selectors.DefaultSelector):
    """Does not wait: the clock goes on instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits, and nothing is due")
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class InlineStore:
    """SQLite in memory, each transaction in the caller's own step."""

    def __init__(self) -> None:
        options: dict[str, Any] = {"json_serializer": json_dumps, "json_deserializer": json_loads}
        arguments = {"check_same_thread": False}
        self._engine = create_engine("sqlite://", poolclass=StaticPool, connect_args=arguments, **options)
        metadata.create_all(self._engine)

    async def read(self, fn: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.write(fn, *args, **kwargs)

    async def write(self, fn: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._engine.begin() as connection:
            found = fn(connection, *args, **kwargs)
        await asyncio.sleep(0)
        return found

    @asynccontextmanager
    async def exclusive(self, name: str) -> AsyncIterator[None]:
        """Nobody else is there."""
        yield

    async def close(self) -> None:
        self._engine.dispose()


class VirtualCloudlet(Cloudlet):
    async def open_store(self) -> Store:
        return InlineStore()


def run(
    monkeypatch: pytest.MonkeyPatch, folder: Path, settings: Settings, hosts: int, work: Callable[[Cloudlet], Coroutine[Any, Any, T]]
) -> T:
    """Do `work` on a cloudlet in virtual time."""

    async def whole() -> T:
        cloud = VirtualCloudlet(folder, settings, hosts, None)
        await cloud.open()
        try:
            return await work(cloud)
        finally:
            await cloud.close()

    return in_virtual_time(monkeypatch, whole)


def in_virtual_time(monkeypatch: pytest.MonkeyPatch, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Do `work` on a loop of its own, whose time begins at 0."""
    loop = VirtualLoop()
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: START + loop.time())
        patched.setattr(time, "monotonic", loop.time)
        try:
            return loop.run_until_complete(work())
        finally:
            loop.close()
