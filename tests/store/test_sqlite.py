from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from pileus.errors import StartupError
from pileus.store.sqlite import SqliteStore


async def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pileus.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StartupError, match=r"made by a newer Pileus .*upgrade Pileus"):
        SqliteStore.open(path)


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pileus.db"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(StartupError, match=r"database .*pileus\.db"):
        SqliteStore.open(path)


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="unable to open"):
        SqliteStore.open(tmp_path / "nowhere" / "pileus.db")


async def test_it_opens_again(tmp_path: Path) -> None:
    for _ in range(2):
        await SqliteStore.open(tmp_path / "pileus.db").close()
