"""The schema's revisions: which there are, which one a database has, and a new database's schema.

How a revision is added: `pileus.store.migrations`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, String, Table, insert, inspect, select

from pileus.errors import StartupError
from pileus.store.schema import metadata

VERSIONS = Path(__file__).parent / "migrations" / "versions"
FIRST = "0001_first"

_stamps = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))
"""As Alembic makes it."""


@cache
def known() -> tuple[str, ...]:
    """All revisions, the oldest first: they are the names of their files."""
    return tuple(sorted(path.stem for path in VERSIONS.glob("[0-9]*.py")))


def head() -> str:
    return known()[-1]


def newer(where: str, found: str) -> StartupError:
    return StartupError(f"{where} was made by a newer Pileus (schema {found}, this one knows {head()}): upgrade Pileus")


def found(connection: Connection) -> str | None:
    """The revision of a database; "": it has tables of ours but no stamp; None: nothing of ours."""
    tables = set(inspect(connection).get_table_names())
    if _stamps.name in tables:
        revision: str | None = connection.execute(select(_stamps.c.version_num)).scalar()
        if revision is not None:
            return revision
    return "" if tables & set(metadata.tables) else None


def create(connection: Connection) -> None:
    """The whole schema of today in an empty database, stamped as such."""
    metadata.create_all(connection, checkfirst=False)
    stamp(connection, head())


def stamp(connection: Connection, revision: str) -> None:
    _stamps.create(connection, checkfirst=True)
    connection.execute(insert(_stamps).values(version_num=revision))


def bring_up(connection: Connection, where: str) -> str:
    """Make or upgrade the schema within the transaction that is open; what was done, in words. Raises StartupError.

    Whoever calls has imported every service's tables.
    """
    has, wanted = found(connection), head()
    if has == wanted:
        return f"has the schema {wanted} already"
    if has is None:
        create(connection)
        return f"has its schema now: {wanted}"
    if has == "":
        raise StartupError(f"{where} has tables named like ours but no alembic_version: Pileus has not made it; name an empty database")
    if has not in known():
        raise newer(where, has)
    from pileus.store.migrating import migrate  # with Alembic, which takes half a second to import

    migrate(connection)
    return f"was upgraded from {has} to {wanted}"
