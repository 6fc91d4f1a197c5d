"""Which store the settings name."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pileus.settings import Settings
from pileus.store import Store


async def open_store(settings: Settings, *, role: str, processes: int = 1) -> Store:
    """PostgreSQL where `database.url` names one, else `<state>/pileus.db`, made or upgraded where needed. Raises StartupError.

    `role` and `processes`: see `PostgresStore.open`. Whoever calls has imported every service's tables.
    """
    if settings.database.url:
        from pileus.store.postgresql import PostgresStore

        return await PostgresStore.open(settings.database, role=role, processes=processes)
    from pileus.store.sqlite import SqliteStore

    return await asyncio.to_thread(lambda: SqliteStore.open(Path(settings.state).absolute() / "pileus.db"))
