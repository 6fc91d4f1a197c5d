"""The store seam: transactions as plain functions.

A transaction is a function that takes a SQLAlchemy Core connection first: `await store.write(create_port, values)`. It cannot
await, so no connection can be held across a call to anything outside (law 2), and it runs unchanged on every engine.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

Tx = Connection
"""What a transaction function gets: execute statements on it, never commit."""


def one_statement(fn: F) -> F:
    """Marks a transaction function that executes exactly one statement, and one that only reads.

    Such a statement is a consistent snapshot by itself: PostgreSQL needs no BEGIN and COMMIT around it, two round trips of three.
    """
    fn.one_statement = True  # type: ignore[attr-defined]
    return fn


def is_one_statement(fn: Callable[..., Any]) -> bool:
    return getattr(fn, "one_statement", False)


class Store(Protocol):
    async def read(self, fn: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` on a consistent snapshot. It must not write. Raises Unavailable when the database does not answer in time.

        PostgreSQL runs it again when the connection is lost: it must have no effect but its result.
        """
        ...

    async def write(self, fn: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` in a transaction; when this returns it is durable, when it raises nothing of it is.

        PostgreSQL runs it again after a deadlock or when the connection was lost before the commit: it must have no effect but on
        the database and its result. Raises Unavailable when the database does not answer in time, and when it was lost in the very
        commit: only then it may be durable all the same.
        Cancelling the caller does not cut a transaction in half: it is committed whole or not at all.
        """
        ...

    def exclusive(self, name: str) -> AbstractAsyncContextManager[None]:
        """For what is done once in a cloud: nobody else who uses this database is inside at the same time, in whatever process.

        It holds no transaction. Raises Unavailable when another one stays inside for too long.
        """
        ...

    async def close(self) -> None: ...
