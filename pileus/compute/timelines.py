"""An action as OpenStack's clients see it: its steps as events, each with when, where and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pileus import timeline

SHOWN_NAMES = {"reboot_hard": "reboot"}
"""Our verbs that Nova has no word of its own for."""
_ON_HOSTS = frozenset({"host", "agent", "signal"})


@dataclass(frozen=True)
class Event:
    """Times in Unix seconds; `host` None where the step was not done on one."""

    step: str
    start: float
    finish: float | None
    ok: bool
    host: str | None
    details: str | None = None


def events(action: Mapping[str, Any], host: str | None) -> list[Event]:
    """The events of an action's row, the newest first; `host` is where the server is now.

    A failed attempt is an event too: the step that failed, with the cause. Only of the last attempt is it known when.
    """
    failed = _failures(action["details"])
    found = [
        Event(step, action["started_at"], action["finished_at"] if number == action["attempt"] else None, False, at or None, cause)
        for number, step, at, cause in failed
    ]
    bad = {step for number, step, _, _ in failed if number == action["attempt"]}
    for span in timeline.spans(action["stamps"]):
        if span.step not in bad:
            where = host if timeline.STEPS[span.step].where in _ON_HOSTS else None
            found.append(Event(span.step, span.start, span.end, True, where))
    return sorted(found, key=lambda event: (event.start, event.finish or event.start), reverse=True)


def shown_name(action: Mapping[str, Any]) -> str:
    return SHOWN_NAMES.get(action["name"], str(action["name"]))


def _failures(details: Mapping[str, Any]) -> list[tuple[int, str, str, str]]:
    """Attempt, step, host and cause of each failure (`details` has them under keys like `wired.1`)."""
    found = []
    for key, note in details.items():
        step, _, number = key.rpartition(".")
        if step and number.isdigit():
            found.append((int(number), step, str(note["host"]), str(note["cause"])))
    return found
