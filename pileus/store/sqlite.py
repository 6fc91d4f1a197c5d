"""SQLite: WAL, one writer thread that commits what waits as a group, and a few reader threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Concatenate, NamedTuple

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool

from pileus.errors import StartupError, Unavailable
from pileus.store import P, T, Tx, revisions
from pileus.store.schema import json_dumps, json_loads

VERSION = 2
"""The file's user_version: 2 since its schema has revisions; 1 was the schema of the first one, unstamped. A higher one is refused."""
FIRST = 1
READERS = 2
GROUP = 64
"""Most transactions of one commit: bounds what a slow one among them delays."""
LIMIT = 30.0
"""Seconds that a caller waits for its transaction."""
LOCK_LIMIT = 120.0
"""Seconds that `exclusive` waits for who is inside."""


class _Job(NamedTuple):
    fn: Callable[[Connection], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class SqliteStore:
    """See `pileus.store.Store`. Open with `SqliteStore.open`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._locks: dict[str, asyncio.Lock] = {}
        self._writes: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._reads: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._write_loop, name="store-write", daemon=True)]
        self._threads += [threading.Thread(target=self._read_loop, name="store-read", daemon=True) for _ in range(READERS)]
        for thread in self._threads:
            thread.start()

    @classmethod
    def open(cls, path: Path) -> SqliteStore:
        """Open the database file, make or upgrade it where needed, for its owner's eyes. Raises StartupError."""
        engine, _ = _opened(path)
        return cls(engine)

    async def read(self, fn: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._ask(self._reads, lambda tx: fn(tx, *args, **kwargs))

    async def write(self, fn: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._ask(self._writes, lambda tx: fn(tx, *args, **kwargs))

    @contextlib.asynccontextmanager
    async def exclusive(self, name: str, *, limit: float = LOCK_LIMIT) -> AsyncIterator[None]:
        # Of this process, which is the only one: the state folder is locked.
        lock = self._locks.setdefault(name, asyncio.Lock())
        try:
            async with asyncio.timeout(limit):
                await lock.acquire()
        except TimeoutError:
            raise Unavailable(f"another part of Pileus has been busy with {name!r} for {limit:.0f} s; try again") from None
        try:
            yield
        finally:
            lock.release()

    async def close(self) -> None:
        self._writes.put(None)
        for _ in range(READERS):
            self._reads.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        self._engine.dispose()

    async def _ask(self, jobs: queue.SimpleQueue[_Job | None], fn: Callable[[Connection], T]) -> T:
        """Hand a transaction to a thread (a plain queue is a third of an executor's cost) and wait for what it comes to."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        jobs.put(_Job(fn, loop, future))
        try:
            async with asyncio.timeout(LIMIT):
                return await future
        except TimeoutError:
            raise Unavailable(f"the database did not answer within {LIMIT:.0f} s; try again") from None

    def _read_loop(self) -> None:
        with self._engine.connect() as connection:
            control = _control(connection)
            while (job := self._reads.get()) is not None:
                outcome: tuple[_Job, Any, BaseException | None]
                try:
                    control("BEGIN")
                    try:
                        outcome = (job, job.fn(connection), None)
                    finally:
                        control("ROLLBACK")
                except Exception as error:
                    outcome = (job, None, error)
                _settle([outcome])

    def _write_loop(self) -> None:
        with self._engine.connect() as connection:
            while (job := self._writes.get()) is not None:
                group, ending = self._gather(job)
                _settle(self._commit(connection, group))
                if ending:
                    return

    def _gather(self, job: _Job) -> tuple[list[_Job], bool]:
        group = [job]
        while len(group) < GROUP:
            try:
                more = self._writes.get_nowait()
            except queue.Empty:
                break
            if more is None:
                return group, True
            group.append(more)
        return group, False

    def _commit(self, connection: Connection, group: list[_Job]) -> list[tuple[_Job, Any, BaseException | None]]:
        """Run each job in its own savepoint and commit them together; what each came to."""
        outcomes: list[tuple[_Job, Any, BaseException | None]] = []
        control = _control(connection)
        try:
            control("BEGIN IMMEDIATE")
            for job in group:
                control("SAVEPOINT job")
                try:
                    outcomes.append((job, job.fn(connection), None))
                    control("RELEASE job")
                except Exception as error:
                    control("ROLLBACK TO job")
                    control("RELEASE job")
                    outcomes.append((job, None, error))
            control("COMMIT")
        except Exception as error:
            with contextlib.suppress(Exception):
                control("ROLLBACK")
            unavailable = Unavailable(f"the database could not commit: {getattr(error, 'orig', error)}")
            return [(job, None, unavailable) for job in group]
        return outcomes


def upgrade_file(path: Path) -> str:
    """Make or upgrade a database file; what was done, in words. Raises StartupError."""
    engine, done = _opened(path)
    engine.dispose()
    return f"database {path} {done}"


def _opened(path: Path) -> tuple[Engine, str]:
    try:
        _keep_from_others(path)
    except OSError as error:
        raise StartupError(f"database {path}: {error.strerror}") from None
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=NullPool,
        json_serializer=json_dumps,
        json_deserializer=json_loads,
        hide_parameters=True,  # passwords' hashes, keys and user data would stand in logs
        connect_args={"isolation_level": None, "check_same_thread": False, "timeout": 10.0},
    )
    event.listen(engine, "connect", _pragmas)
    try:
        with engine.connect() as connection:
            return engine, _bring_up(connection, path)
    except DatabaseError as error:
        raise StartupError(f"database {path}: {error.orig}") from None


def _bring_up(connection: Connection, path: Path) -> str:
    """Make or upgrade the schema; what was done."""
    version = connection.execute(text("PRAGMA user_version")).scalar_one()
    if version > VERSION:
        raise StartupError(f"{path} was made by a newer Pileus (format {version}, this one knows {VERSION}): upgrade Pileus")
    if version == VERSION and revisions.found(connection) == revisions.head():
        return f"has the schema {revisions.head()} already"
    control = _control(connection)
    control("PRAGMA foreign_keys = OFF")  # where a table is made anew to change it, what refers to it must not be deleted with it
    control("BEGIN IMMEDIATE")
    try:
        if version == FIRST:
            revisions.stamp(connection, revisions.FIRST)
        done = revisions.bring_up(connection, f"database {path}")
        if broken := connection.execute(text("PRAGMA foreign_key_check")).first():
            raise StartupError(f"{path} cannot be upgraded: a row of {broken[0]} refers to one of {broken[2]} that is not there")
        control(f"PRAGMA user_version = {VERSION}")
        control("COMMIT")
    except BaseException:
        control("ROLLBACK")
        raise
    return done


def _keep_from_others(path: Path) -> None:
    """Password hashes and user data are in it. SQLite gives the files beside a database the database's own rights."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for file in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        with contextlib.suppress(FileNotFoundError):
            file.chmod(0o600)


def _control(connection: Connection) -> Callable[[str], object]:
    """BEGIN, COMMIT and their like go straight to the driver: they are half of all statements, and SQLAlchemy has no part in them."""
    driver = connection.connection.driver_connection
    assert driver is not None
    execute: Callable[[str], object] = driver.execute
    return execute


def _pragmas(connection: Any, _record: Any) -> None:
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "temp_store = MEMORY"):
        connection.execute(f"PRAGMA {pragma}")


def _settle(outcomes: list[tuple[_Job, Any, BaseException | None]]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Job, Any, BaseException | None]]] = {}
    for outcome in outcomes:
        by_loop.setdefault(outcome[0].loop, []).append(outcome)
    for loop, mine in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_deliver, mine)


def _deliver(outcomes: list[tuple[_Job, Any, BaseException | None]]) -> None:
    for job, value, error in outcomes:
        if job.future.done():
            continue
        if error is not None:
            job.future.set_exception(error)
        else:
            job.future.set_result(value)
