"""Both engines for one test: an asynchronous store, and a plain connection for rules that are tested without a store.

Fixtures ask for `engine`; a conftest.py names `both` as its `pytest_generate_tests`, so that each test runs on both, but those of
`ONCE`, whose matter is not the database.
A synchronous test that asks for a connection of PostgreSQL must run in a greenlet of its event loop: a conftest.py names
`run_in_greenlet` as its `pytest_pyfunc_call`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.util import greenlet_spawn

from pileus.settings import Database
from pileus.store.postgresql import PostgresStore
from pileus.store.schema import json_dumps, json_loads
from pileus.store.sqlite import SqliteStore
from pileus.tables import metadata
from tests.engines.postgresql import PostgresServer

ENGINES = ("sqlite", "postgresql")
JSON: dict[str, Any] = {"json_serializer": json_dumps, "json_deserializer": json_loads}

ONCE = ("test_fuzz", "test_sdk", "test_microversions", "test_network_client_contract", "test_network_http", "test_nova_calls")

AnyStore = SqliteStore | PostgresStore


def both(metafunc: pytest.Metafunc) -> None:
    """Each test that comes to need an engine, on each of them."""
    if "engine" in metafunc.fixturenames:
        once = metafunc.module.__name__.rpartition(".")[2] in ONCE
        metafunc.parametrize("engine", ENGINES[:1] if once else ENGINES)


@asynccontextmanager
async def opened(request: pytest.FixtureRequest, engine: str, folder: Path) -> AsyncIterator[AnyStore]:
    """A store with an empty database of its own."""
    if engine == "sqlite":
        store: AnyStore = SqliteStore.open(folder / "pileus.db")
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        store = await PostgresStore.open(Database(url=await server.fresh(), max_pool_size=5), role="test")
    try:
        yield store
    finally:
        await store.close()


def memory() -> Connection:
    """A connection to an empty SQLite database of its own, in memory."""
    engine = create_engine("sqlite://", **JSON)
    event.listen(engine, "connect", lambda connection, _record: connection.execute("PRAGMA foreign_keys = ON"))
    connection = engine.connect()
    metadata.create_all(connection)
    connection.commit()
    return connection


@asynccontextmanager
async def connection(server: PostgresServer) -> AsyncIterator[Connection]:
    """A connection to an empty PostgreSQL database; to be used in a greenlet only."""
    engine = create_async_engine((await server.fresh()).replace("postgresql:", "postgresql+asyncpg:"), poolclass=NullPool, **JSON)
    async with engine.connect() as made:
        assert made.sync_connection is not None
        yield made.sync_connection
    await engine.dispose()


@contextmanager
def connected(request: pytest.FixtureRequest, engine: str) -> Iterator[Connection]:
    """A connection for a synchronous test."""
    if engine == "sqlite":
        with memory() as made:
            yield made
        return
    with asyncio.Runner() as runner:
        holding = connection(request.getfixturevalue("postgres"))
        made = runner.run(holding.__aenter__())
        made.info["runner"] = runner
        try:
            yield made
        finally:
            runner.run(_end(holding.__aexit__(None, None, None)))


def run_in_greenlet(pyfuncitem: pytest.Function) -> bool | None:
    """Run a synchronous test that has a connection of PostgreSQL; None: an ordinary one."""
    made = pyfuncitem.funcargs.get("tx")
    if not isinstance(made, Connection) or made.dialect.name == "sqlite" or inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted: dict[str, Any] = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    runner: asyncio.Runner = made.info["runner"]
    runner.run(_end(greenlet_spawn(pyfuncitem.obj, **wanted)))
    return True


async def _end(awaited: Coroutine[Any, Any, Any]) -> None:
    await awaited
