"""What became of actions, written down: each function is one transaction, guarded by id, generation and attempt."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import bindparam, select, update

from pileus.compute import actions, hosts, quotas
from pileus.compute.lifecycle import VERBS, Failure, fail, found, goes_elsewhere, succeed
from pileus.compute.servers import by_id
from pileus.compute.tables import servers
from pileus.context import SYSTEM
from pileus.messages import GuestNow, HostFacts, HostReport, Observed, PlugSignal, PowerState
from pileus.store import Tx
from pileus.store.sql import Row, rows

SETTLED = 5.0
"""Seconds after a change of a server in which a host's list may not know it yet."""
RESCUE_LIMIT = 300.0
UNWIND_AGAIN = 30.0
"""Seconds after which an unwinding that did not end is done again."""


@dataclass(frozen=True)
class Taken:
    """An answer that an action waited for; `failure` when it is one."""

    action: Row
    server: Row
    failure: Failure | None = None


@dataclass(frozen=True)
class Orders:
    """What a host must be told after its report: guests to remove (server id, generation), and actions that are due."""

    remove: list[tuple[str, int]]
    actions: list[str]


_SET = update(servers).where(servers.c.id == bindparam("this"), servers.c.generation == bindparam("loaded_generation"))


def _set(tx: Tx, server: Mapping[str, Any], **values: Any) -> bool:
    guard = {"this": server["id"], "loaded_generation": server["generation"]}
    return tx.execute(_SET, {**guard, "updated_at": time.time(), **values}).rowcount == 1


def sent(tx: Tx, action: Row, server: Row, values: Mapping[str, Any]) -> list[str] | None:
    """The host is about to be told, and the computing is over: ids of the server's actions that waited for that.

    None when the action was overtaken meanwhile.
    """
    if not actions.change(tx, action, within=(action["state"],), **values):
        return None
    task = {"task_state": "spawning"} if action["name"] == "create" else {}
    if not _set(tx, server, host=server["host"], boot=server["boot"], lease_until=0.0, **task):
        return None
    return actions.due_of(tx, server["id"])


def take(tx: Tx, message: Observed) -> Taken | None:
    """Apply what a host observed; the action to go on with, if any. Stale generations change nothing."""
    server = by_id(tx, message.server_id)
    if server is None or message.generation != server["generation"] or server["host"] != message.host:
        return None
    action = actions.open_of(tx, message.server_id)
    if action is None:
        _found(tx, server, message.power, message.cause)
        return None
    if action["state"] != "sent" or action["generation"] != message.generation:
        return None
    stamps = {step: at for step, at in message.stamps.items() if step not in ("accepted", "queued", "sent")}
    action["stamps"] = {**action["stamps"], **stamps}
    if message.failed_step:
        return Taken(action, server, Failure(message.failed_step, message.host, message.cause, message.retry))
    verb = VERBS[action["name"]]
    if verb.name == "delete":
        action["stamps"].setdefault("removed", time.time())
        actions.change(tx, action, stamps=action["stamps"], due_at=time.time())
        return Taken(action, server)
    after = succeed(verb, actions.state_of(server), message.power)
    now = time.time()
    launched = {"launched_at": now} if verb.name == "create" else {}
    _set(tx, server, vm_state=after.vm_state, task_state=None, power=after.power, fault=None, **launched)
    actions.finish(tx, action, "done", stamps={}, details={}, message=None)
    return Taken(action, server)


def unwinding(tx: Tx, action: Row, failure: Failure) -> bool:
    """From now on the action is being undone; False when it is over, overtaken, or being undone already."""
    action["details"] = {**action["details"], "failure": asdict(failure)}
    values = {"state": "unwinding", "details": action["details"], "stamps": action["stamps"], "due_at": time.time() + UNWIND_AGAIN}
    return actions.change(tx, action, within=("queued", "sent"), **values)


