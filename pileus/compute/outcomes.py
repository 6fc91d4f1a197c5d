"""What became of actions, written down: each function is one transaction, guarded by id, generation and attempt."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Update, bindparam, select, update

from pileus import timeline
from pileus.compute import actions, admission, builds, info_cache, leases, quotas
from pileus.compute.actions import Stale
from pileus.compute.lifecycle import VERBS, Failure, fail, found, goes_elsewhere, succeed
from pileus.compute.servers import by_id
from pileus.compute.tables import actions as actions_table
from pileus.compute.tables import servers
from pileus.context import SYSTEM
from pileus.messages import Observed, PlugSignal, PowerState, Progress
from pileus.store import Tx
from pileus.store.sql import Row

RESCUE_LIMIT = 300.0
MOST_CAUSE, MOST_STEP = 2000, 32
"""Characters kept of what a host says of a failure."""
HOSTS_STEPS = frozenset(name for name, kind in timeline.STEPS.items() if kind.where in ("host", "agent", "signal"))
UNWIND_AGAIN = 30.0
"""Seconds after which an unwinding that did not end is done again."""


@dataclass(frozen=True)
class Taken:
    """An answer that an action waited for; `failure` when it is one."""

    action: Row
    server: Row
    failure: Failure | None = None


_SET = update(servers).where(servers.c.id == bindparam("this"), servers.c.generation == bindparam("loaded_generation"))
_KEEP = _SET.where(servers.c.lease_owner == bindparam("owner"), servers.c.lease_until == bindparam("until"))
_KEEP_BOOTED = _KEEP.values(info_cache.BOOTED)
_KEEP_FORGOTTEN = _KEEP.values(info_cache.FORGOTTEN)
_AS_FOUND = _SET.where(servers.c.vm_state == bindparam("loaded_vm_state"))
_FREED: dict[str, Any] = {"lease_owner": "", "lease_until": 0.0}


class HostFull(Exception):
    """The host builds as many servers as it may."""


def _set(tx: Tx, server: Mapping[str, Any], **values: Any) -> bool:
    guard = {"this": server["id"], "loaded_generation": server["generation"]}
    return tx.execute(_SET, {**guard, "updated_at": time.time(), **values}).rowcount == 1


def _note(tx: Tx, server: Mapping[str, Any], **values: Any) -> bool:
    """Write down what was found of a server; False where it has another state by now: somebody else's word is newer."""
    guard = {"this": server["id"], "loaded_generation": server["generation"], "loaded_vm_state": server["vm_state"]}
    return tx.execute(_AS_FOUND, {**guard, "updated_at": time.time(), **values}).rowcount == 1


def _give_up(tx: Tx, server: Mapping[str, Any], statement: Update = _KEEP, **values: Any) -> None:
    """Write what came of the computing and give back the lease with which the server was loaded. Raises Stale where it is lost.
    `statement`: with what becomes of the info cache."""
    held = {"owner": server["lease_owner"], "until": server["lease_until"]}
    guard = {"this": server["id"], "loaded_generation": server["generation"], **held}
    if tx.execute(statement, {**guard, "updated_at": time.time(), **_FREED, **values}).rowcount != 1:
        raise Stale


_DUE_AT = select(actions_table.c.due_at).where(actions_table.c.id == bindparam("action"))


def _must(changed: bool) -> None:
    if not changed:
        raise Stale


def sent(
    tx: Tx, action: Row, server: Row, values: Mapping[str, Any], *, builds_limit: int = 0, booted: Mapping[str, Any] | None = None
) -> list[str]:
    """The host is about to be told, and the computing is over: ids of the server's other actions, which waited for that. `booted`: what
    `info_cache.booted` says, where the network service was asked for the ports.

    Raises Stale where the action was overtaken or the lease lost, HostFull where a create is one too many for the host (0: never).
    """
    begins = action["name"] == "create" and action["state"] not in actions.ANSWERED
    task = {"task_state": "spawning"} if action["name"] == "create" else {}
    _give_up(tx, server, _KEEP if booted is None else _KEEP_BOOTED, host=server["host"], boot=server["boot"], **task, **(booted or {}))
    if not begins and (due_at := tx.execute(_DUE_AT, {"action": action["id"]}).scalar()) != action["due_at"]:
        values = {**values, "due_at": due_at}  # somebody asked for another look meanwhile
    _must(actions.change(tx, action, **values, **({"build_host": server["host"]} if begins else {})))
    if begins and not builds.enter(tx, server["host"], builds_limit) and builds_limit:
        raise HostFull
    return leases.due_of(tx, server["id"], but=action["id"])


