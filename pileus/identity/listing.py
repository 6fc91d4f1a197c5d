"""Lists of what has an id and a name: filtered, a page at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Table, select

from pileus.store import Tx, paging
from pileus.store.paging import Page
from pileus.store.sql import Row


def listed(tx: Tx, table: Table, page: Page, filters: Mapping[str, Any]) -> list[Row]:
    """One page of a table. `filters`: column → value; None means any. Raises BadRequest for a marker or sort key that cannot be."""
    statement = select(table).where(*[table.c[key] == value for key, value in filters.items() if value is not None])
    return paging.fetch(tx, statement, page, id_column=table.c.id, sortable={"name": table.c.name, "id": table.c.id})
