"""How ready a port is, as a pure state machine: no I/O, one table.

A port's binding has a host and a generation. Agents say what they made of the port at that generation; whatever is said of
another host or generation is stale and ignored. So any message may be lost, doubled or late: saying it again is harmless.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["unbound", "bound", "plugged", "wired", "failed"]
Kind = Literal["bind", "plugged", "wired", "failed", "gone", "unbind", "delete"]
Status = Literal["DOWN", "BUILD", "ACTIVE", "ERROR"]
Notice = Literal["network-vif-plugged", "network-vif-failed", "network-vif-unplugged", "network-vif-deleted"]


@dataclass(frozen=True, slots=True)
class State:
    """`host` is empty while unbound; `generation` counts the bindings (0: never bound)."""

    level: Level = "unbound"
    host: str = ""
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """`bind` carries the new generation; all others the one they speak of."""

    kind: Kind
    host: str
    generation: int


@dataclass(frozen=True, slots=True)
class Step:
    """`notice`: what the compute service is told."""

    level: Level
    notice: Notice | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """`changed` False: the event was stale or says what is known already, and there is nothing to do."""

    state: State
    changed: bool
    notice: Notice | None = None


TABLE: dict[tuple[Level, Kind], Step] = {
    ("unbound", "bind"): Step("bound"),
    ("bound", "bind"): Step("bound"),
    ("plugged", "bind"): Step("bound"),
    ("wired", "bind"): Step("bound"),
    ("failed", "bind"): Step("bound"),
    ("bound", "plugged"): Step("plugged"),
    ("failed", "plugged"): Step("plugged"),
    ("bound", "wired"): Step("wired", "network-vif-plugged"),
    ("plugged", "wired"): Step("wired", "network-vif-plugged"),
    ("failed", "wired"): Step("wired", "network-vif-plugged"),
    ("bound", "failed"): Step("failed", "network-vif-failed"),
    ("plugged", "failed"): Step("failed", "network-vif-failed"),
    ("wired", "failed"): Step("failed", "network-vif-failed"),
    ("plugged", "gone"): Step("bound"),
    ("wired", "gone"): Step("bound", "network-vif-unplugged"),
    ("failed", "gone"): Step("bound"),
    ("bound", "unbind"): Step("unbound"),
    ("plugged", "unbind"): Step("unbound"),
    ("wired", "unbind"): Step("unbound", "network-vif-unplugged"),
    ("failed", "unbind"): Step("unbound"),
    ("unbound", "delete"): Step("unbound", "network-vif-deleted"),
    ("bound", "delete"): Step("unbound", "network-vif-deleted"),
    ("plugged", "delete"): Step("unbound", "network-vif-deleted"),
    ("wired", "delete"): Step("unbound", "network-vif-deleted"),
    ("failed", "delete"): Step("unbound", "network-vif-deleted"),
}
"""What is not here changes nothing."""

STATUS: dict[Level, Status] = {"unbound": "DOWN", "bound": "DOWN", "plugged": "BUILD", "wired": "ACTIVE", "failed": "ERROR"}


def apply(state: State, event: Event) -> Outcome:
    """What an event makes of a port."""
    step = TABLE.get((state.level, event.kind))
    if step is None or not _fresh(state, event):
        return Outcome(state, changed=False)
    if event.kind == "bind":
        return Outcome(State(step.level, event.host, event.generation), changed=True, notice=step.notice)
    host = "" if step.level == "unbound" else state.host
    return Outcome(State(step.level, host, state.generation), changed=True, notice=step.notice)


def status(level: Level, *, admin_up: bool) -> Status:
    """The status as Neutron shows it: a port that was switched off is DOWN, whatever its agent made of it."""
    return STATUS[level] if admin_up else "DOWN"


def describe() -> str:
    """The table as Markdown, for the documentation."""
    lines = ["| level | event | becomes | status | compute is told |", "|---|---|---|---|---|"]
    lines += [f"| {level} | {kind} | {step.level} | {STATUS[step.level]} | {step.notice or ''} |" for (level, kind), step in TABLE.items()]
    return "\n".join(lines)


def _fresh(state: State, event: Event) -> bool:
    if event.kind == "bind":
        return event.generation > state.generation
    return (event.host, event.generation) == (state.host, state.generation)
