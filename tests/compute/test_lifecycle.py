"""The lifecycle's table: complete, and closed under everything that can happen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pileus.compute import lifecycle
from pileus.compute.lifecycle import VERBS, Failure, ServerState, begin, fail, found, goes_elsewhere, refusal, status, succeed

POWERS = ("running", "paused", "stopped", "crashed", "absent")
RESULT = {"running": "running", "paused": "paused", "stopped": "stopped", "absent": "absent"}


class Life(RuleBasedStateMachine):
    """A server that is told things, whose host answers or fails, and whose guest changes by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.state = begin(VERBS["create"], ServerState("building", generation=0))
        self.verb = "create"
        self.working = True

    @rule(name=st.sampled_from(sorted(set(VERBS) - {"create"})))
    def ask(self, name: str) -> None:
        before = self.state
        why = refusal(VERBS[name], before, "id")
        if why is not None:
            if "not ready" in why:
                assert before.host is None
                return
            assert "Cannot" in why
            assert before.vm_state in why or (before.task_state or "") in why
            return
        self.state = begin(VERBS[name], before)
        assert self.state.generation == before.generation + 1
        self.verb, self.working = name, True

    @precondition(lambda self: self.working)
    @rule()
    def answered(self) -> None:
        verb = VERBS[self.verb]
        self.state = replace(succeed(verb, self.state, RESULT[verb.goal]), host="h")  # type: ignore[arg-type]
        self.working = False
        assert self.state.vm_state == verb.ends

    @precondition(lambda self: self.working)
    @rule()
    def failed(self) -> None:
        self.state = fail(VERBS[self.verb], self.state)
        self.working = False

    @precondition(lambda self: not self.working and self.state.vm_state != "deleted")
    @rule(power=st.sampled_from(POWERS))
    def found_so(self, power: str) -> None:
        _, self.state = found(self.state, power)  # type: ignore[arg-type]

    @invariant()
    def nothing_waits_without_work(self) -> None:
        assert (self.state.task_state is None) == (not self.working)

    @invariant()
    def building_ends(self) -> None:
        assert self.state.vm_state != "building" or self.working

    @invariant()
    def it_can_always_be_deleted(self) -> None:
        assert self.state.vm_state == "deleted" or refusal(VERBS["delete"], self.state, "id") is None

    @invariant()
    def only_what_finds_a_host_or_ends_it_works_without_one(self) -> None:
        assert not self.working or self.state.host is not None or not VERBS[self.verb].needs_host

    @invariant()
    def it_has_a_status(self) -> None:
        assert status(self.state.vm_state, self.state.task_state)


TestLife = Life.TestCase


@pytest.mark.parametrize(
    ("verb", "vm_state", "task", "words"),
    [
        ("start", "active", None, "Cannot 'start' instance id while it is in vm_state active"),
        ("stop", "stopped", None, "Cannot 'stop' instance id while it is in vm_state stopped"),
        ("pause", "building", "spawning", "Cannot 'pause' instance id while it is in vm_state building"),
        ("reboot", "active", "powering-off", "Cannot 'reboot' instance id while it is in task_state powering-off"),
    ],
)
def test_refusals_are_openstack_s_words(verb: str, vm_state: lifecycle.VmState, task: str | None, words: str) -> None:
    assert refusal(VERBS[verb], ServerState(vm_state, task, host="h"), "id") == words


@pytest.mark.parametrize("verb", ["stop", "reboot_hard"])
def test_what_is_done_to_a_guest_is_refused_where_there_never_was_one(verb: str) -> None:
    assert refusal(VERBS[verb], ServerState("error", host=None), "id") == "Instance id is not ready: it is on no host"


def test_a_hard_reboot_rescues() -> None:
    for vm_state in ("active", "paused", "stopped", "error"):
        assert refusal(VERBS["reboot_hard"], ServerState(vm_state, host="h"), "id") is None
    assert refusal(VERBS["reboot_hard"], ServerState("active", "rebooting", host="h"), "id") is None


@pytest.mark.parametrize(
    ("verb", "step", "retry", "attempt", "signal", "expected"),
    [
        ("create", "paused", True, 1, "local", True),
        ("create", "wired", True, 1, "local", True),
        ("create", "wired", True, 1, "callback", False),
        ("create", "signalled", True, 1, "callback", False),
        ("create", "paused", True, 1, "callback", True),
        ("create", "paused", True, 2, "local", False),
        ("create", "claimed", False, 1, "local", False),
        ("start", "paused", True, 1, "local", False),
    ],
)
def test_who_goes_elsewhere(verb: str, step: str, retry: bool, attempt: int, signal: str, expected: bool) -> None:
    failure = Failure(step, "h", "c", retry)
    assert goes_elsewhere(VERBS[verb], failure, attempt, signal) is expected  # type: ignore[arg-type]


def test_a_failure_names_step_host_and_cause() -> None:
    assert str(Failure("wired", "host-1", "flow table is full")) == "wired failed on host host-1: flow table is full"


def test_the_docs_show_the_table() -> None:
    table = lifecycle.describe()
    assert all(f"| {name} |" in table for name in VERBS)
