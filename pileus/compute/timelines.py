"""An action as OpenStack's clients see it: its steps as events, each with when, where and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pileus import timeline

SHOWN_NAMES = {"reboot_hard": "reboot", "evacuate_stopped": "evacuate"}
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


@dataclass(frozen=True)
class Failed:
    """A step of one attempt that failed; `host` is empty where it was done on none."""

    attempt: int
    step: str
    host: str
    cause: str


def events(action: Mapping[str, Any], host: str | None) -> list[Event]:
    """The events of an action's row, the newest first; `host` is where the server is now.

    A failed attempt is an event too: the step that failed, with the cause. Only of the last attempt is it known when.
    """
    found, bad = [], set()
    for failed in failures(action["details"]):
        last = failed.attempt == action["attempt"]
        if last:
            bad.add(failed.step)
        finish = action["finished_at"] if last else None
        found.append(Event(failed.step, action["started_at"], finish, False, failed.host or None, failed.cause))
    for span in timeline.spans(action["stamps"]):
        if span.step not in bad:
            where = host if timeline.STEPS[span.step].where in _ON_HOSTS else None
            found.append(Event(span.step, span.start, span.end, True, where))
    return sorted(found, key=lambda event: (event.start, event.finish or event.start), reverse=True)


def whole(action: Mapping[str, Any], host: str | None) -> Event:
    """The action as one event, where no more is told (`compute.explain` false)."""
    bad = action["state"] == "failed"
    cause = action["message"] if bad else None
    return Event(shown_name(action), action["started_at"], action["finished_at"], not bad, host, cause)


def shown_name(action: Mapping[str, Any]) -> str:
    return SHOWN_NAMES.get(action["name"], str(action["name"]))


def failures(details: Mapping[str, Any]) -> list[Failed]:
    """What failed in each attempt, the first attempt first (`details` has them under keys like `wired.1`)."""
    found = []
    for key, note in details.items():
        step, _, attempt = key.rpartition(".")
        if step and attempt.isdigit():
            found.append(Failed(int(attempt), step, str(note["host"]), str(note["cause"])))
    return sorted(found, key=lambda failed: failed.attempt)