def failed(tx: Tx, action: Row, failure: Failure, signal: PlugSignal) -> bool:
    """An action failed and was unwound: due again on another host (True), or over."""
    server = by_id(tx, action["server_id"])
    if server is None:
        return False
    verb = VERBS[action["name"]]
    note = {f"{failure.step}.{action['attempt']}": {"host": failure.host, "cause": failure.cause}}
    if goes_elsewhere(verb, failure, action["attempt"], signal):
        generation = server["generation"] + 2  # + 1 was the order to remove what the first host has
        again = {
            "state": "queued",
            "attempt": action["attempt"] + 1,
            "tried": [*action["tried"], *([failure.host] if failure.host else [])],
            "due_at": time.time(),
            "resends": 0,
            "generation": generation,
            "details": {**action["details"], **note, "first": str(failure)},
            "stamps": {"accepted": action["stamps"]["accepted"]},
        }
        return actions.change(tx, action, **again) and _set(tx, server, generation=generation, host=None, task_state=verb.task)
    before = action["details"].get("first")
    text = f"{before}; then, elsewhere: {failure}" if before else str(failure)
    if not actions.finish(tx, action, "failed", stamps={}, details=note, message=text):
        return False
    after = fail(verb, actions.state_of(server))
    values: dict[str, Any] = {"vm_state": after.vm_state, "task_state": None}
    if after.vm_state == "error":
        values["fault"] = {"code": 500, "message": text[:255], "details": text, "created": time.time()}
    if verb.name == "create":
        values |= {"host": None, "generation": server["generation"] + 1, "power": "absent"}
    _set(tx, server, **values)
    return False


def deleted(tx: Tx, action: Row, server: Row) -> None:
    """The server is gone; its quota is free."""
    if not actions.finish(tx, action, "done", stamps={}, details={}, message=None):
        return
    now = time.time()
    tx.execute(
        update(servers)
        .where(servers.c.id == server["id"])
        .values(vm_state="deleted", task_state=None, power="absent", deleted_at=now, updated_at=now, user_data=None)
    )
    flavor = server["flavor"]
    quotas.give_back(tx, server["project_id"], instances=1, cores=flavor["vcpus"], ram=flavor["ram"])


def beat(tx: Tx, facts: HostFacts) -> tuple[Row, bool, list[str]]:
    """A host lives: its row, whether what it offers has changed, and what it must be told again because it began anew."""
    before = hosts.by_name(tx, facts.host)
    row, changed = hosts.beat(tx, facts)
    anew = before is not None and before["facts"]["started_at"] != facts.started_at
    return row, changed, actions.ask_again(tx, facts.host) if anew else []


def reconcile(tx: Tx, report: HostReport) -> Orders:
    """Hold a host's list of guests against what is written down."""
    known = {row["id"]: row for row in rows(tx, select(servers).where(servers.c.host == report.host, servers.c.deleted_at.is_(None)))}
    orders = Orders([], [])
    for server_id, guest in report.guests.items():
        if server_id in known:
            orders.actions.extend(_reported(tx, known[server_id], guest, report.at))
        else:
            elsewhere = by_id(tx, server_id)
            newest = max(guest.generation, elsewhere["generation"] if elsewhere else 0)
            orders.remove.append((server_id, newest + 1))
    for server_id in known.keys() - report.guests.keys():
        orders.actions.extend(_reported(tx, known[server_id], GuestNow(0, "absent"), report.at))
    return orders


def _reported(tx: Tx, server: Row, guest: GuestNow, at: float) -> list[str]:
    if server["updated_at"] > at - SETTLED or actions.open_of(tx, server["id"]) is not None:
        return []
    return _found(tx, server, guest.power, "")


def _found(tx: Tx, server: Row, power: PowerState, cause: str) -> list[str]:
    """A guest is like this, and nobody asked for it; actions that must follow."""
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
        _set(tx, server, generation=stopping["generation"], task_state="powering-off")
        return [actions.new(tx, SYSTEM, VERBS["stop"], stopping, hard=True, limit=RESCUE_LIMIT)]
    if kind != "as told" or after.power != server["power"]:
        _set(tx, server, **values)
    return []
