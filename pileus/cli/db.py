"""`pileus db upgrade`: the database's schema becomes the one that this Pileus needs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pileus.tables  # noqa: F401 the schema that is made
from pileus.lockfile import claimed
from pileus.settings import Settings


def upgrade(settings: Settings) -> None:
    """Prints one line about what was done. Raises StartupError."""
    if settings.database.url:
        from pileus.store.upgrading import upgrade_postgresql

        print(asyncio.run(upgrade_postgresql(settings.database.url)))
        return
    from pileus.store.sqlite import upgrade_file

    state = Path(settings.state).absolute()
    with claimed(state):
        print(upgrade_file(state / "pileus.db"))
