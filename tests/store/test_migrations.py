"""The schema's history leads to the schema of today, on both engines, and what was in a database is still there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

import pileus.tables  # noqa: F401
from pileus.errors import StartupError
from pileus.settings import Database, Settings
from pileus.store import revisions
from pileus.store.migrating import migrate, scripts
from pileus.store.opening import open_store
from pileus.store.schema import metadata
from pileus.store.sqlite import SqliteStore
from pileus.store.upgrading import upgrade_postgresql
from tests.engines.postgresql import PostgresServer

OURS = {name: table for name, table in metadata.tables.items() if not name.startswith("test_")}


def make_first(connection: Connection) -> None:
    """A database as the first Pileus made it, which did not stamp it."""
    revision = scripts().get_revision(revisions.FIRST)
    assert revision is not None
    with Operations.context(MigrationContext.configure(connection)):
        revision.module.upgrade()


def shape(connection: Connection) -> dict[str, Any]:
    """Everything of a schema that a statement could depend on; what differs between two shapes is what a migration forgot."""
    found: dict[str, Any] = {}
    look = inspect(connection)
    for table in look.get_table_names():
        if table.startswith("test_") or table == "alembic_version":
            continue
        for column in look.get_columns(table):
            default = column["default"]
            found[f"{table}.{column['name']}"] = (str(column["type"]), "NULL" if column["nullable"] else "NOT NULL", default)
        found[f"{table}: primary key"] = look.get_pk_constraint(table)["constrained_columns"]
        for index in look.get_indexes(table):
            if "duplicates_constraint" not in index:
                where = re.sub(r"[()]", "", str(next(iter(index.get("dialect_options", {}).values()), "")))
                found[f"{table}: index {index['name']}"] = (index["column_names"], bool(index["unique"]), where)
        found[f"{table}: unique"] = sorted(tuple(sorted(one["column_names"])) for one in look.get_unique_constraints(table))
        found[f"{table}: foreign keys"] = sorted(
            (one["constrained_columns"], one["referred_table"], one["referred_columns"], one["options"].get("ondelete"))
            for one in look.get_foreign_keys(table)
        )
        found[f"{table}: checks"] = sorted(re.sub(r"[()]", "", one["sqltext"]) for one in look.get_check_constraints(table))
    return found


def both_ways(connection: Connection, again: Connection) -> tuple[dict[str, Any], dict[str, Any]]:
    """By its history, and from today's tables."""
    make_first(connection)
    revisions.stamp(connection, revisions.FIRST)
    migrate(connection)
    assert revisions.found(connection) == revisions.head()
    metadata.create_all(again, tables=list(OURS.values()))
    return shape(connection), shape(again)


def differences(by_history: dict[str, Any], by_tables: dict[str, Any]) -> list[str]:
    return [
        f"{key}: {by_history.get(key)} by pileus/store/migrations, {by_tables.get(key)} by tables.py"
        for key in sorted(by_history.keys() | by_tables.keys())
        if by_history.get(key) != by_tables.get(key)
    ]


def test_the_history_is_one_line_and_files_are_named_by_it() -> None:
    script = scripts()
    assert script.get_heads() == [revisions.head()], "two files follow the same one: the later one's author renames his"
    line = [one.revision for one in script.walk_revisions()][::-1]
    assert line == list(revisions.known()), "file names, `revision` and `down_revision` tell different orders"
    assert line[0] == revisions.FIRST
    assert [name for name in line if not re.fullmatch(r"\d{4}_[a-z0-9_]+", name) or len(name) > 32] == []
    assert [int(name[:4]) for name in line] == list(range(1, len(line) + 1))


def test_sqlite_comes_to_the_same_schema(tmp_path: Path) -> None:
    engines = [create_engine(f"sqlite:///{tmp_path / name}", poolclass=NullPool) for name in ("a", "b")]
    with engines[0].begin() as one, engines[1].begin() as other:
        by_history, by_tables = both_ways(one, other)
    assert differences(by_history, by_tables) == []


async def test_postgresql_comes_to_the_same_schema(postgres: PostgresServer) -> None:
    engines = [
        create_async_engine((await postgres.fresh(empty=True)).replace("postgresql:", "postgresql+asyncpg:"), poolclass=NullPool)
        for _ in "ab"
    ]
    async with engines[0].begin() as one, engines[1].begin() as other:
        assert other.sync_connection is not None
        by_history, by_tables = await one.run_sync(both_ways, other.sync_connection)
    assert differences(by_history, by_tables) == []


