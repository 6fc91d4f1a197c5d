"""Tells the compute service of ports: from the outbox, in batches, until delivered or overtaken, or `once` (once.py).

What is to be told stands in the outbox since the transaction that changed the port, so being killed loses none of it: what a notifier
had taken is due again when its lease is over. Any number of notifiers share the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence

import structlog

from pileus.clients.compute import ComputeEvents, Delivery, ExternalEvent
from pileus.errors import PileusError
from pileus.network import once, outbox
from pileus.store import Store
from pileus.store.sql import Row

log = structlog.get_logger(__name__)

BATCH = 200
FIRST_RETRY, LAST_RETRY = 0.1, 10.0
NOT_THERE = (404, 422)
"""Server unknown, or on no host yet: it may come."""
MOST_NOT_THERE = 20
"""Tries of an event for a server that is not there: about three minutes of waiting."""
BUSY = 0.1
"""Seconds until we look again where another notifier was taking all that was due."""
SETTLING = 1.0
"""Seconds that the lease of a batch outlasts its delivery: to write down what became of it."""
IDLE = 30.0
"""Seconds after which the outbox is looked at though nobody said that something is in it."""


class Notifier:
    """`interval`: after a batch, events are gathered for so long before the next (s). `limit`: of one delivery (s). `at_most_once`:
    as Neutron's notifier."""

    def __init__(self, store: Store, events: ComputeEvents, *, interval: float, limit: float, at_most_once: bool = False) -> None:
        self._store = store
        self._events = events
        self._interval = interval
        self._limit = limit
        self._turn = self._once if at_most_once else self._until_delivered
        self._some = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._taken: list[Row] = []

    async def start(self) -> None:
        self._some.set()  # whatever an earlier life left in the outbox
        self._task = asyncio.create_task(self._run(), name="network-notifier")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._taken:  # cut off while sending: another notifier need not wait for the lease
            now, taken = time.time(), self._taken
            self._taken = []
            with contextlib.suppress(PileusError):
                await self._store.write(outbox.settle, [], [(row, now) for row in taken])

    def wake(self) -> None:
        """Something was put into the outbox."""
        self._some.set()

    async def _run(self) -> None:
        wait = IDLE
        while True:
            try:
                async with asyncio.timeout(wait):
                    await self._some.wait()
            except TimeoutError:
                pass
            self._some.clear()
            try:
                wait = await self._turn()
            except PileusError as error:  # the database: the outbox stays as it is
                log.warning("outbox not read or written, trying again", cause=error.message)
                wait = LAST_RETRY
            except Exception:
                log.exception("notifier failed, trying again")
                wait = LAST_RETRY

    async def _until_delivered(self) -> float:
        """Deliver what is due; seconds until something is due again."""
        now = time.time()
        next_due = await self._store.read(outbox.next_due)
        if next_due is None:
            return IDLE
        if next_due > now:
            return min(IDLE, next_due - now)
        due = await self._store.write(outbox.take, now, now + self._limit + SETTLING, BATCH)
        if not due:
            return BUSY
        self._taken = due
        done, again = await self._deliver(due)
        await self._store.write(outbox.settle, done, again)
        self._taken = []
        await asyncio.sleep(self._interval)
        return 0.0

    async def _once(self) -> float:
        """The same with what is noted, as if it had only been in memory: the database is asked once, and told nothing."""
        due = await self._store.write(outbox.take_out, time.time(), BATCH)
        if not due:
            return IDLE
        await once.tell(self._events, [_event(row) for row in due], limit=self._limit)
        await asyncio.sleep(self._interval)
        return 0.0

    async def _deliver(self, due: Sequence[Row]) -> tuple[list[Row], list[tuple[Row, float]]]:
        """What is done with, and what is to be tried again at which time."""
        try:
            async with asyncio.timeout(self._limit):
                answers = await self._events.send([_event(row) for row in due])
        except (PileusError, OSError) as error:  # TimeoutError is an OSError
            log.warning("compute not told, trying again", events=len(due), cause=str(error) or type(error).__name__)
            return [], [(row, _later(row)) for row in due]
        by_event = {answer.event: answer for answer in answers}
        done: list[Row] = []
        again: list[tuple[Row, float]] = []
        for row in due:
            if _settled(row, by_event.get(_event(row))):
                done.append(row)
            else:
                again.append((row, _later(row)))
        return done, again


def _settled(row: Row, answer: Delivery | None) -> bool:
    """Is there nothing left to try? An event without an answer counts as not delivered."""
    if answer is None:
        return False
    if answer.code not in NOT_THERE:
        if answer.code != 200:
            log.error("compute refused an event", name=row["name"], port=row["port_id"], server=row["server_id"], code=answer.code)
        return True
    if row["kind"] == "change" or row["name"] == "network-vif-unplugged":
        return True  # of a server that is gone nobody keeps anything; one that comes is read when it does
    if row["attempts"] + 1 < MOST_NOT_THERE:
        return False
    log.error("compute does not know the server, giving up", name=row["name"], port=row["port_id"], server=row["server_id"])
    return True


def _event(row: Row) -> ExternalEvent:
    """As Neutron says it: the events API has no name for a port that failed, it is `network-vif-plugged` with status failed."""
    if row["name"] == "network-vif-failed":
        return ExternalEvent("network-vif-plugged", row["server_id"], "failed", row["port_id"])
    return ExternalEvent(row["name"], row["server_id"], "completed", row["port_id"])


def _later(row: Row) -> float:
    backoff: float = min(LAST_RETRY, FIRST_RETRY * 2.0 ** min(row["attempts"], 20))
    return time.time() + backoff * random.uniform(0.75, 1.0)  # noqa: S311 spreads retries, guards nothing
