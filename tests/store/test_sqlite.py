from __future__ import annotations

import asyncio
import sqlite3
import stat
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
    with pytest.raises(StartupError, match=r"database .*pileus\.db: No such file"):
        SqliteStore.open(tmp_path / "nowhere" / "pileus.db")


async def test_nobody_else_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "pileus.db"
    path.touch(mode=0o644)
    store = await asyncio.to_thread(SqliteStore.open, path)
    await store.write(lambda tx: tx.exec_driver_sql("CREATE TABLE t (x)"))
    found = {file.name: stat.S_IMODE(file.stat().st_mode) for file in await asyncio.to_thread(lambda: list(tmp_path.iterdir()))}
    assert found == dict.fromkeys(("pileus.db", "pileus.db-wal", "pileus.db-shm"), 0o600)
    await store.close()


async def test_it_opens_again(tmp_path: Path) -> None:
    for _ in range(2):
        await SqliteStore.open(tmp_path / "pileus.db").close()
