"""A store on each engine: what processes share must hold on both."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pileus.settings import Database
from pileus.store import Store
from pileus.store.postgresql import PostgresStore
from pileus.store.sqlite import SqliteStore

ENGINES = ("sqlite", "postgresql")


@contextlib.asynccontextmanager
async def opened(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """A new database with the whole schema."""
    store: Store
    if engine == "sqlite":
        store = SqliteStore.open(tmp_path / "pileus.db")
    else:
        server = request.getfixturevalue("postgres")
        store = await PostgresStore.open(Database(url=await server.fresh()), role="test")
    try:
        yield store
    finally:
        await store.close()
