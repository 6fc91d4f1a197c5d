"""Lists a page at a time: limit, marker, sort keys. By key, not by offset, so a page costs the same wherever it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, and_, or_

from pileus.errors import BadRequest
from pileus.store import Tx
from pileus.store.sql import Row, first, rows

Direction = Literal["asc", "desc"]


@dataclass(frozen=True)
class Page:
    """`limit` None: no limit. `sorts` in order of weight."""

    limit: int | None = None
    marker: str | None = None
    sorts: tuple[tuple[str, Direction], ...] = ()
    reverse: bool = False
    """The page before the marker (Neutron's page_reverse)."""


def fetch(
    tx: Tx,
    statement: Select[Any],
    page: Page,
    *,
    id_column: ColumnElement[Any],
    sortable: Mapping[str, ColumnElement[Any]],
) -> list[Row]:
    """The rows of one page. `statement` holds the filters; its selected columns must not be changed by the sort.

    Raises BadRequest for an unknown sort key or a marker that is not in the filtered list. Columns that can be NULL must be
    given coalesced.
    """
    order = _order(page.sorts, id_column, sortable)
    if page.reverse:
        order = [(column, "desc" if way == "asc" else "asc") for column, way in order]
    if page.marker is not None:
        at = first(
            tx,
            statement.with_only_columns(*[c.label(f"k{i}") for i, (c, _) in enumerate(order)]).where(id_column == page.marker),
        )
        if at is None:
            raise BadRequest(f"marker {page.marker!r} is not in this list; give the id of an item of it", kind="MarkerNotFound")
        statement = statement.where(_after(order, [at[f"k{i}"] for i in range(len(order))]))
    statement = statement.order_by(*[c.asc() if way == "asc" else c.desc() for c, way in order])
    found = rows(tx, statement if page.limit is None else statement.limit(page.limit))
    return found[::-1] if page.reverse else found


def _order(
    sorts: Sequence[tuple[str, Direction]], id_column: ColumnElement[Any], sortable: Mapping[str, ColumnElement[Any]]
) -> list[tuple[ColumnElement[Any], Direction]]:
    order: list[tuple[ColumnElement[Any], Direction]] = []
    for key, way in sorts:
        if key not in sortable:
            raise BadRequest(f"sort key {key!r} is not one of: {', '.join(sorted(sortable))}")
        order.append((sortable[key], way))
    return [*order, (id_column, order[-1][1] if order else "asc")]


def _after(order: Sequence[tuple[ColumnElement[Any], Direction]], at: Sequence[Any]) -> ColumnElement[bool]:
    """Lexicographically behind the marker row."""
    choices = []
    for i, (column, way) in enumerate(order):
        equal = [c == v for (c, _), v in zip(order[:i], at[:i], strict=True)]
        choices.append(and_(*equal, column > at[i] if way == "asc" else column < at[i]))
    return or_(*choices)