def blocked(tx: Tx, action: Row, server: Row, reason: str, limit: float | None) -> None:
    """No host has room: its turn goes to the next. Looked at again after a while, and for the last time `limit` s after the first
    (None: never for the last time). Raises Stale."""
    now = time.time()
    before = action["details"].get("blocked", {"since": now, "looks": 0})
    note = {"since": before["since"], "looks": before["looks"] + 1, "reason": reason}
    end = None if limit is None else note["since"] + limit
    again = now + min(admission.RELOOK_MOST, admission.RELOOK_FIRST * 2 ** min(before["looks"], 10))
    look_at = again if end is None else min(end, again)
    _give_up(tx, server, host=None, task_state=VERBS["create"].task)
    details = {**action["details"], "blocked": note}
    _must(actions.change(tx, action, state="blocked", due_at=look_at, deadline=end, details=details, stamps=action["stamps"]))


def to_queue(tx: Tx, action: Row, server: Row, limit: float, reason: str = "") -> None:
    """A create waits for its turn again, at its old place and for at most `limit` s (0: for ever). Raises Stale."""
    end = time.time() + limit if limit else None
    details = {**action["details"], **({"back": reason} if reason else {})}
    _give_up(tx, server, host=None, task_state=VERBS["create"].task)
    _must(actions.change(tx, action, state="waiting", due_at=end, deadline=end, details=details, stamps=action["stamps"]))


def take(tx: Tx, message: Observed) -> Taken | None:
    """Apply what a host observed; the action to go on with, if any. Stale generations change nothing. Raises Stale where somebody
    else changed the action at the same time: the host is asked again."""
    server = by_id(tx, message.server_id)
    if server is None or message.generation != server["generation"] or server["host"] != message.host:
        return None
    action = actions.open_of(tx, message.server_id)
    if action is None:
        unasked(tx, server, message.power, message.cause[:MOST_CAUSE])
        return None
    if action["state"] not in actions.ANSWERED or action["generation"] != message.generation:
        return None
    action["stamps"] = {**action["stamps"], **_own(message.stamps)}
    if message.failed_step:
        return Taken(action, server, Failure(message.failed_step[:MOST_STEP], message.host, message.cause[:MOST_CAUSE], message.retry))
    verb = VERBS[action["name"]]
    if message.power == "absent" and verb.goal != "absent":
        return None  # it removed what an earlier life of the server had left there: asked again, it does what it was asked
    if verb.name == "delete":
        action["stamps"].setdefault("removed", time.time())
        # Before deletes that are not begun: what is half done holds what others could have.
        actions.change(tx, action, stamps=action["stamps"], due_at=action["started_at"])
        return Taken(action, server)
    after = succeed(verb, actions.state_of(server), message.power)
    now = time.time()
    launched = {"launched_at": now} if verb.name == "create" else {}
    _set(tx, server, vm_state=after.vm_state, task_state=None, power=after.power, fault=None, **launched)
    _must(actions.finish(tx, action, "done", stamps={}, details={}, message=None))
    return Taken(action, server)


def progress(tx: Tx, message: Progress, *, hold: bool = False) -> bool:
    """A host has done all that it can and waits for the network: a create holds no place among the builds any more, unless it is to
    `hold` it. Was one given back?"""
    server = by_id(tx, message.server_id)
    if server is None or message.generation != server["generation"] or server["host"] != message.host:
        return False
    action = actions.open_of(tx, message.server_id)
    if action is None or action["state"] != "sent" or action["generation"] != message.generation:
        return False
    stamps = {**action["stamps"], **_own(message.stamps)}
    details = {**action["details"], "waits_for": message.waits_for}
    state = "parked" if action["name"] == "create" and not hold else "sent"
    return actions.change(tx, action, state=state, stamps=stamps, details=details) and state == "parked"


def _own(stamps: Mapping[str, float]) -> dict[str, float]:
    """What a host may say of: the steps that are done there."""
    return {step: at for step, at in stamps.items() if step in HOSTS_STEPS}


