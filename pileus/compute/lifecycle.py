"""The lifecycle of a server, without I/O: one table of what is allowed when and what it leads to.

Read by the API (its 409s), by the worker (what to do, where it ends) and by the docs (`describe`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pileus.messages import Goal, PlugSignal, PowerState

VmState = Literal["building", "active", "paused", "stopped", "error", "deleted"]
Step = Literal["claim", "allocate", "resolve", "send", "release"]

ALIVE: frozenset[str] = frozenset({"building", "active", "paused", "stopped", "error"})


@dataclass(frozen=True)
class Verb:
    """One thing that can be done to a server.

    `words`: how OpenStack names it in a refusal. `during`: task states that do not stand in its way besides none.
    `plan`: the worker's steps; after `send` the host's answer is awaited. `on_failure`: the state after it failed (None: as before).
    """

    name: str
    words: str
    allowed: frozenset[str]
    task: str
    goal: Goal
    ends: VmState
    plan: tuple[Step, ...]
    on_failure: VmState | None = None
    during: frozenset[str] = frozenset()
    any_task: bool = False

    @property
    def finds_host(self) -> bool:
        """A create, and an evacuation: they may be tried on another host when one fails."""
        return "claim" in self.plan

    @property
    def needs_host(self) -> bool:
        """A create finds its host, and a delete ends what never had one; all else is done to a guest."""
        return self.name != "create" and "release" not in self.plan


VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb(
            "create",
            "create",
            frozenset({"building"}),
            "scheduling",
            "running",
            "active",
            ("claim", "allocate", "resolve", "send"),
            "error",
        ),
        Verb("start", "start", frozenset({"stopped"}), "powering-on", "running", "active", ("allocate", "resolve", "send")),
        Verb("stop", "stop", frozenset({"active", "paused", "error"}), "powering-off", "stopped", "stopped", ("send",)),
        Verb("reboot", "reboot", frozenset({"active"}), "rebooting", "running", "active", ("send",)),
        Verb(
            "reboot_hard",
            "reboot",
            frozenset({"active", "paused", "stopped", "error"}),
            "rebooting_hard",
            "running",
            "active",
            ("allocate", "resolve", "send"),
            "error",
            during=frozenset({"rebooting", "rebooting_hard", "powering-on"}),
        ),
        Verb("pause", "pause", frozenset({"active"}), "pausing", "paused", "paused", ("send",)),
        Verb("unpause", "unpause", frozenset({"paused"}), "unpausing", "running", "active", ("send",)),
        Verb(
            "evacuate",
            "evacuate",
            frozenset({"active", "stopped", "error"}),
            "rebuilding",
            "running",
            "active",
            ("claim", "allocate", "resolve", "send"),
            "error",
        ),
        Verb(
            "evacuate_stopped",
            "evacuate",
            frozenset({"active", "stopped", "error"}),
            "rebuilding",
            "stopped",
            "stopped",
            ("claim", "allocate", "resolve", "send"),
            "error",
        ),
        Verb("delete", "delete", ALIVE, "deleting", "absent", "deleted", ("send", "release"), "error", any_task=True),
    )
}


@dataclass(frozen=True)
class ServerState:
    """What of a server the rules look at."""

    vm_state: VmState
    task_state: str | None = None
    power: PowerState = "absent"
    generation: int = 1
    host: str | None = None
    locked: bool = False


def refusal(verb: Verb, state: ServerState, server_id: str) -> str | None:
    """Why the verb is not possible now, in OpenStack's words; None when it is."""
    if state.vm_state not in verb.allowed:
        return f"Cannot '{verb.words}' instance {server_id} while it is in vm_state {state.vm_state}"
    if verb.needs_host and state.host is None:
        return f"Instance {server_id} is not ready: it is on no host"
    if verb.any_task or state.task_state is None or state.task_state in verb.during:
        return None
    return f"Cannot '{verb.words}' instance {server_id} while it is in task_state {state.task_state}"


