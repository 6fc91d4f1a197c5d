"""Calls dealt with together: alone at once, in a storm as one, and nobody pays for another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from pileus.errors import Unavailable
from pileus.together import Shared, Together


class Clerk:
    """Doubles numbers; knows in which batches they came. `gate` holds it up."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def work(self, items: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(items))
        await self.gate.wait()
        if 13 in items:
            raise RuntimeError("no batch with a 13")
        return [ValueError(f"{item} is odd") if item % 2 else item * 2 for item in items]


async def test_what_comes_meanwhile_is_one_batch_of_its_key() -> None:
    clerk = Clerk()
    together = Together(clerk.work, most=3, name="clerk")
    assert await together.call("a", 2) == 4
    clerk.gate.clear()
    calls = [asyncio.create_task(together.call("a", item)) for item in (4, 6, 8, 10, 12)]
    other = asyncio.create_task(together.call("b", 20))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    clerk.gate.set()
    assert await asyncio.gather(*calls) == [8, 12, 16, 20, 24]
    assert await other == 40
    assert clerk.batches[0] == [2]
    assert sorted(clerk.batches[1:]) == [[4, 6, 8], [10, 12], [20]]


async def test_an_error_is_its_own_callers() -> None:
    clerk = Clerk()
    together = Together(clerk.work, most=10, name="clerk")
    found = await asyncio.gather(*[together.call("a", item) for item in (2, 3, 13, 4)], return_exceptions=True)
    assert [found[0], found[3]] == [4, 8]
    assert isinstance(found[1], ValueError)
    assert isinstance(found[2], RuntimeError)


async def test_what_may_have_been_done_is_not_done_again() -> None:
    batches: list[list[int]] = []

    async def work(items: Sequence[int]) -> list[int | Exception]:
        batches.append(list(items))
        raise Unavailable("the database was lost while a change was being committed")

    together = Together(work, most=10, name="clerk")
    found = await asyncio.gather(*[together.call("a", item) for item in (2, 4, 6)], return_exceptions=True)
    assert all(isinstance(each, Unavailable) for each in found)
    assert batches == [[2, 4, 6]]


async def test_a_caller_that_goes_away_takes_nobody_along() -> None:
    clerk = Clerk()
    together = Together(clerk.work, most=10, name="clerk")
    clerk.gate.clear()
    gone, stays = asyncio.create_task(together.call("a", 2)), asyncio.create_task(together.call("a", 4))
    await asyncio.sleep(0)
    gone.cancel()
    clerk.gate.set()
    assert await stays == 8
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert await together.call("a", 6) == 12


async def test_the_same_question_is_answered_once_for_all_who_ask_meanwhile() -> None:
    shared, asked, gate = Shared("questions"), [0], asyncio.Event()

    async def question() -> int:
        asked[0] += 1
        number = asked[0]
        await gate.wait()
        if number == 3:
            raise LookupError("no third time")
        return number

    first = asyncio.create_task(shared.ask("k", question))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    later = [asyncio.create_task(shared.ask("k", question)) for _ in range(3)]
    other = asyncio.create_task(shared.ask("other", question))
    await asyncio.sleep(0)
    gate.set()
    found = await asyncio.gather(first, *later, other, return_exceptions=True)
    assert found[0] == 1
    assert len(set(map(str, found[1:4]))) == 1
    assert asked == [3]
    assert sum(isinstance(each, LookupError) for each in found) in (1, 3)
