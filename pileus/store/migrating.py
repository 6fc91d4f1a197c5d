"""Run the files of `migrations/versions` by Alembic."""

from __future__ import annotations

from pathlib import Path

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import RevisionStep
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

FOLDER = Path(__file__).parent / "migrations"


def scripts(config: Config | None = None) -> ScriptDirectory:
    """The files and their order."""
    config = config or Config()
    config.set_main_option("script_location", str(FOLDER))
    return ScriptDirectory.from_config(config)


def migrate(connection: Connection) -> None:
    """What a stamped database has not had yet, in the transaction that is open."""
    config = Config()
    script = scripts(config)

    def steps(found: str, _: object) -> list[RevisionStep]:
        return script._upgrade_revs("head", found)  # as Alembic's own `upgrade` command does it

    with EnvironmentContext(config, script, fn=steps) as environment:
        environment.configure(connection=connection)
        environment.run_migrations()