def unwinding(tx: Tx, action: Row, failure: Failure, *, again_in: float = UNWIND_AGAIN) -> bool:
    """From now on the action is being undone; False when it is over, overtaken, or being undone already. Due in `again_in` s."""
    now = actions.by_id(tx, action["id"])
    if now is None or now["attempt"] != action["attempt"] or now["state"] not in actions.OPEN or now["state"] == "unwinding":
        return False
    action["details"] = {**action["details"], "failure": asdict(failure)}
    values = {"details": action["details"], "stamps": action["stamps"], "due_at": time.time() + again_in}
    if not actions.change(tx, now, state="unwinding", **values):
        return False
    action["state"] = "unwinding"
    if now["state"] == "waiting":
        quotas.leave_queue(tx, action["project_id"])
    return True


def failed(tx: Tx, action: Row, failure: Failure, signal: PlugSignal, held: Row | None = None, *, queue_limit: float = 0.0) -> bool:
    """An action failed and was unwound: it waits for another host (True), or is over. `held`: the server, leased for that.

    Raises Stale.
    """
    server = held or by_id(tx, action["server_id"])
    if server is None:
        return False
    verb = VERBS[action["name"]]
    note = {f"{failure.step}.{action['attempt']}": {"host": failure.host, "cause": failure.cause}}
    after_ports = _KEEP_FORGOTTEN if verb.name == "create" else _KEEP
    if goes_elsewhere(verb, failure, action["attempt"], signal):
        generation = server["generation"] + 2  # + 1 was the order to remove what the first host has
        queues = verb.name == "create"
        until = (time.time() + queue_limit if queue_limit else None) if queues else action["deadline"]
        again = {
            "state": "waiting" if queues else "queued",
            "attempt": action["attempt"] + 1,
            "tried": [*action["tried"], *([failure.host] if failure.host else [])],
            "due_at": until if queues else time.time(),
            "deadline": until,
            "resends": 0,
            "generation": generation,
            "details": {key: value for key, value in action["details"].items() if key != "waits_for"} | note | {"first": str(failure)},
            "stamps": {"accepted": action["stamps"]["accepted"]},
        }
        _give_up(tx, server, after_ports, generation=generation, host=action["details"].get("from"), task_state=verb.task)
        _must(actions.change(tx, action, **again))
        return True
    before = action["details"].get("first")
    text = f"{before}; then, elsewhere: {failure}" if before else str(failure)
    after = fail(verb, actions.state_of(server))
    values: dict[str, Any] = {"vm_state": after.vm_state, "task_state": None}
    if after.vm_state == "error":
        values["fault"] = {"code": 500, "message": text[:255], "details": text, "created": time.time()}
    if verb.finds_host:
        values |= {"host": action["details"].get("from"), "generation": server["generation"] + 1}
    if verb.name == "create":
        values |= {"power": "absent"}
    _give_up(tx, server, after_ports, **values)
    _must(actions.finish(tx, action, "failed", stamps={}, details=note, message=text))
    return False


def deleted(tx: Tx, action: Row, server: Row) -> None:
    """The server is gone; its quota is free. Raises Stale."""
    now = time.time()
    _give_up(tx, server, _KEEP_FORGOTTEN, vm_state="deleted", task_state=None, power="absent", deleted_at=now, user_data=None)
    _must(actions.finish(tx, action, "done", stamps={}, details={}, message=None))
    flavor = server["flavor"]
    quotas.give_back(tx, server["project_id"], instances=1, cores=flavor["vcpus"], ram=flavor["ram"])


def unasked(tx: Tx, server: Row, power: PowerState, cause: str) -> list[str]:
    """A guest is like this, and nobody asked for it; actions that must follow. What was loaded may have changed since (an answer that
    came twice, to two workers): then nothing is written."""
    kind, after = found(actions.state_of(server), power)
    values: dict[str, Any] = {"vm_state": after.vm_state, "power": after.power}
    if kind == "gone":
        text = f"the guest is no longer on host {server['host']}"
        values["fault"] = {"code": 500, "message": text, "details": text, "created": time.time()}
    elif power == "crashed":
        text = f"the guest died on host {server['host']}: {cause or 'no cause known'}"
        values["fault"] = {"code": 500, "message": text[:255], "details": text, "created": time.time()}
    if kind == "stop it":
        stopping = server | {"generation": server["generation"] + 1}
        if not _note(tx, server, generation=stopping["generation"], task_state="powering-off"):
            return []
        return [actions.new(tx, SYSTEM, VERBS["stop"], stopping, hard=True, limit=RESCUE_LIMIT)]
    if kind != "as told" or after.power != server["power"]:
        _note(tx, server, **values)
    return []