PAIRS = '[{"ip": "10.9.0.0/24", "mac": "m"}, {"ip": "10.9.0.0/24", "mac": "n"}, {"ip": "x", "mac": "m"}]'
"""What a port may send as, too; the last is its own address."""


def old_file(path: Path) -> dict[str, dict[str, Any]]:
    """A file of the first Pileus with one row in each table, which refer to one another; those rows."""
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    rows: dict[str, dict[str, Any]] = {}
    with engine.begin() as connection:
        make_first(connection)
        look = inspect(connection)
        for table in look.get_table_names():
            kinds = {column["name"]: str(column["type"]) for column in look.get_columns(table)}
            rows[table] = {
                name: "[]" if kind == "JSON" else "x" if kind.startswith(("VARCHAR", "TEXT")) else 1 for name, kind in kinds.items()
            }
    rows["network_ports"]["pairs"] = PAIRS
    with contextlib.closing(sqlite3.connect(path)) as file:
        for table, row in rows.items():
            file.execute(
                f"INSERT INTO {table} ({', '.join(f'[{name}]' for name in row)}) VALUES ({', '.join('?' * len(row))})", list(row.values())
            )
        file.execute("PRAGMA user_version = 1")
        file.commit()
    return rows


async def test_an_old_sqlite_file_is_upgraded_and_keeps_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "pileus.db"
    rows = old_file(path)
    for _ in range(2):
        store = await asyncio.to_thread(SqliteStore.open, path)
        await store.close()
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.row_factory = sqlite3.Row
        assert file.execute("PRAGMA user_version").fetchone()[0] == 2
        assert file.execute("SELECT version_num FROM alembic_version").fetchone()[0] == revisions.head()
        assert len(rows) > 30
        for table in rows.keys() & OURS.keys():
            found = file.execute(f"SELECT * FROM {table}").fetchone()
            assert found is not None, f"{table}: its rows are gone"
            kept = {name: found[name] for name in rows[table].keys() & set(found.keys())}
            assert kept == {name: rows[table][name] for name in kept}
        assert file.execute("PRAGMA foreign_key_check").fetchall() == []
        check_open([tuple(row) for row in file.execute(OPEN_GROUPS)])


OPEN_GROUPS = (
    "SELECT p.id, g.project_id, p.security_groups, m.set_id, m.address, r.direction, r.ip_version, r.protocol, r.remote_cidr "
    "FROM network_ports p JOIN network_set_members m ON m.port_id = p.id JOIN network_security_groups g ON g.id = m.set_id "
    "JOIN network_security_rules r ON r.group_id = g.id ORDER BY p.id, r.direction, r.ip_version"
)


def check_open(found: list[tuple[Any, ...]]) -> None:
    """What passed to and from ports before there were security groups passes after the upgrade: they have a group that says so."""
    assert len(found) == 8
    assert {(row[0], row[1], row[4]) for row in found} == {("x", "x", "x"), ("x", "x", "10.9.0.0/24")}
    assert [row[5:] for row in found[::2]] == [(way, version, None, None) for way in ("egress", "ingress") for version in (4, 6)]
    assert {json.loads(row[2])[0] if isinstance(row[2], str) else row[2][0] for row in found} == {row[3] for row in found}


def test_info_caches_of_servers_of_before_are_to_be_read(tmp_path: Path) -> None:
    path = tmp_path / "pileus.db"
    columns = ", ".join(f"[{name}]" for name in old_file(path)["compute_servers"] if name not in ("id", "host", "deleted_at"))
    with contextlib.closing(sqlite3.connect(path)) as file:
        for server, host, deleted in (("lives", "h1", None), ("nowhere", None, None)):
            values = f"SELECT ?, ?, ?, {columns} FROM compute_servers WHERE id = 'x'"
            file.execute(f"INSERT INTO compute_servers (id, host, deleted_at, {columns}) {values}", (server, host, deleted))
        file.commit()
    asyncio.run(SqliteStore.open(path).close())
    with contextlib.closing(sqlite3.connect(path)) as file:
        found = file.execute("SELECT id, refresh_at, addresses FROM compute_servers ORDER BY id").fetchall()
    assert found == [("lives", 0.0, None), ("nowhere", None, "[]"), ("x", None, None)]


