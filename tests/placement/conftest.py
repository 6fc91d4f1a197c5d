"""A placement service on a store of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pileus.placement import tables  # noqa: F401  (its tables must be known before the database is made)
from pileus.placement.service import Placement
from pileus.store.sqlite import SqliteStore


@pytest.fixture
async def placement(tmp_path: Path) -> AsyncIterator[Placement]:
    store = SqliteStore.open(tmp_path / "placement.db")
    yield Placement(store)
    await store.close()
