"""Things that come one by one and are dealt with together: the first at once, those that come while it is dealt with as one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import structlog

from pileus.errors import Unavailable

log = structlog.get_logger(__name__)
T = TypeVar("T")


class Gather(Generic[T]):
    """`work` gets batches of at most `most`, `interval` seconds apart at least. Of one key the newest counts.

    A batch whose work fails is halved until it is known what fails, so that nobody's nonsense is another's loss. That is logged and lost,
    as is all of a batch where something did not answer (Unavailable): what comes by here is said again.
    """

    def __init__(self, work: Callable[[list[T]], Awaitable[None]], *, interval: float, most: int, name: str) -> None:
        self._work = work
        self._interval = interval
        self._most = most
        self._name = name
        self._waiting: dict[Hashable, T] = {}
        self._some = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def close(self) -> None:
        """What waits is not dealt with any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def put(self, key: Hashable, item: T) -> None:
        self._waiting[key] = item
        self._some.set()

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            items, self._waiting = list(self._waiting.values()), {}
            for batch in [items[start : start + self._most] for start in range(0, len(items), self._most)]:
                await self._deal(batch)
            await asyncio.sleep(self._interval)

    async def _deal(self, batch: list[T]) -> None:
        try:
            await self._work(batch)
        except Exception as error:
            if len(batch) == 1 or isinstance(error, Unavailable):
                log.exception("a batch failed; it is said again", what=self._name, size=len(batch))
                return
            half = len(batch) // 2
            await self._deal(batch[:half])
            await self._deal(batch[half:])