def begin(verb: Verb, state: ServerState) -> ServerState:
    """The verb was accepted: a new generation for the host to reach."""
    return replace(state, task_state=verb.task, generation=state.generation + 1)


def succeed(verb: Verb, state: ServerState, power: PowerState) -> ServerState:
    return replace(state, vm_state=verb.ends, task_state=None, power=power)


def fail(verb: Verb, state: ServerState) -> ServerState:
    return replace(state, vm_state=verb.on_failure or state.vm_state, task_state=None)


@dataclass(frozen=True)
class Failure:
    """What went wrong, where: a step of the timeline, the host (empty: none yet), the cause; may another host do better?"""

    step: str
    host: str
    cause: str
    retry: bool = False

    def __str__(self) -> str:
        return f"{self.step} failed{f' on host {self.host}' if self.host else ''}: {self.cause}"


ATTEMPTS = 2


def goes_elsewhere(verb: Verb, failure: Failure, attempt: int, signal: PlugSignal) -> bool:
    """Is what failed tried on another host? Once; with `callback` never for the network's sake (Nova's rule)."""
    if not verb.finds_host or not failure.retry or attempt >= ATTEMPTS:
        return False
    return not (signal == "callback" and failure.step in NETWORK_STEPS)


NETWORK_STEPS = frozenset({"wired", "signalled"})

Found = Literal["as told", "power changed", "stop it", "gone"]


def found(state: ServerState, power: PowerState) -> tuple[Found, ServerState]:
    """A host says how a guest is, unasked, and no action is under way: what that means for the server."""
    outcome = _FOUND.get((state.vm_state, power))
    if outcome is None:
        return "as told", replace(state, power=power)
    kind, vm_state = outcome
    return kind, replace(state, vm_state=vm_state, power=power)


_FOUND: dict[tuple[str, str], tuple[Found, VmState]] = {
    ("active", "paused"): ("power changed", "paused"),
    ("active", "stopped"): ("power changed", "stopped"),
    ("active", "crashed"): ("power changed", "stopped"),
    ("active", "absent"): ("gone", "error"),
    ("paused", "running"): ("power changed", "active"),
    ("paused", "stopped"): ("power changed", "stopped"),
    ("paused", "crashed"): ("power changed", "stopped"),
    ("paused", "absent"): ("gone", "error"),
    ("stopped", "running"): ("stop it", "stopped"),
    ("stopped", "paused"): ("stop it", "stopped"),
    ("stopped", "absent"): ("gone", "error"),
}

STATUS: dict[tuple[str, str | None], str] = {
    ("active", "rebooting"): "REBOOT",
    ("active", "rebooting_hard"): "HARD_REBOOT",
    ("paused", "rebooting_hard"): "HARD_REBOOT",
    ("stopped", "rebooting_hard"): "HARD_REBOOT",
    ("error", "rebooting_hard"): "HARD_REBOOT",
    ("active", "rebuilding"): "REBUILD",
    ("stopped", "rebuilding"): "REBUILD",
    ("error", "rebuilding"): "REBUILD",
}
PLAIN_STATUS = {"building": "BUILD", "active": "ACTIVE", "paused": "PAUSED", "stopped": "SHUTOFF", "error": "ERROR", "deleted": "DELETED"}
POWER_NUMBER: dict[str, int] = {"absent": 0, "running": 1, "paused": 3, "stopped": 4, "crashed": 6}


def status(vm_state: str, task_state: str | None) -> str:
    """The status word of the API. Source: Nova's api/openstack/compute/views, the table of states."""
    return STATUS.get((vm_state, task_state), PLAIN_STATUS[vm_state])


def describe() -> str:
    """The table as Markdown, for docs/ARCHITECTURE.md."""
    head = "| action | from | task state | host is told | ends | after a failure |\n|---|---|---|---|---|---|\n"
    return head + "".join(
        f"| {v.name} | {', '.join(sorted(v.allowed))} | {v.task} | {v.goal} | {v.ends} | {v.on_failure or 'as before'} |\n"
        for v in VERBS.values()
    )
