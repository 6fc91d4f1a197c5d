"""The store seam: transactions as plain functions.

A transaction is a function that takes a SQLAlchemy Core connection first: `await store.write(create_port, values)`. It cannot
await, so no connection can be held across a call to anything outside (law 2), and it runs unchanged on every engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection

P = ParamSpec("P")
T = TypeVar("T")

Tx = Connection
"""What a transaction function gets: execute statements on it, never commit."""


class Store(Protocol):
    async def read(self, fn: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` on a consistent snapshot. It must not write. Raises Unavailable when the database does not answer in time."""
        ...

    async def write(self, fn: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` in a transaction; when this returns it is durable, when it raises nothing of it is.

        Cancelling the caller does not cut a transaction in half: it is committed whole or not at all.
        """
        ...

    async def close(self) -> None: ...
