from __future__ import annotations

import asyncio

import pytest
import structlog

from pileus.host.chores import Chores


class Work:
    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.done = False

    async def run(self) -> None:
        await self.go.wait()
        self.done = True


async def broken() -> None:
    raise ValueError("broken")


async def test_what_fails_unheard_is_logged() -> None:
    chores = Chores()
    with structlog.testing.capture_logs() as told:
        chores.start(broken(), "a chore")
        await chores.close()
    assert [(entry["event"], entry["task"]) for entry in told] == [("task failed", "a chore")]


async def test_who_waits_hears_the_failure_and_nobody_else() -> None:
    chores = Chores()
    with structlog.testing.capture_logs() as told:
        with pytest.raises(ValueError, match="broken"):
            await chores.finish(broken())
        with pytest.raises(ValueError, match="broken"):
            await chores.settle(broken())
    assert told == []


async def test_finish_goes_on_without_its_caller_and_settle_keeps_it() -> None:
    chores = Chores()
    for wait, kept in ((chores.finish, False), (chores.settle, True)):
        work = Work()
        caller = asyncio.create_task(wait(work.run()))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait([caller], timeout=0.02)
        assert caller.done() is not kept
        work.go.set()
        await chores.close()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert work.done


async def test_close_cancels_what_takes_too_long() -> None:
    chores = Chores()
    work = Work()
    task = chores.start(work.run())
    await chores.close(patience=0)
    assert task.cancelled() and not work.done
