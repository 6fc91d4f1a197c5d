from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import asyncpg

from pileus.store import revisions
from tests.cli.conftest import Run, pileus
from tests.engines.postgresql import PostgresServer


def test_an_sqlite_file(tmp_path: Path, one_line: Callable[[Run], str]) -> None:
    file = tmp_path / "state" / "pileus.db"
    done = [pileus("db", "upgrade", "--state", file.parent) for _ in range(2)]
    assert [one.stdout for one in done] == [
        f"database {file} has its schema now: {revisions.head()}\n",
        f"database {file} has the schema {revisions.head()} already\n",
    ], done
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT count(*) FROM compute_servers").fetchone() == (0,)


async def test_postgresql(postgres: PostgresServer, tmp_path: Path) -> None:
    url = await postgres.fresh(empty=True)
    settings = tmp_path / "pileus.toml"
    settings.write_text(f'[database]\nurl = "{url}"\n')
    done = [pileus("db", "upgrade", "--config", settings) for _ in range(2)]
    where = url.partition("@")[2]
    assert [one.stdout for one in done] == [
        f"database {where} has its schema now: {revisions.head()}\n",
        f"database {where} has the schema {revisions.head()} already\n",
    ], done
    connection = await asyncpg.connect(url)
    assert await connection.fetchval("SELECT count(*) FROM network_ports") == 0
    await connection.close()


def test_what_is_wrong_is_one_line_without_the_password(one_line: Callable[[Run], str]) -> None:
    refused = pileus("db", "upgrade", PILEUS_DATABASE__URL="postgresql://pileus:sesame@127.0.0.1:1/pileus")
    assert "database server at 127.0.0.1:1/pileus does not answer: Connection refused" in one_line(refused)
    nonsense = pileus("db", "upgrade", PILEUS_DATABASE__URL="mysql://pileus:sesame@127.0.0.1/pileus")
    assert "setting database.url" in one_line(nonsense)
    shown = pileus("config", PILEUS_DATABASE__URL="postgresql://pileus:sesame@127.0.0.1:1/pileus")
    assert "database.url" in shown.stdout
    assert "sesame" not in refused.stderr + nonsense.stderr + shown.stdout
