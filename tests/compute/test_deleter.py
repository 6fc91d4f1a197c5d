"""Deletes beside creates: a batch at a time, at the rate of `compute.deletes_beside_creates`, and at full speed without creates."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from pileus.compute.deleter import Deleter
from pileus.compute.lanes import Lane
from tests.boot.virtual import VirtualLoop


class Work:
    """So many deletes are due; each computes for a tenth of a second."""

    def __init__(self, due: int, *, creating: Callable[[], bool], rate: float) -> None:
        self.due = due
        self.began: list[float] = []
        self.most = 0
        self.lane = Lane(8)
        self.gaps = 0
        self.deleter = Deleter(self.begin, self.lane, creating, self.gap, rate)
        self._tasks: set[asyncio.Task[None]] = set()

    async def gap(self) -> None:
        self.gaps += 1

    async def begin(self, most: int) -> int:
        found = min(most, self.due)
        self.due -= found
        for _ in range(found):
            assert self.lane.reserve()
            self.began.append(asyncio.get_running_loop().time())
            task = asyncio.create_task(self._compute())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self.most = max(self.most, 8 - self.lane.free)
        return found

    async def _compute(self) -> None:
        await asyncio.sleep(0.1)
        self.lane.release()
        self.deleter.ended_computing()

    async def all_of_it(self) -> float:
        """Seconds until all have begun."""
        started = asyncio.get_running_loop().time()
        running = asyncio.create_task(self.deleter.run())
        self.deleter.wake()
        while self.due or self._tasks:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return self.began[-1] - started


@pytest.mark.parametrize(
    ("creating", "rate", "seconds"),
    [(True, 20.0, 5.0), (False, 20.0, 1.25), (True, 0.0, 1.25)],
    ids=["beside creates", "alone", "no limit"],
)
def test_how_fast_deletes_go(creating: bool, rate: float, seconds: float) -> None:
    async def story() -> None:
        work = Work(100, creating=lambda: creating, rate=rate)
        assert await work.all_of_it() == pytest.approx(seconds, abs=0.5)
        assert len(work.began) == 100
        assert work.most <= 8
        assert (work.gaps >= 100) == (creating and rate > 0)  # one at a time, each after a gap

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(story())
