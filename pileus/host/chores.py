"""Tasks with an owner: work that goes on by itself, and work that must not be left half done."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger(__name__)
T = TypeVar("T")


class Chores:
    """The tasks of one owner, who waits for them all at its end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str = "") -> asyncio.Task[None]:
        """Work that nobody waits for; should it fail, the log says so."""
        task = self.own(work, name)
        task.add_done_callback(_tell)
        return task

    def own(self, work: Coroutine[Any, Any, T], name: str = "") -> asyncio.Task[T]:
        """Work that its starter waits for, and hears the failure of."""
        task = asyncio.create_task(work, name=name or None)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for work. When cancelled, it goes on to its end all the same, and the caller does not wait for that."""
        return await asyncio.shield(self.own(work))

    async def settle(self, work: Coroutine[Any, Any, None] | asyncio.Future[None]) -> None:
        """Wait for work to its end, even when cancelled; the cancellation is raised after it."""
        task = work if isinstance(work, asyncio.Future) else self.own(work)
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

    async def close(self, patience: float | None = None) -> None:
        """Wait for all of it, at most so many seconds (None: without limit); what is not done then is cancelled."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=patience)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def repeat(interval: float, work: Callable[[], Awaitable[None]], *pauses: float) -> None:
    """Do something again and again, `interval` seconds apart; the first times after these `pauses`. A failure is logged, it goes on."""
    for pause in itertools.chain(pauses, itertools.repeat(interval)):
        await asyncio.sleep(pause)
        try:
            await work()
        except Exception:
            log.exception("periodic work failed; it goes on", work=getattr(work, "__qualname__", ""))


def _tell(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("task failed", task=task.get_name(), exc_info=task.exception())
