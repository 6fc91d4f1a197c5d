from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pileus.cli.bars import Action, Failed, Step, bar, draw, duration, verdict


def step(name: str, start: float, end: float, after: str = "", where: str = "host h1", limit: float | None = None) -> Step:
    return Step(name, start, end, end - start, where, f"meaning of {name}", after, "", limit)


def action(*spans: Step, **more: Any) -> Action:
    given = {
        "request_id": "req-1",
        "action": "create",
        "state": "done",
        "attempt": 1,
        "host": "h1",
        "message": None,
        "started_at": 0.0,
        "finished_at": max(span.end for span in spans),
        "failures": [],
        "waiting": None,
        "spans": list(spans),
        "critical": [span.step for span in spans],
    }
    return Action(**{**given, **more})


def drawn(told: Action, width: int) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width)
    for part in draw(told, "web", width):
        console.print(part)
    return out.getvalue()


@given(
    st.floats(0, 100, allow_nan=False),
    st.floats(0, 100, allow_nan=False),
    st.floats(0, 10, allow_nan=False),
    st.integers(8, 60),
    st.booleans(),
)
def test_a_bar_is_as_wide_as_its_room_and_never_empty(start: float, seconds: float, rest: float, room: int, solid: bool) -> None:
    total = start + seconds + rest
    text = bar(start, seconds, total, room, solid=solid)
    assert len(text) == room
    if total > 0:
        assert text.strip()


def test_a_bar_stands_where_its_time_was() -> None:
    assert bar(0.5, 0.25, 1.0, 8, solid=True) == "    ██  "
    assert bar(0.5, 0.25, 1.0, 8, solid=False) == "    ░░  "
    assert bar(0.0, 0.0, 1.0, 8, solid=True) == "▏       "
    assert bar(0.0, 1.0, 1.0, 8, solid=True) == "████████"
    assert bar(1.0, 0.0, 1.0, 8, solid=True) == "       ▏"


@pytest.mark.parametrize(("seconds", "text"), [(0.00004, "0.0 ms"), (0.0473, "47.3 ms"), (9.9994, "9999.4 ms"), (12.34, "12.3 s")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_most_of_the_time() -> None:
    told = action(step("queued", 0, 1), step("wired", 1, 9, "queued"))
    assert verdict(told) == "Most of the time (89%) went into `wired` on host h1: meaning of wired (8000.0 ms of 9000.0 ms)."


def test_no_step_took_most_of_it() -> None:
    told = action(step("queued", 0, 3, where="worker"), step("claimed", 3, 5), step("wired", 5, 7))
    assert verdict(told).startswith("The largest part of the time (43%) went into `queued`: meaning of queued")


def test_what_went_on_beside_is_not_blamed() -> None:
    told = action(step("image", 0, 9), step("wired", 0, 9.5), critical=["wired"])
    assert "`wired`" in verdict(told)
    assert "░" in drawn(told, 200)


def test_a_failure_is_told_with_its_step_host_and_cause() -> None:
    failures = [Failed(1, "wired", "h1", "no flows"), Failed(2, "paused", "h2", "QEMU ended at once.")]
    told = action(step("queued", 0, 1), step("paused", 1, 2), state="failed", attempt=2, failures=failures)
    assert verdict(told) == "It failed at `paused` on host h2: QEMU ended at once."
    assert "Attempt 1 failed on host h1 at `wired`: no flows; then another was tried." in drawn(told, 200)


def test_what_is_not_over_and_what_was_overtaken() -> None:
    span = step("queued", 0, 1)
    assert verdict(action(span, state="queued", finished_at=None, waiting="a worker")) == "It is not over: it waits for a worker."
    assert "overtaken by delete" in verdict(action(span, state="overtaken", message="overtaken by delete"))


def test_limits_and_what_was_waited_for_stand_beside_the_bars() -> None:
    text = drawn(action(step("wired", 0, 1, "plugged", limit=300.0)), 200)
    assert "meaning of wired; after plugged, limit 300 s" in text


@pytest.mark.parametrize("width", [40, 80, 120, 250])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    told = action(step("signalled", 0, 1, "wired", where="host with-a-name", limit=300.0), step("reported", 1, 2, "signalled"))
    assert max(map(len, drawn(told, width).splitlines())) <= width
