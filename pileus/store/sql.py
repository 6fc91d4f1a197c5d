"""The few statements that engines spell differently, and rows as dicts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import Executable, Table
from sqlalchemy.dialects import postgresql, sqlite

from pileus.store import Tx, one_statement

Row = dict[str, Any]


def dialect(tx: Tx) -> str:
    """The engine's kind: `sqlite`, which has one writer at a time, or `postgresql`."""
    return str(tx.dialect.name)


def _insert(tx: Tx, table: Table) -> Any:
    return sqlite.insert(table) if tx.dialect.name == "sqlite" else postgresql.insert(table)


@cache
def _insert_new(dialect: str, table: Table) -> Executable:
    insert = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    return insert.on_conflict_do_nothing().execution_options(preserve_rowcount=True)


def insert_new(tx: Tx, table: Table, values: Mapping[str, Any]) -> bool:
    """Insert unless a unique key stands in the way; whether it was inserted. (An error would spoil the transaction on PostgreSQL.)

    Values are plain ones, no SQL expressions: the statement is built once.
    """
    return tx.execute(_insert_new(tx.dialect.name, table), dict(values)).rowcount == 1


def upsert(tx: Tx, table: Table, keys: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Insert keys + values, or set the values where the keys (a unique index) are there already."""
    statement = _insert(tx, table).values(**keys, **values)
    tx.execute(statement.on_conflict_do_update(index_elements=list(keys), set_=dict(values)))


@one_statement
def rows(tx: Tx, statement: Executable, /, **values: Any) -> list[Row]:
    """All rows. `values` for the statement's bind parameters: a hot statement is built once (that is half of its cost)."""
    result = tx.execute(statement, values)
    names = list(result.keys())
    return [dict(zip(names, row, strict=True)) for row in result]


@one_statement
def first(tx: Tx, statement: Executable, /, **values: Any) -> Row | None:
    result = tx.execute(statement, values)
    row = result.first()
    return None if row is None else dict(zip(result.keys(), row, strict=True))
