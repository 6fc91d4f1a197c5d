"""The port's readiness machine: its table, and what holds whatever arrives in whatever order."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pileus.network import readiness
from pileus.network.readiness import STATUS, TABLE, Event, Kind, Level, Notice, State, apply

LEVELS, KINDS = get_args(Level), get_args(Kind)
REPORTS = ("plugged", "wired", "failed", "gone")


def at(level: Level) -> State:
    return State(level, "" if level == "unbound" else "h1", 3)


@pytest.mark.parametrize(("level", "kind"), list(itertools.product(LEVELS, KINDS)))
def test_every_level_meets_every_event(level: Level, kind: Kind) -> None:
    before = at(level)
    outcome = apply(before, Event(kind, "h1", 4 if kind == "bind" else 3))
    step = TABLE.get((level, kind))
    if step is None or (level == "unbound" and kind != "bind"):
        assert outcome == readiness.Outcome(before, changed=False)
    else:
        assert (outcome.changed, outcome.state.level, outcome.notice) == (True, step.level, step.notice)
        assert outcome.state.generation == (4 if kind == "bind" else 3)
        assert bool(outcome.state.host) == (outcome.state.level != "unbound")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("host", "generation"), [("h2", 3), ("h1", 2), ("h1", 4), ("", 3)])
def test_what_speaks_of_another_binding_is_stale(kind: Kind, host: str, generation: int) -> None:
    if kind == "bind":
        generation = min(generation, 3)  # a greater one is a new binding
    for level in ("bound", "plugged", "wired", "failed"):
        assert not apply(at(level), Event(kind, host, generation)).changed


def test_statuses_are_neutrons() -> None:
    assert STATUS == {"unbound": "DOWN", "bound": "DOWN", "plugged": "BUILD", "wired": "ACTIVE", "failed": "ERROR"}
    assert all(readiness.status(level, admin_up=False) == "DOWN" for level in LEVELS)


def test_the_description_has_a_line_for_each_row() -> None:
    lines = readiness.describe().splitlines()
    assert len(lines) == 2 + len(TABLE)
    assert "| plugged | wired | wired | ACTIVE | network-vif-plugged |" in lines


class Port(RuleBasedStateMachine):
    """A port whose control plane binds it here and there, while reports of now and long ago arrive, some of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.newest = 0
        self.last_report: Kind | None = None
        self.said: list[Event] = []
        self.notices: list[Notice] = []

    def meet(self, event: Event) -> None:
        outcome = apply(self.state, event)
        assert outcome.changed == (outcome.state != self.state)
        assert not apply(outcome.state, event).changed, "the same event twice changes nothing the second time"
        self.state = outcome.state
        if outcome.notice:
            self.notices.append(outcome.notice)

    @rule(host=st.sampled_from(["h1", "h2"]))
    def bind(self, host: str) -> None:
        self.newest += 1
        self.meet(Event("bind", host, self.newest))
        self.last_report = None
        assert self.state == State("bound", host, self.newest)

    @precondition(lambda self: self.state.host)
    @rule(kind=st.sampled_from(REPORTS))
    def report(self, kind: Kind) -> None:
        event = Event(kind, self.state.host, self.state.generation)
        self.said.append(event)
        self.meet(event)
        if not (kind == "plugged" and self.last_report == "wired"):
            self.last_report = kind

    @precondition(lambda self: self.said)
    @rule(data=st.data())
    def echo_of_an_older_binding(self, data: st.DataObject) -> None:
        event = data.draw(st.sampled_from(self.said))
        before = self.state
        if event.generation < self.newest or not before.host:
            self.meet(event)
            assert self.state == before

    @precondition(lambda self: self.state.host)
    @rule(kind=st.sampled_from(["unbind", "delete"]))
    def end(self, kind: Kind) -> None:
        self.meet(Event(kind, self.state.host, self.state.generation))
        self.last_report = None
        assert self.state.level == "unbound"
        assert kind != "delete" or self.notices[-1] == "network-vif-deleted"

    @invariant()
    def level_follows_the_last_report(self) -> None:
        expected = {None: ("unbound", "bound"), "gone": ("bound",)}.get(self.last_report, (self.last_report,))
        assert self.state.level in expected

    @invariant()
    def compute_knows_of_a_wired_port(self) -> None:
        if self.state.level in ("wired", "failed"):
            assert self.notices[-1] == f"network-vif-{'plugged' if self.state.level == 'wired' else 'failed'}"

    @invariant()
    def generations_only_grow(self) -> None:
        assert self.state.generation == self.newest


Port.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestPort = Port.TestCase
