"""Begins deletes on behalf of one worker: a batch at a time, and no faster than creates can bear (law 3: neither delayed by them,
nor are they starved)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from pileus.compute.lanes import Lane

log = structlog.get_logger(__name__)

AFTER_ERROR = 0.5
BEHIND = 5
"""So many turns that came late are made good; more of them at once would be what beside creates is not wanted."""
BATCH = 64


class Deleter:
    """`begin` gives deletes that are due their turn, at most so many, and says how many; those of them that are computed have places in
    the lane.

    While `creating`, so many turns are given a second (`rate`; 0: as many as there are places for), each after a `gap`.
    """

    def __init__(
        self,
        begin: Callable[[int], Awaitable[int]],
        lane: Lane,
        creating: Callable[[], bool],
        gap: Callable[[], Awaitable[None]],
        rate: float,
    ) -> None:
        self._begin = begin
        self._lane = lane
        self._creating = creating
        self._gap = gap
        self._rate = rate
        self._wanted = asyncio.Event()
        self._more = False
        """There were perhaps more than places."""

    def wake(self) -> None:
        """Deletes are due, perhaps."""
        self._wanted.set()

    def ended_computing(self) -> None:
        """There is a place in the lane again."""
        if self._more:
            self._wanted.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        next_at = 0.0
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            paced = bool(self._rate) and self._creating()
            # Beside creates one at a time: a batch would stand before the next create in every queue.
            most = min(self._lane.free, 1 if paced else BATCH)
            if most <= 0:
                self._more = True
                continue
            if paced:
                await self._gap()
            try:
                begun = await self._begin(most)
            except Exception:
                log.exception("deletes could not be begun; it goes on")
                await asyncio.sleep(AFTER_ERROR)
                self._wanted.set()
                continue
            self._more = begun == most
            if self._more and self._lane.free:
                self._wanted.set()
            if begun and paced:
                next_at = max(next_at + 1 / self._rate, loop.time() - BEHIND / self._rate)
                await asyncio.sleep(next_at - loop.time())
