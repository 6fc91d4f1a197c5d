"""The lab's private PostgreSQL (pileus/lab/postgresql.py), with databases and users that tests need.

    with PostgresServer() as server:
        url = await server.fresh()                   # a new database with the whole schema: postgresql://pileus@127.0.0.1:PORT/NAME

`server.fresh(empty=True)` has no schema. Everybody gets in without a password but the user `secretive` (password `open sesame`).
In pytest: the fixtures `postgres` (the session's server) and `postgres_url` (a fresh database) of tests/conftest.py.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping
from itertools import count

import asyncpg

from pileus.lab import postgresql
from pileus.lab.postgresql import programs

__all__ = ["PostgresServer", "programs"]

KEPT = 20
"""Databases of `fresh` that are there at once, 10 MB each; then the oldest goes, unless it is in use."""


class PostgresServer(postgresql.PostgresServer):
    """See the module. `fsync`: whether a commit is on the disk; `settings`: more of postgresql.conf."""

    hba = "host all secretive 127.0.0.1/32 scram-sha-256\n" + postgresql.HBA
    roles = postgresql.ROLES + "CREATE ROLE secretive LOGIN PASSWORD 'open sesame';"

    def __init__(self, *, fsync: bool = False, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(fsync=fsync, settings=settings)
        self._names = count(1)
        self._made: deque[str] = deque()
        self._has_template = False
        # Version 15 logs a new database's pages by itself, which costs twice as much as to copy its files; 14 knows no other way than that.
        self._strategy = " STRATEGY file_copy" if int(self._programs.parent.name) >= 15 else ""

    async def fresh(self, *, empty: bool = False) -> str:
        """The URL of a new database, with the whole schema unless `empty`; its owner is `pileus`."""
        if not empty and not self._has_template:
            await self._make_template()
        name = f"pileus_{next(self._names)}"
        template = "template1" if empty else "pileus_template"
        await self.execute(f"CREATE DATABASE {name} OWNER pileus TEMPLATE {template}{self._strategy}")
        self._made.append(name)
        if len(self._made) > KEPT:
            with contextlib.suppress(asyncpg.ObjectInUseError):
                await self.execute(f"DROP DATABASE {self._made.popleft()}")
        return self.url(name)

    async def _make_template(self) -> None:
        from sqlalchemy.ext.asyncio import create_async_engine
        from sqlalchemy.pool import NullPool

        import pileus.tables  # noqa: F401
        from pileus.store import revisions

        await self.execute("CREATE DATABASE pileus_template OWNER pileus")
        engine = create_async_engine(self.url("pileus_template").replace("postgresql:", "postgresql+asyncpg:"), poolclass=NullPool)
        async with engine.begin() as connection:
            await connection.run_sync(revisions.create)
        await engine.dispose()
        self._has_template = True
