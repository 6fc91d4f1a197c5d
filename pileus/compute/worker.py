"""The worker: takes due actions, computes their steps, tells hosts, and writes down what hosts observed.

An action is leased only while its steps are computed; waiting for a host is a row with a `due_at` (law 2). Every step may run
again: claims and ports are idempotent by server, generation and host.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import structlog

from pileus.bus import Subscription
from pileus.compute import actions, outcomes
from pileus.compute.lifecycle import VERBS, Failure, Verb
from pileus.compute.scheduler import Scheduler
from pileus.compute.service import Compute
from pileus.compute.steps import StepFailed, Steps
from pileus.messages import (
    ACTIONS,
    OBSERVED,
    READINESS,
    ActionHint,
    Desired,
    Observed,
    Readiness,
    ReadinessRequest,
    desired_subject,
    from_hosts,
)
from pileus.store.sql import Row

log = structlog.get_logger(__name__)

LANE_WAIT = 10.0
"""Seconds that an action waits for its turn with its lease in hand; then it gives it back and is due as before."""
SWEEP = 0.5
"""Seconds between looks for what is due: the most that a lost hint costs."""
BATCH = 256
BUILDERS = 32
"""Actions computed at once; deletes have as many of their own (law 3)."""


class Worker:
    """`exclusive`: no other worker uses this database (`pileus up`), so leases that are found at the start are a dead one's."""

    def __init__(self, compute: Compute, scheduler: Scheduler, *, exclusive: bool) -> None:
        self._compute = compute
        self._steps = Steps(compute, scheduler)
        self._exclusive = exclusive
        limits = compute.settings.compute
        # Longer than its steps can take, all limits reached: a lease that ran out would let a delete overtake a claim.
        self._lease = LANE_WAIT + 2 * (limits.schedule_limit + 4 * limits.network_limit)
        self._closing = False
        self._running: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._lanes = {True: asyncio.Semaphore(BUILDERS), False: asyncio.Semaphore(BUILDERS)}
        self._subscriptions: list[Subscription] = []
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._exclusive:
            await self._compute.store.write(actions.begin_anew)
        bus = self._compute.bus
        self._subscriptions = [
            bus.subscribe(ACTIONS, ActionHint, self._hinted, queue="workers"),
            bus.subscribe(from_hosts(OBSERVED), Observed, self.observed, queue="workers", concurrency=BUILDERS),
            bus.serve(from_hosts(READINESS), ReadinessRequest, self._readiness, queue="workers", concurrency=8),
        ]
        self._sweeper = asyncio.create_task(self._sweep(), name="due-sweep")

    async def close(self) -> None:
        """Stop computing; what was under way goes on where it was with the next worker."""
        self._closing = True
        for subscription in self._subscriptions:
            await subscription.close()
        tasks = [*self._running.values(), *([self._sweeper] if self._sweeper else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def observed(self, message: Observed) -> None:
        """A host reached a generation, or failed to; or tells of a guest unasked."""
        wanted = await self._compute.store.write(outcomes.take, message)
        if wanted is None:
            return
        if wanted.failure is not None:
            await self._failed(wanted.action, wanted.server, wanted.failure)
        elif VERBS[wanted.action["name"]].plan[-1] == "release":
            self._launch(str(wanted.action["id"]))

    async def _hinted(self, hint: ActionHint) -> None:
        for action_id in hint.ids:
            self._launch(action_id)

    async def _readiness(self, request: ReadinessRequest) -> Readiness:
        found = await self._compute.network.readiness(request.port_ids)
        return Readiness({p.port_id: p.wired for p in found}, {p.port_id: p.failed for p in found})

    async def _sweep(self) -> None:
        purge_at = time.monotonic()
        while True:
            try:
                for action_id in await self._compute.store.read(actions.due, time.time(), BATCH):
                    self._launch(action_id)
                if time.monotonic() >= purge_at:
                    purge_at = time.monotonic() + 3600
                    await self._compute.store.write(actions.purge, time.time() - self._compute.settings.compute.deleted_retention)
            except Exception:
                log.exception("sweep failed; it goes on")
            await asyncio.sleep(SWEEP)

    def _launch(self, action_id: str) -> None:
        """Run an action; one that runs already runs once more afterwards, so that no hint is lost."""
        if self._closing:
            return
        if action_id in self._running:
            self._again.add(action_id)
            return
        task = asyncio.create_task(self._run(action_id), name=f"action-{action_id}")
        self._running[action_id] = task
        task.add_done_callback(lambda _: self._finished(action_id))

    def _finished(self, action_id: str) -> None:
        del self._running[action_id]
        if action_id in self._again:
            self._again.discard(action_id)
            self._launch(action_id)

    async def _run(self, action_id: str) -> None:
        try:
            taken = await self._compute.store.write(actions.take, action_id, self._lease)
            if taken is None:
                return
            action, server = taken
            verb = VERBS[action["name"]]
            lane = self._lanes[verb.name == "delete"]
            freed = False
            try:
                async with asyncio.timeout(LANE_WAIT):
                    await lane.acquire()
                try:
                    freed = await self._compute_steps(verb, action, server)
                finally:
                    lane.release()
            finally:
                if not freed:
                    self._launch_all(await asyncio.shield(self._compute.store.write(actions.free, server["id"])))
        except TimeoutError:
            log.warning("no turn for an action; the sweep tries it again", action=action_id)
        except Exception:
            log.exception("action failed; the sweep tries it again", action=action_id)

    def _launch_all(self, action_ids: list[str]) -> None:
        for action_id in action_ids:
            self._launch(action_id)

    async def _compute_steps(self, verb: Verb, action: Row, server: Row) -> bool:
        """Go on with an action where it is; whether the server's lease was given back on the way."""
        if action["state"] == "unwinding":
            await self._unwind(action, server, Failure(**action["details"]["failure"]))
            return False
        if action["state"] == "sent":
            return await self._waiting(verb, action, server)
        if time.time() > action["deadline"]:
            await self._failed(action, server, Failure("queued", server["host"] or "", "no worker finished it in time"))
            return False
        action["stamps"]["queued"] = time.time()
        try:
            desired = await self._steps.run(verb, action, server)
        except StepFailed as failed:
            await self._failed(action, server, failed.failure)
            return False
        return desired is not None and await self._send(action, server, desired)

    async def _waiting(self, verb: Verb, action: Row, server: Row) -> bool:
        """Sent and not answered: send again, which is the question; or give up."""
        if verb.name == "delete" and "removed" in action["stamps"]:
            await self._steps.release(action, server)
            return False
        host = str(server["host"])
        down = await self._steps.down_reason(host)
        if verb.name == "delete" and down is not None:
            await self._steps.release(action, server)  # the host removes the guest when it is back: it is told then
            return False
        if down is not None or time.time() > action["deadline"]:
            cause = down or "the host did not say how it ended"
            await self._failed(action, server, Failure("sent", host, cause, retry=True))
            return False
        try:
            desired = await self._steps.desired(verb, action, server)
        except StepFailed as failed:
            await self._failed(action, server, failed.failure)
            return False
        return await self._send(action, server, desired)

    async def _send(self, action: Row, server: Row, desired: Desired) -> bool:
        """Write down that it was sent and when to ask again, then send: publish after commit."""
        wait = self._compute.settings.compute.resend_interval * 2 ** min(action["resends"], 4)
        stamps = {**action["stamps"]} if action["state"] == "sent" else {**action["stamps"], "sent": time.time()}
        values: dict[str, Any] = {
            "state": "sent",
            "stamps": stamps,
            "details": action["details"],
            "resends": action["resends"] + 1,
            "due_at": time.time() + wait,
        }
        waiting = await self._compute.store.write(outcomes.sent, action, server, values)
        if waiting is None:
            return False
        await self._compute.bus.publish(desired_subject(str(server["host"])), desired)
        self._launch_all(waiting)
        return True

    async def _failed(self, action: Row, server: Row, failure: Failure) -> None:
        """Unwind all of it, whoever says so first; an answer that comes now comes too late."""
        if await self._compute.store.write(outcomes.unwinding, action, failure):
            await self._unwind(action, server, failure)

    async def _unwind(self, action: Row, server: Row, failure: Failure) -> None:
        """Give everything back; then once more on another host, or the end."""
        await self._steps.unwind(action, server, failure)
        signal = self._compute.settings.compute.plug_signal
        if await self._compute.store.write(outcomes.failed, action, failure, signal):
            self._launch(str(action["id"]))
