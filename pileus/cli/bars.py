"""An action's timeline drawn in the terminal: a bar a step, with milliseconds, what it waited for, and one sentence at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

UNFOLDED = 200
QUEUED = 0.1
"""Seconds of waiting for its turn from which on it is worth a sentence."""
EIGHTHS = " ▏▎▍▌▋▊▉█"


class Step(msgspec.Struct, frozen=True):
    """One step as the operator's API tells it. Times in Unix seconds."""

    step: str
    start: float
    end: float
    seconds: float
    where: str
    meaning: str
    after: str
    limit: str
    limit_seconds: float | None = None


class Failed(msgspec.Struct, frozen=True):
    attempt: int
    step: str
    host: str
    cause: str


class Action(msgspec.Struct, frozen=True):
    """One action on a server as the operator's API tells it."""

    request_id: str
    action: str
    state: str
    attempt: int
    host: str | None
    message: str | None
    started_at: float
    finished_at: float | None
    failures: list[Failed]
    waiting: str | None
    spans: list[Step]
    critical: list[str]
    queue_seconds: float = 0.0
    service_seconds: float | None = None
    explained: bool = True

    @property
    def seconds(self) -> float:
        end = self.finished_at or max([span.end for span in self.spans], default=self.started_at)
        return max(0.0, end - self.started_at)


def terminal() -> Console:
    """Where the commands print: the terminal as wide as it is; a pipe or a file gets lines that are not folded."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = UNFOLDED
    return console


def draw(action: Action, name: str, width: int) -> Iterator[RenderableType]:
    """What to print, for a terminal of so many columns."""
    yield headline(action, name)
    yield ""
    room = min(48, max(16, width - 86))
    failed = action.failures[-1].step if action.state == "failed" and action.failures else ""
    table = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "right", "left", "left"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_column()
    for span in action.spans:
        decided = span.step in action.critical
        colour = "red" if span.step == failed else "green" if decided else "cyan"
        drawn = bar(span.start - action.started_at, span.seconds, action.seconds, room, solid=decided)
        style = "" if decided else "dim"
        cells = (f"  {span.step}", duration(span.seconds), Text(drawn, colour), span.where, words(span, action))
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell, style) for cell in cells))
    yield table
    if any(span.step not in action.critical for span in action.spans):
        yield Text("  █ on the path that decided how long it took   ░ beside it", "dim")
    yield ""
    for failure in action.failures[: action.attempt - 1]:
        where = f" on host {failure.host}" if failure.host else ""
        yield Text(
            f"Attempt {failure.attempt} failed{where} at `{failure.step}`: {failure.cause.rstrip('.')}; then another was tried.", "yellow"
        )
    yield Text(verdict(action), "bold")
    if action.service_seconds is not None and action.queue_seconds >= QUEUED:
        yield Text(f"It waited {duration(action.queue_seconds)} for its turn and was worked on for {duration(action.service_seconds)}.")


def headline(action: Action, name: str) -> Text:
    """What was done to which server, where, how it ended and when."""
    endings = {"done": "done in", "failed": "failed after", "overtaken": "given up for something newer after"}
    took = f"{endings.get(action.state, 'under way for')} {duration(_age(action))}"
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(action.started_at))
    line = Text(f"{action.action} of {name}", "bold")
    line.append(f"{f' on host {action.host}' if action.host else ''}: {took}", "red" if action.state == "failed" else "")
    line.append(f"  ({at}, {action.request_id})", "dim")
    return line


def verdict(action: Action) -> str:
    """One sentence: what most of the time went into, why it failed, or what it waits for."""
    if action.state == "failed":
        last = action.failures[-1] if action.failures else None
        where = f" on host {last.host}" if last and last.host else ""
        cause = last.cause if last else action.message or "no cause was written down"
        return f"It failed{f' at `{last.step}`' if last else ''}{where}: {cause.rstrip('.')}."
    if action.state == "overtaken":
        return f"It did not end by itself: {action.message}."
    if not action.explained:
        return "Where it waits, or waited, nobody knows: this cloud does not write it down (compute.explain is false)."
    if action.waiting is not None:
        return f"It is not over: it waits for {action.waiting}."
    chain = [span for span in action.spans if span.step in action.critical]
    longest = max(chain, key=lambda span: span.seconds, default=None)
    if longest is None or action.seconds <= 0:
        return "It took no time that could be measured."
    part = longest.seconds / action.seconds
    how = f"Most of the time ({part:.0%})" if part > 0.5 else f"The largest part of the time ({part:.0%})"
    where = f" on {longest.where}" if longest.where.startswith("host ") else ""
    return f"{how} went into `{longest.step}`{where}: {longest.meaning} ({duration(longest.seconds)} of {duration(action.seconds)})."


def words(span: Step, action: Action) -> str:
    """What a step is, what it waited for, and what would have ended the wait."""
    text = span.meaning
    if span.step == "queued" and action.attempt > 1:
        text = "the attempts before this one, then waited for its turn"
    if span.after:
        text += f"; after {span.after}"
    if span.limit_seconds is not None:
        text += f", limit {span.limit_seconds:g} s"
    return text


def bar(start: float, seconds: float, total: float, room: int, *, solid: bool) -> str:
    """A bar of `room` columns that stands where its time was; what took any time at all is seen."""
    if total <= 0:
        return " " * room
    first = min(room - 1, int(start / total * room))
    eighths = max(1, round(seconds / total * room * 8))
    whole, rest = divmod(min(eighths, (room - first) * 8), 8)
    drawn = "█" * whole + (EIGHTHS[rest] if rest else "") if solid else "░" * max(1, whole)
    return " " * first + f"{drawn:<{room - first}}"


def duration(seconds: float) -> str:
    """Milliseconds up to ten seconds, then seconds."""
    return f"{seconds * 1000:.1f} ms" if seconds < 10 else f"{seconds:.1f} s"


def read(told: Any) -> Action:
    return msgspec.convert(told, Action)


def _age(action: Action) -> float:
    return action.seconds if action.waiting is None else max(0.0, time.time() - action.started_at)
