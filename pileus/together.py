"""Calls that come while others are being dealt with are dealt with together: one transaction for all of them.

In a storm the callers of one project all need the same row (its quota). One after the other each would wait for the commit of all
before it; together they wait for one. A call that comes alone waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

from pileus.errors import Unavailable

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")


class Together(Generic[I, R]):
    """`work` gets the items of one key, at most `most`, and gives for each what it came to: a result, or an error to raise.

    A batch that fails as a whole is tried again item by item, so that nobody pays for another's mistake; not where something did not
    answer (Unavailable): it may have been done all the same, and one after the other they would wait for ever.
    """

    def __init__(self, work: Callable[[Sequence[I]], Awaitable[Sequence[R | Exception]]], *, most: int, name: str) -> None:
        self._work = work
        self._most = most
        self._name = name
        self._waiting: dict[Hashable, list[tuple[I, asyncio.Future[R]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def call(self, key: Hashable, item: I) -> R:
        """What the work makes of the item. Cancelling the caller does not undo it."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        queue = self._waiting.get(key)
        if queue is None:
            queue = self._waiting[key] = []
            task = asyncio.create_task(self._run(key), name=self._name)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        queue.append((item, future))
        return await future

    async def _run(self, key: Hashable) -> None:
        queue = self._waiting[key]
        while queue:
            batch, queue[: self._most] = queue[: self._most], []
            await self._deal(batch)
        del self._waiting[key]

    async def _deal(self, batch: Sequence[tuple[I, asyncio.Future[R]]]) -> None:
        try:
            outcomes = await self._work([item for item, _ in batch])
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, Unavailable):
                for one in batch:
                    await self._deal([one])
                return
            outcomes = [error] * len(batch)
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)


class Shared:
    """Questions whose answer is the same for all who ask it: those that come while it is being answered share the next answer.

    Nobody gets an answer that was begun before he asked, and the answers are not to be changed.
    """

    def __init__(self, name: str) -> None:
        self._together: Together[Callable[[], Awaitable[Any]], Any] = Together(_answer_once, most=1000, name=name)

    async def ask(self, key: Hashable, question: Callable[[], Awaitable[R]]) -> R:
        """The answer, or what the question raises. `key`: all that the answer depends on."""
        answer: R = await self._together.call(key, question)
        return answer


async def _answer_once(questions: Sequence[Callable[[], Awaitable[Any]]]) -> list[Any]:
    try:
        answer = await questions[0]()
    except Exception as error:
        answer = error
    return [answer] * len(questions)
