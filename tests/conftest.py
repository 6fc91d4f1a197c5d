"""Fixtures that any test may use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pileus.store.sqlite import SqliteStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A database of the test's own. What tables it has depends on what was imported before: import the service under test at the top."""
    opened = SqliteStore.open(tmp_path / "pileus.db")
    yield opened
    await opened.close()
