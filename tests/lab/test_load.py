"""What a load is judged by, and what is told of it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pileus.lab import load
from pileus.lab.load import Create, Judge, _note, flat, mean_steps, percentile, windows
from pileus.lab.results import Window

JUDGE = Judge(300.0)


def made(seconds: float, *, sent: float = 1000.0, active: bool = True) -> Create:
    return Create(sent, sent + seconds, active)


def row(state: str, stamps: dict[str, float], finished: float, **details: Any) -> dict[str, Any]:
    return {"state": state, "started_at": 1000.1, "finished_at": finished, "stamps": json.dumps(stamps), "details": json.dumps(details)}


def test_good_is_all_active_and_p99_under_half_the_timeout() -> None:
    assert JUDGE.is_good([made(149.0)] * 100)
    assert JUDGE.is_good([made(1.0)] * 99 + [made(151.0)])
    assert not JUDGE.is_good([made(1.0)] * 98 + [made(151.0)] * 2)
    assert not JUDGE.is_good([made(1.0)] * 99 + [made(1.0, active=False)])
    assert not JUDGE.is_good([made(1.0)] * 99 + [Create(1000.0)])
    assert not JUDGE.is_good([])


def test_a_load_is_lost_when_nothing_can_make_it_good_any_more() -> None:
    waiting = [Create(1000.0)] * 2
    assert not JUDGE.is_lost(waiting, 100, 1150.0)
    assert JUDGE.is_lost(waiting, 100, 1150.1)
    assert not JUDGE.is_lost(waiting[:1], 100, 1200.0)
    assert JUDGE.is_lost([made(1.0, active=False)], 100, 1001.0)


def test_an_action_that_is_done_says_where_its_time_went() -> None:
    create = Create(1000.0)
    stamps = {
        "queued": 1000.5,
        "claimed": 1001.0,
        "addressed": 1003.0,
        "sent": 1003.0,
        "image": 1003.1,
        "plugged": 1003.2,
        "paused": 1003.3,
    }
    _note(create, row("done", {**stamps, "wired": 1010.0, "signalled": 1012.0, "resumed": 1012.1, "reported": 1012.2}, 1012.2))
    assert create.active
    assert create.seconds == pytest.approx(12.2)
    assert sum(create.steps.values()) == pytest.approx(12.2)
    assert create.steps["wired"] == pytest.approx(6.8)
    assert "image" not in create.steps  # it was not on the way that decided


def test_a_create_that_was_lost_to_the_plug_timeout_counts_the_wait_that_killed_it() -> None:
    create = Create(1000.0)
    stamps = {"queued": 1000.2, "claimed": 1000.3, "addressed": 1000.4, "sent": 1000.4, "plugged": 1000.5, "wired": 1290.5}
    failure = {"step": "signalled", "cause": "no network-vif-plugged arrived within 300 s", "attempt": 1, "host": "a", "retry": False}
    _note(create, row("failed", {**stamps, "reported": 1300.6}, 1300.5, failure=failure))
    assert (create.active, create.plug_timeout) == (False, True)
    assert create.steps["wired"] == pytest.approx(290.0)
    assert create.steps["signalled"] == pytest.approx(10.0)


def test_other_failures_are_no_plug_timeouts() -> None:
    create = Create(1000.0)
    _note(create, row("failed", {"queued": 1000.2}, 1030.0, failure={"step": "addressed", "cause": "not done within 30 s"}))
    assert (create.active, create.plug_timeout) == (False, False)


class Database:
    """Finished actions, by who asks for those since a moment."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    async def fetch(self, _: str, since: float) -> list[dict[str, Any]]:
        return [each for each in self.rows if each["finished_at"] >= since]


async def test_a_create_whose_end_was_seen_before_its_request_was_answered_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer of a busy API may come seconds after the server is ACTIVE, and after other servers' ends."""
    monkeypatch.setattr(load, "LOOK", 0.01)
    database = Database()
    run = load._Run(cast(Any, SimpleNamespace(database=database)), JUDGE, 1.0, 1.0, deque(), deletes=0.0)
    slow, quick = Create(run._begun), Create(run._begun)
    run._creates += [slow, quick]
    run._known["quick"] = quick
    for name, after in (("slow", 0.3), ("quick", 9.0)):
        database.rows.append(row("done", {"queued": run._begun}, run._begun + after) | {"server_id": name, "started_at": run._begun})
    await run._look()
    run._known["slow"] = slow
    sender = asyncio.create_task(asyncio.sleep(0))
    async with asyncio.timeout(5):
        await run._watch(sender, True, lambda _: None)
    assert slow.active and quick.active


def test_steps_are_means_that_add_up() -> None:
    creates = [
        Create(0.0, 4.0, True, steps={"accepted": 1.0, "wired": 3.0}),
        Create(0.0, 2.0, True, steps={"accepted": 1.0, "resumed": 1.0}),
    ]
    assert mean_steps(creates) == {"accepted": 1.0, "wired": 1.5, "resumed": 0.5}


def test_windows_hold_each_create_once() -> None:
    creates = [made(number / 10, sent=1000.0 + number) for number in range(80)]
    found = windows(creates, 1000.0, 80.0)
    assert [each.created for each in found] == [10] * 8
    second = found[1]
    assert (second.start, second.created, second.active) == (10.0, 10, 10)
    assert second.p50_s == pytest.approx(1.4)
    assert second.p99_s == pytest.approx(1.9)
    assert sum(each.created for each in windows(creates, 1000.0, 79.0)) == 80


def test_flat() -> None:
    def of(*p99s: float | None) -> list[Window]:
        return [Window(number, 1, 1, p99, p99) for number, p99 in enumerate(p99s)]

    assert flat(of(2, 2, 2, 2)) == 1
    assert flat(of(1, 1, 4, 4)) == 4
    assert flat(of(None, None)) is None


def test_percentile_is_the_nearest_rank() -> None:
    assert percentile([], 99) is None
    assert (percentile([3, 1, 2], 50), percentile([3, 1, 2], 99), percentile(list(range(1, 101)), 99)) == (2, 3, 99)
