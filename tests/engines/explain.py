"""Statements recorded while something is done, and the plans that PostgreSQL has for them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, Table, event, text

from pileus.store import Tx

Seen = dict[str, Any]
"""Statement → the values that it was first executed with."""

WHOLE = re.compile(r"(?:Seq Scan|Index Scan|Index Only Scan)[^\n]* on (\w+)(?: \w+)?  \(cost")
"""A scan in a plan, with the table that it is of."""

NEWS = "_news on "
"""In a plan, an index that holds only the rows that somebody looks for: it is read whole, and is small."""


@contextmanager
def recorded() -> Iterator[Seen]:
    """What any store of this process executes meanwhile; inserts have no plan worth a look."""
    seen: Seen = {}

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, _context: Any, many: bool) -> None:
        if not statement.lstrip().upper().startswith("INSERT"):
            seen.setdefault(statement, values[0] if many else values)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def copies(tx: Tx, table: Table, count: int, **changed: str) -> None:
    """So many copies of a row that is there. `changed`: SQL of what is other in the i-th."""
    values = ", ".join(changed.get(column.name, f"one.{column.name}") for column in table.columns)
    names = ", ".join(column.name for column in table.columns)
    one = f"(select * from {table.name} limit 1) one"
    tx.execute(text(f"insert into {table.name} ({names}) select {values} from generate_series(1, {count}) i, {one}"))


def read_whole(tx: Tx, seen: Mapping[str, Any], big: Collection[str]) -> list[str]:
    """The statements that read a big table from one end to the other, each with its plan.

    Planned twice: with its values and the planner as it comes, which shows what statistics make of it; and as the store's connections
    plan it, once for all values and with an index wherever there is one, where a scan without a condition is one of the whole table.
    """
    found = []
    tx.exec_driver_sql("SET LOCAL enable_seqscan = on")
    tx.exec_driver_sql("SET LOCAL random_page_cost = 1.1")  # a database that is in memory, or on a disk without arms
    for statement, values in seen.items():
        plan = _plan(tx, "EXPLAIN " + statement, values)
        found += [f"with statistics\n{statement}\n{plan}" for table in big if re.search(rf"Seq Scan on {table}\b", plan)]
    tx.exec_driver_sql("SET LOCAL enable_seqscan = off")
    for number, statement in enumerate(seen):
        tx.exec_driver_sql(f"PREPARE explained_{number} AS {statement}")
        wanted = max([0, *(int(n) for n in re.findall(r"\$(\d+)", statement))])
        plan = _plan(tx, f"EXPLAIN EXECUTE explained_{number}" + (f"({', '.join(['NULL'] * wanted)})" if wanted else ""))
        named = [table for table in big if re.search(rf"\b{table}\b", statement)]
        if named and (set(named) & set(_scanned(plan)) or _blind(plan)):
            found.append(f"as it is executed\n{statement}\n{plan}")
    return found


def _plan(tx: Tx, statement: str, values: Any = ()) -> str:
    return "\n".join(row[0] for row in tx.exec_driver_sql(statement, values))


def _blind(plan: str) -> bool:
    """Does it hold a scan that was to be avoided? One is priced so that the rest of the plan, whatever it is, seems to cost nothing."""
    return "cost=1000000000" in plan


def _scanned(plan: str) -> list[str]:
    """Tables that a plan reads whole: one after the other, or by an index that is not asked for anything."""
    lines, found = plan.splitlines(), []
    for number, line in enumerate(lines):
        scan = WHOLE.search(line)
        if scan is None or NEWS in line:
            continue
        below = lines[number + 1].strip() if number + 1 < len(lines) else ""
        if "Seq Scan" in line or not below.startswith("Index Cond"):
            found.append(scan.group(1))
    return found
