"""What belongs to a server that is gone goes back: looked for now and then, a page at a time, by one worker for all.

In the ordinary way nothing is left; a worker that was killed between a step and its row, or came back after a minute of sleep, may
leave something.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog
from sqlalchemy import bindparam, select, update

from pileus.compute.service import Compute
from pileus.compute.tables import chores, servers
from pileus.store import Tx
from pileus.store.sql import first, insert_new

log = structlog.get_logger(__name__)

NAME = "leaks"
INTERVAL = 180.0
"""Seconds between two rounds through everything that is held."""
PAGE = 250
LOOK = 15.0
"""Seconds between a worker's looks whether a round is due."""

_MINE = update(chores).where(chores.c.name == NAME, chores.c.due_at <= bindparam("now")).values(due_at=bindparam("next"))
_DUE = select(chores.c.due_at).where(chores.c.name == NAME)
_GONE = select(servers.c.id).where(servers.c.id.in_(bindparam("ids", expanding=True)), servers.c.deleted_at.is_not(None))
"""Whatever is no server's may be held by others (placement has an API): only of those that were ours we know."""


class Held(Protocol):
    async def __call__(self, *, after: str, most: int) -> set[str]: ...


class Leaks:
    def __init__(self, compute: Compute) -> None:
        self._compute = compute

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK * random.uniform(0.5, 1.5))  # noqa: S311 - so that workers do not look together
            try:
                if await self._compute.store.read(_is_due) and await self._compute.store.write(_is_mine):
                    await self.round()
            except Exception:
                log.exception("looking for leaks failed; it goes on")

    async def round(self) -> int:
        """Give back what gone servers hold; how many did."""
        compute = self._compute
        claims = await self._given_back(compute.placement.consumers, compute.placement.release)
        ports = await self._given_back(compute.network.devices, lambda server_id: compute.network.release(server_id, keep=[]))
        if claims or ports:
            log.warning("what gone servers held was given back", claims=claims, ports=ports)
        return claims + ports

    async def _given_back(self, held: Held, release: Callable[[str], Awaitable[None]]) -> int:
        """Page by page, so that neither memory nor a statement grows with the cloud."""
        count, after = 0, ""
        while page := await held(after=after, most=PAGE):
            after = max(page)
            for server_id in await self._compute.store.read(_gone, sorted(page)):
                await release(server_id)
                count += 1
        return count


def _gone(tx: Tx, ids: list[str]) -> list[str]:
    return sorted(tx.execute(_GONE, {"ids": ids}).scalars())


def _is_due(tx: Tx) -> bool:
    row = first(tx, _DUE)
    return row is None or row["due_at"] <= time.time()


def _is_mine(tx: Tx) -> bool:
    """Of several workers one does it."""
    now = time.time()
    if insert_new(tx, chores, {"name": NAME, "due_at": now + INTERVAL}):
        return True
    return tx.execute(_MINE, {"now": now, "next": now + INTERVAL}).rowcount == 1
