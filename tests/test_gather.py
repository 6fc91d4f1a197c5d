"""News dealt with in batches: one sender's nonsense is nobody else's loss."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pileus.errors import Unavailable
from pileus.gather import Gather


async def dealt(work: Callable[[list[int]], None], *items: int) -> list[list[int]]:
    """The batches in which `work` got the items, until the last one was seen."""
    batches: list[list[int]] = []
    over = asyncio.Event()

    async def deal(batch: list[int]) -> None:
        batches.append(batch)
        if -1 in batch:
            over.set()
        work(batch)

    gather: Gather[int] = Gather(deal, interval=0.0, most=100, name="news")
    for item in items:
        gather.put(item, item)
    gather.start()
    async with asyncio.timeout(5):
        await asyncio.sleep(0)
        gather.put(-1, -1)  # another batch: the one before it is over then
        await over.wait()
    await gather.close()
    return batches[:-1]


async def test_a_batch_without_what_is_wrong_with_it_is_dealt_with() -> None:
    written: set[int] = set()

    def work(batch: list[int]) -> None:
        if 13 in batch:
            raise ValueError("no batch with a 13")
        written.update(batch)

    batches = await dealt(work, *range(100))
    assert written >= set(range(100)) - {13}
    assert [13] in batches
    assert len(batches) < 20  # found by halves


async def test_what_did_not_answer_is_not_asked_for_each() -> None:
    def work(batch: list[int]) -> None:
        raise Unavailable("the database does not answer")

    assert await dealt(work, 1, 2, 3) == [[1, 2, 3]]


async def test_of_one_key_the_newest_counts() -> None:
    assert await dealt(lambda batch: None, 1, 1, 2) == [[1, 2]]
