"""A named lock across processes: PostgreSQL's advisory lock, on a connection of its own that is not of the pool."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from hashlib import blake2b

import asyncpg

from pileus.errors import Unavailable
from pileus.store.postgresql_link import CLOSE_LIMIT, Again, connect

LOCK_LIMIT = 120.0
"""Seconds to wait for whoever has it."""


@contextlib.asynccontextmanager
async def locked(url: str, name: str, limit: float = LOCK_LIMIT) -> AsyncIterator[None]:
    """Nobody else is inside of the lock of this name, in any process of this database. The lock goes with its connection, so a killed
    process leaves none. Raises Unavailable when it is not had within `limit` seconds.
    """
    try:
        connection = await connect(url, f"pileus lock {name}"[:63])
    except Again as again:
        raise Unavailable(str(again)) from None
    try:
        try:
            async with asyncio.timeout(limit):
                await connection.execute(f"SELECT pg_advisory_lock({key(name)})")
        except TimeoutError:
            connection.terminate()
            raise Unavailable(f"another Pileus process has been busy with {name!r} for {limit:.0f} s; try again") from None
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise Unavailable(f"the connection to the database was lost: {error}") from None
        yield
    finally:
        with contextlib.suppress(Exception):
            await connection.close(timeout=CLOSE_LIMIT)


def key(name: str) -> int:
    """A lock's number: PostgreSQL knows them by 64 signed bits."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8, person=b"pileus").digest(), signed=True)
