"""Fixtures that any test may use."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pileus.store.sqlite import SqliteStore
from tests.engines.postgresql import PostgresServer, programs

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell has started this run in the background. What the tests start is to hear Ctrl-C as it does at a terminal.
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
