"""Fixtures that any test may use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pileus.store.sqlite import SqliteStore
from tests.engines.postgresql import PostgresServer, programs


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A database of the test's own. What tables it has depends on what was imported before: import the service under test at the top."""
    opened = SqliteStore.open(tmp_path / "pileus.db")
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL of this run's own. Where it can be installed it must be: tests/test_real_parts.py fails the run."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed: tools/install-parts test")
    with PostgresServer() as server:
        yield server


@pytest.fixture
async def postgres_url(postgres: PostgresServer) -> str:
    """A new PostgreSQL database with the whole schema."""
    return await postgres.fresh()
