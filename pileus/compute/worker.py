"""The worker: computes actions, tells hosts, and writes down what hosts observed.

An action is leased only while its steps are computed; waiting for a host is a row with a `due_at` (law 2). Every step may run
again: claims and ports are idempotent by server, generation and host. Any number of workers share one database and one bus.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import structlog

from pileus.bus import Subscription
from pileus.compute import actions, admission, deletes, leases, outcomes
from pileus.compute.actions import Stale
from pileus.compute.admitter import Admitter
from pileus.compute.computing import Computing
from pileus.compute.deleter import Deleter
from pileus.compute.figures import Figures
from pileus.compute.healing import Healing
from pileus.compute.lanes import Lane
from pileus.compute.leaks import Leaks
from pileus.compute.leases import Taken
from pileus.compute.lifecycle import VERBS
from pileus.compute.scheduler import Scheduler
from pileus.compute.service import Compute
from pileus.compute.steps import LeaseLost, Steps
from pileus.messages import (
    ACTIONS,
    OBSERVED,
    PROGRESS,
    READINESS,
    ActionHint,
    Observed,
    Progress,
    Readiness,
    ReadinessRequest,
    desired_subject,
    from_hosts,
)
from pileus.store import Tx
from pileus.store.sql import Row

log = structlog.get_logger(__name__)

Said = TypeVar("Said", Observed, Progress)

LANE_WAIT = 10.0
"""Seconds that an action waits for its turn with its lease in hand; then it gives it back and is due as before."""
COUNTED = 5.0
"""Seconds between counts of all creates, for the figures."""
SWEEP = 0.5
"""Seconds between looks for what is due: the most that a lost hint costs."""
BATCH = 64
QUEUED = ("waiting", "blocked")
BUILDERS = 16
"""Actions computed at once: what keeps one process busy while each waits for the database. More would wait in the middle, as a step that
takes long, instead of in the queue."""
DELETERS = 8
"""Deletes computed at once, in a lane of their own (law 3)."""
CREATES_REMEMBERED = 1.0
"""Seconds from the last create for which deletes give way."""
FIRST, LONGEST = 0.015, 0.03
"""Seconds that a create which just began has for itself, and the most that a turn of a delete waits for such a moment to pass."""
TURNS = 2
"""Of a delete: its host is told, and what the server held is given back."""


class Worker:
    """`exclusive`: no other worker uses this database (`pileus up`), so leases that are found at the start are a dead one's."""

    def __init__(self, compute: Compute, scheduler: Scheduler, *, exclusive: bool) -> None:
        self.id = str(uuid.uuid4())
        self._compute = compute
        self._scheduler = scheduler
        self._figures = Figures(bool(compute.settings.metrics.listen))
        self._steps = Steps(compute, scheduler, self._alive, self._figures, self._gap)
        self._exclusive = exclusive
        limits = compute.settings.compute
        # Longer than its steps can take, all limits reached: a lease that ran out would let a delete overtake a claim.
        self._lease = LANE_WAIT + 2 * (limits.schedule_limit + 4 * limits.network_limit)
        self._closing = False
        self._beaten_at = 0.0
        self._running: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._leased: dict[str, Taken] = {}
        self._lanes = {True: Lane(DELETERS), False: Lane(BUILDERS)}
        self._created_at = -CREATES_REMEMBERED
        self._paced = limits.deletes_beside_creates > 0
        rate = TURNS * limits.deletes_beside_creates
        self._deleter = Deleter(self._begin_deletes, self._lanes[True], self._creating, self._gap, rate)
        self._admitter = Admitter(compute, scheduler, self.id, self._lease, self._lanes[False], self._let_in)
        self._computing = Computing(compute, scheduler, self._steps, self._admitter, self._figures, self._launch)
        self._leaks = Leaks(compute)
        self._healing = Healing(compute, self._alive, self._figures)
        self._subscriptions: list[Subscription] = []
        self._loops: list[asyncio.Task[None]] = []
        self._look_now = asyncio.Event()
        self._forget: Callable[[], None] = _nothing

    async def start(self) -> None:
        await self._compute.store.write(_join, self.id, self._exclusive)
        self._beaten_at = time.time()
        self._scheduler.on_room = self._admitter.room
        bus = self._compute.bus
        self._subscriptions = [
            bus.subscribe(ACTIONS, ActionHint, self._hinted, queue="workers"),
            bus.subscribe(from_hosts(OBSERVED), Observed, self.observed, queue="workers", concurrency=BUILDERS),
            bus.subscribe(from_hosts(PROGRESS), Progress, self._progress, queue="workers", concurrency=8),
            bus.serve(from_hosts(READINESS), ReadinessRequest, self._readiness, queue="workers", concurrency=8),
        ]
        self._forget = bus.on_reconnect(self._reconnected)
        loops = {
            "due-sweep": self._sweep(),
            "worker-beat": self._beat(),
            "admission": self._admitter.run(),
            "deletes": self._deleter.run(),
            "leaks": self._leaks.run(),
            "info-caches": self._healing.told(),
            "healing": self._healing.in_turn(),
        }
        self._loops = [asyncio.create_task(work, name=name) for name, work in loops.items()]

    async def close(self) -> None:
        """Stop computing; what was under way goes on where it was with another worker, at once."""
        await self._end()
        await self._compute.store.write(leases.leave, self.id)

    async def _end(self) -> None:
        self._closing = True
        self._forget()
        for subscription in self._subscriptions:
            await subscription.close()
        tasks = [*self._running.values(), *self._loops]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def observed(self, message: Observed) -> None:
        """A host reached a generation, or failed to; or tells of a guest unasked."""
        message = self._kept(message)
        later = message.power == "absent" and self._paced and self._creating()
        try:
            wanted, leased = await self._compute.store.write(_take, message, self.id, 0.0 if later else self._lease)
        except Stale:
            return
        if leased is not None:
            self._begin(leased)
            return
        if wanted is None:
            return
        action = wanted.action
        if wanted.failure is not None:
            if await self._compute.store.write(outcomes.unwinding, action, wanted.failure, again_in=0.0):
                self._ended(action, message.host)
                self._launch(str(action["id"]))
        elif VERBS[action["name"]].plan[-1] == "release":
            self._deleter.wake()
        else:
            self._figures.done(action)
            self._ended(action, message.host)
            await self._steps.left(action, wanted.server)

    async def _progress(self, message: Progress) -> None:
        hold = self._compute.settings.compute.hold_build_slot
        if await self._compute.store.write(outcomes.progress, self._kept(message), hold=hold):
            self._scheduler.ended(message.host)
            self._admitter.ended()

    def _kept(self, message: Said) -> Said:
        """What is written down of a host's word: of its steps, nothing where nobody is to be told."""
        return message if self._compute.settings.compute.explain else msgspec.structs.replace(message, stamps={})

    def _ended(self, action: Row, host: str) -> None:
        """An answer came; of a create that counted as a build, another one may begin in its place."""
        if action["name"] == "create":
            if action["state"] == "sent" or action["state"] == "unwinding":
                self._scheduler.ended(host)
            self._admitter.ended()

    async def _hinted(self, hint: ActionHint) -> None:
        if hint.waiting:
            self._created_at = asyncio.get_running_loop().time()
            self._admitter.wake()
        if hint.deletes:
            self._deleter.wake()
        if hint.stale:
            self._healing.wake()
        for action_id in hint.ids:
            self._launch(action_id)

    async def _readiness(self, request: ReadinessRequest) -> Readiness:
        found = await self._compute.network.readiness(request.port_ids, host=request.host)
        return Readiness({p.port_id: p.wired for p in found}, {p.port_id: p.failed for p in found})

    def _alive(self) -> bool:
        """Do others know that we live? A process that was stopped must not go on with what it had before it said so."""
        return time.time() - self._beaten_at < leases.ALIVE - leases.BEAT / 2

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(leases.BEAT)
            try:
                at = time.time()
                await self._compute.store.write(leases.beat, self.id)
                self._beaten_at = at
            except Exception:
                log.exception("worker could not say that it lives; it tries again")

    async def _reconnected(self) -> None:
        """What was said meanwhile is lost: whoever was asked several times in vain is asked now."""
        if await self._compute.store.write(actions.ask_soon, self._compute.settings.compute.resend_interval):
            self._look_now.set()

    async def _sweep(self) -> None:
        purge_at = counted_at = time.monotonic()
        while True:
            try:
                if self._alive():
                    await self._look()
                if self._figures.shown and time.monotonic() >= counted_at:
                    counted_at = time.monotonic() + COUNTED
                    self._figures.creates(await self._compute.store.read(admission.counts))
                if time.monotonic() >= purge_at:
                    purge_at = time.monotonic() + 3600
                    await self._compute.store.write(_purge, time.time() - self._compute.settings.compute.deleted_retention)
            except Exception:
                log.exception("sweep failed; it goes on")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SWEEP):
                    await self._look_now.wait()
            self._look_now.clear()

    async def _look(self) -> None:
        """Compute what is due and nobody computes, as much as there are places for; and whoever waits to be let in."""
        due, queue = await self._compute.store.read(_look)
        self._admitter.told(queue)
        if queue.blocked:
            await self._scheduler.fresh()
        if not due:
            return
        self._deleter.wake()
        if most := min(BATCH, self._lanes[False].free):
            for taken in await self._compute.store.write(leases.take_due, self.id, self._lease, deletes=False, most=most):
                self._begin(taken)

    async def _begin_deletes(self, most: int) -> int:
        """Begin deletes that are due, at most so many; how many were."""
        again_in = self._compute.settings.compute.resend_interval
        begun = await self._compute.store.write(deletes.begin, self.id, self._lease, most=most, again_in=again_in)
        for action, server in begun.told:
            await self._compute.bus.publish(desired_subject(server["host"]), self._steps.order(VERBS["delete"], action, server))
        for taken in begun.others:
            self._begin(taken)
        return len(begun.told) + len(begun.others)

    def _let_in(self, batch: list[Taken]) -> None:
        self._figures.let_in(batch)
        for taken in batch:
            self._begin(taken)

    def _creating(self) -> bool:
        return asyncio.get_running_loop().time() - self._created_at < CREATES_REMEMBERED

    async def _gap(self) -> None:
        """Wait until no create has just begun, a moment at most: a delete can, and whoever waits for a server can't."""
        loop = asyncio.get_running_loop()
        end = loop.time() + LONGEST
        while (until := min(end, self._created_at + FIRST)) > loop.time():  # noqa: ASYNC110 - the moment moves on
            await asyncio.sleep(max(until - loop.time(), 0.001))  # a clock that stands still between turns would never get there

    def _begin(self, taken: Taken) -> None:
        """Compute an action that is leased, with a place in its lane."""
        action_id = str(taken[0]["id"])
        if self._closing:
            return
        if taken[0]["name"] == "create":
            self._created_at = asyncio.get_running_loop().time()
        if action_id in self._running:
            self._leased[action_id] = taken  # a hint was quicker to begin, and finds it leased: its end is near
        else:
            place = self._lanes[taken[0]["name"] == "delete"].reserve()
            self._start(action_id, self._run(action_id, taken, place=place))

    def _launch(self, action_id: str) -> None:
        """Run an action; one that runs already runs once more afterwards, so that no hint is lost."""
        if self._closing:
            return
        if action_id in self._running:
            self._again.add(action_id)
        else:
            self._start(action_id, self._run(action_id))

    def _start(self, action_id: str, work: Any) -> None:
        task = asyncio.create_task(work, name=f"action-{action_id}")
        self._running[action_id] = task
        task.add_done_callback(lambda _: self._finished(action_id))

    def _finished(self, action_id: str) -> None:
        del self._running[action_id]
        if (taken := self._leased.pop(action_id, None)) is not None:
            self._begin(taken)
        elif action_id in self._again:
            self._again.discard(action_id)
            self._launch(action_id)

    async def _run(self, action_id: str, taken: Taken | None = None, *, place: bool = False) -> None:
        lost = False
        try:
            if taken is None:
                taken = await self._compute.store.write(leases.take, action_id, self.id, self._lease)
            if taken is not None:
                lost = await self._run_leased(taken, place)
        except TimeoutError:
            log.warning("no turn for an action; the sweep tries it again", action=action_id)
        except Exception:
            log.exception("action failed; the sweep tries it again", action=action_id)
        if lost and taken is not None:
            await self._settle(str(taken[1]["id"]))

    async def _run_leased(self, taken: Taken, place: bool) -> bool:
        """Compute with the lease in hand, and give it back; whether it was lost."""
        action, server = taken
        verb = VERBS[action["name"]]
        lane = self._lanes[verb.name == "delete"]
        held = {**server}
        freed = False
        try:
            if not place:
                async with asyncio.timeout(LANE_WAIT):
                    await lane.acquire()
            try:
                freed = await self._computing.go_on(verb, action, server)
            finally:
                lane.release()
                (self._deleter if verb.name == "delete" else self._admitter).ended_computing()
            return False
        except (Stale, LeaseLost):
            log.info("an action was taken over meanwhile", action=action["id"])
            return True
        finally:
            if not freed:
                self._launch_all(await asyncio.shield(self._compute.store.write(leases.free, held, but=action["id"])))

    def _launch_all(self, action_ids: list[str]) -> None:
        for action_id in action_ids:
            self._launch(action_id)

    async def _settle(self, server_id: str) -> None:
        """What was done here for a server under a lease that is lost: what the server does not hold goes back.

        Whoever has the lease now makes it good: claims are moved, ports bound anew.
        """
        server = await self._compute.store.write(leases.take_server, server_id, self.id, self._lease)
        if server is None:
            return
        try:
            action = await self._compute.store.read(actions.open_of, server_id)
            if server["deleted_at"] is not None or (server["host"] is None and (action is None or action["state"] in QUEUED)):
                await self._steps.give_back(server)
            elif server["host"] is not None:
                await self._steps.claim_again(server, server["host"])
        except Exception:
            log.exception("what a lost lease left was not given back; it is looked for later", server=server_id)
        finally:
            self._launch_all(await asyncio.shield(self._compute.store.write(leases.free, server, but="")))


def _nothing() -> None:
    pass


def _join(tx: Tx, worker: str, exclusive: bool) -> None:
    if exclusive:
        leases.begin_anew(tx)
        actions.begin_anew(tx)
    leases.join(tx, worker)


def _take(tx: Tx, message: Observed, worker: str, seconds: float) -> tuple[outcomes.Taken | None, Taken | None]:
    """What an answer ends; and where something follows it that is computed (a deleted server's release), the lease for that. 0 `seconds`:
    none, it waits for its turn."""
    wanted = outcomes.take(tx, message)
    if not seconds or wanted is None or wanted.failure is not None or VERBS[wanted.action["name"]].plan[-1] != "release":
        return wanted, None
    return wanted, leases.take(tx, wanted.action["id"], worker, seconds)


def _look(tx: Tx) -> tuple[bool, admission.Waiting]:
    return leases.any_due(tx), admission.any_in_queue(tx)


def _purge(tx: Tx, before: float) -> None:
    actions.purge(tx, before)
    leases.forget_dead(tx)
