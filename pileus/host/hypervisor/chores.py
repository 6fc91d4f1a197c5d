"""Tasks with an owner: work that goes on by itself, and work that must not be left half done."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Chores:
    """The tasks of one owner, who waits for them all at its end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def settle(self, work: Coroutine[Any, Any, None] | asyncio.Future[None]) -> None:
        """Wait for work to its end, even when cancelled; the cancellation is raised after it."""
        task = work if isinstance(work, asyncio.Future) else self.start(work)
        cancelled = False
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            task.exception()
            raise asyncio.CancelledError
        task.result()

    async def close(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
