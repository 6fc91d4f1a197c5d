"""Fixtures that any test may use."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pytest

from pileus.store.sqlite import SqliteStore
from tests.engines.postgresql import PostgresServer, programs

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell has started this run in the background. What the tests start is to hear Ctrl-C as it does at a terminal.
    signal.signal(signal.SIGINT, signal.default_int_handler)

WAITING = ("chaos", "boot", "real", "lab", "deploy", "cli")
"""Folders whose tests wait, most of them for processes and guests: those with the longest files first."""
BY_THEN = 0.85
"""The part of the other files among which those are spread: a worker that began a long file last would end by itself."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Several workers take files in this order: those that wait lie evenly between those that compute, so that neither meet each other."""
    if not hasattr(config, "workerinput"):
        return
    files = [list(found) for _, found in groupby(items, lambda item: item.path)]
    waiting = sorted((file for file in files if _folder(file) in WAITING), key=lambda file: WAITING.index(_folder(file)))
    others = [file for file in reversed(files) if _folder(file) not in WAITING]  # blackbox last: it waits too
    places = [(BY_THEN * number / len(waiting), file) for number, file in enumerate(waiting)]
    places += [(number / len(others), file) for number, file in enumerate(others)]
    items[:] = [item for _, file in sorted(places, key=lambda place: place[0]) for item in file]


def _folder(file: Sequence[pytest.Item]) -> str:
    """The folder of tests/ that a file's tests are in."""
    return file[0].path.relative_to(Path(__file__).parent).parts[0]


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