def test_a_file_that_cannot_be_upgraded_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "pileus.db"
    old_file(path)
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA foreign_keys = OFF")
        file.execute("DELETE FROM network_networks")
        file.commit()
        before = list(file.iterdump())
    with pytest.raises(StartupError, match=r"cannot be upgraded: a row of network_.* refers to one of network_networks that is not there"):
        SqliteStore.open(path)
    with contextlib.closing(sqlite3.connect(path)) as file:
        assert list(file.iterdump()) == before


def test_a_new_file_needs_no_alembic(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib, pileus.tables; from pileus.store.sqlite import SqliteStore; SqliteStore.open(pathlib.Path(sys.argv[1]));"
        "print([name for name in ('alembic', 'asyncpg', 'prometheus_client') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "pileus.db"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


async def test_upgrade_makes_the_schema_once_whoever_asks(postgres: PostgresServer) -> None:
    url = await postgres.fresh(empty=True)
    said = await asyncio.gather(*[upgrade_postgresql(url) for _ in range(4)])
    where = url.partition("@")[2]
    assert sorted(said) == [
        f"database {where} has its schema now: {revisions.head()}",
        *[f"database {where} has the schema {revisions.head()} already"] * 3,
    ]
    store = await open_store(settings(url), role="test")
    await store.close()


def fill_network(connection: Connection) -> None:
    """One row in each table that a port of the first Pileus is in."""
    look = inspect(connection)
    for table in ("network_networks", "network_subnets", "network_ports", "network_allocations"):
        kinds = {column["name"]: str(column["type"]) for column in look.get_columns(table)}
        values = {
            name: "'[]'" if kind == "JSON" else "'x'" if kind.startswith(("VARCHAR", "TEXT")) else "true" if kind == "BOOLEAN" else "1"
            for name, kind in kinds.items()
        }
        connection.exec_driver_sql(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join(values.values())})")
    connection.execute(text("UPDATE network_ports SET pairs = :pairs"), {"pairs": PAIRS})


async def test_upgrade_of_an_older_one(postgres: PostgresServer) -> None:
    url = await postgres.fresh(empty=True)
    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"), poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(make_first)
        await connection.run_sync(revisions.stamp, revisions.FIRST)
        await connection.run_sync(fill_network)
    with pytest.raises(StartupError, match=r"has the schema 0001_first, this Pileus needs .*: run `pileus db upgrade`"):
        await open_store(settings(url), role="test")
    said = await asyncio.gather(*[upgrade_postgresql(url) for _ in range(2)])
    assert sum(f"was upgraded from 0001_first to {revisions.head()}" in one for one in said) == 1
    async with engine.connect() as connection:
        check_open([tuple(row) for row in (await connection.exec_driver_sql(OPEN_GROUPS)).all()])
    await (await open_store(settings(url), role="test")).close()


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        ("CREATE TABLE compute_servers (x int)", "has tables named like ours but no alembic_version: Pileus has not made it"),
        (
            "CREATE TABLE alembic_version (version_num text); ALTER TABLE alembic_version OWNER TO pileus; "
            "INSERT INTO alembic_version VALUES ('9999_future')",
            r"was made by a newer Pileus .schema 9999_future, .*upgrade Pileus",
        ),
    ],
)
async def test_upgrade_leaves_alone_what_is_not_ours(postgres: PostgresServer, prepare: str, words: str) -> None:
    url = await postgres.fresh(empty=True)
    await postgres.execute(prepare, database=url.rpartition("/")[2])
    with pytest.raises(StartupError, match=words):
        await upgrade_postgresql(url)


async def test_upgrade_without_the_right_to(postgres: PostgresServer) -> None:
    url = (await postgres.fresh(empty=True)).replace("pileus@", "secretive:open%20sesame@")
    with pytest.raises(StartupError, match=r"permission denied for schema public; nothing of the upgrade was kept") as caught:
        await upgrade_postgresql(url)
    assert "sesame" not in str(caught.value)


def settings(url: str) -> Settings:
    return Settings(database=Database(url=url))
