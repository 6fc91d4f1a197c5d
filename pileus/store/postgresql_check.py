"""What must hold before PostgreSQL is used: one clear line for each thing that does not."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import AsyncIterator

import asyncpg

from pileus.errors import StartupError, Unavailable
from pileus.settings import Database
from pileus.store import revisions
from pileus.store.postgresql_link import CLOSE_LIMIT, Again, connect, place

OLDEST = 14
"""The oldest major version of PostgreSQL that we run on."""

HINTS = {
    "InvalidCatalogNameError": "make it (CREATE DATABASE) and run `pileus db upgrade`",
    "InvalidPasswordError": "correct user or password in database.url",
    "InvalidAuthorizationSpecificationError": "let this user in (pg_hba.conf), or correct database.url",
    "InsufficientPrivilegeError": "grant this user CONNECT on it",
}
NAME = re.compile(r"pileus \S+ (?P<family>\d+)\.\d+ pool=(?P<pool>\d+)$")

ROOM = """
SELECT current_setting('max_connections')::int AS most,
       current_setting('superuser_reserved_connections')::int + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved
"""
OTHERS = "SELECT DISTINCT application_name AS name, client_addr::text AS place FROM pg_stat_activity WHERE application_name LIKE 'pileus %'"
OURSELVES = "SELECT client_addr::text FROM pg_stat_activity WHERE pid = pg_backend_pid()"


def process_name(settings: Database, role: str, processes: int) -> str:
    """What this process's connections are called in pg_stat_activity: role, family (its parent's pid, when that runs several like it) and
    pid, and how many connections it may open.
    """
    pid = os.getpid()
    return f"pileus {role} {os.getppid() if processes > 1 else pid}.{pid} pool={settings.max_pool_size}"


@contextlib.asynccontextmanager
async def checked(settings: Database, role: str, processes: int) -> AsyncIterator[None]:
    """Inside, all is well. The connection that has looked stays until the end, so that of two processes that start at once each sees
    the other. Raises StartupError.
    """
    connection = await reached(settings.url, process_name(settings, role, processes))
    try:
        check_version(connection)
        await _check_schema(connection, settings.url)
        await _check_room(connection, settings, processes)
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, Again, Unavailable) as error:
        raise StartupError(f"database {place(settings.url)}: {error}") from None
    finally:
        with contextlib.suppress(Exception):
            await connection.close(timeout=CLOSE_LIMIT)


async def reached(url: str, name: str, *, statement_timeout: str = "30000") -> asyncpg.Connection:
    """A plain connection; raises StartupError that says what to change. `statement_timeout` in milliseconds."""
    try:
        return await connect(url, name, statement_timeout=statement_timeout)
    except Again as again:
        raise StartupError(f"{again}; start it, or correct database.url") from None
    except Unavailable as error:
        hint = HINTS.get(error.kind)
        raise StartupError(f"{error}{f'; {hint}' if hint else ''}") from None


def check_version(connection: asyncpg.Connection) -> None:
    """Raises StartupError."""
    version = connection.get_server_version()
    if version.major < OLDEST:
        raise StartupError(f"the database server is PostgreSQL {version.major}; Pileus needs {OLDEST} or newer: upgrade it")


async def _check_schema(connection: asyncpg.Connection, url: str) -> None:
    found = None
    if await connection.fetchval("SELECT to_regclass('alembic_version')::text") is not None:
        found = await connection.fetchval("SELECT version_num FROM alembic_version")
    if found == revisions.head():
        return
    where = place(url)
    if found is None:
        raise StartupError(f"database {where} has no schema yet: run `pileus db upgrade`")
    if found in revisions.known():
        raise StartupError(f"database {where} has the schema {found}, this Pileus needs {revisions.head()}: run `pileus db upgrade`")
    raise revisions.newer(f"database {where}", found)


async def _check_room(connection: asyncpg.Connection, settings: Database, processes: int) -> None:
    """The pools of all Pileus processes together fit into what the server gives to users who are not its masters.

    A process is known by its connections' name; it keeps one open from its start on.
    """
    room = await connection.fetchrow(ROOM)
    assert room is not None
    has = room["most"] - room["reserved"]
    here = await connection.fetchval(OURSELVES)
    family = os.getppid() if processes > 1 else os.getpid()
    others = []
    for row in await connection.fetch(OTHERS):
        match = NAME.match(row["name"])
        if match is not None and (row["place"], int(match["family"])) != (here, family):
            others.append(int(match["pool"]))
    ours, size = settings.max_pool_size * processes, settings.max_pool_size
    if ours + sum(others) > has:
        raise StartupError(
            f"Pileus could open {ours + sum(others)} database connections: {processes} × {size} here (database.max_pool_size) and "
            f"{sum(others)} in {len(others)} other processes, but the server has {has} (max_connections {room['most']}, "
            f"{room['reserved']} of them reserved): lower database.max_pool_size, run fewer processes or raise max_connections"
        )
