"""A PostgreSQL database's schema becomes today's."""

from __future__ import annotations

import asyncio

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from pileus.errors import StartupError
from pileus.store import revisions
from pileus.store.postgresql_check import check_version, reached
from pileus.store.postgresql_link import place
from pileus.store.postgresql_lock import LOCK_LIMIT, key


async def upgrade_postgresql(url: str) -> str:
    """Upgrade a PostgreSQL database in one transaction; what was done, in words. Of several at once one does it, the others wait.

    Whoever calls has imported every service's tables. Raises StartupError.
    """
    where = f"database {place(url)}"
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda **_: reached(url, "pileus db-upgrade", statement_timeout="0"), poolclass=NullPool
    )
    try:
        async with engine.begin() as connection:
            check_version((await connection.get_raw_connection()).driver_connection)
            async with asyncio.timeout(LOCK_LIMIT):
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key("schema")})
            return f"{where} {await connection.run_sync(revisions.bring_up, where)}"
    except TimeoutError:
        raise StartupError(f"{where}: another `pileus db upgrade` has been busy with it for {LOCK_LIMIT:.0f} s; try again") from None
    except DBAPIError as error:
        raise StartupError(f"{where}: {error.orig.__cause__ if error.orig else error}; nothing of the upgrade was kept") from None
    finally:
        await engine.dispose()
