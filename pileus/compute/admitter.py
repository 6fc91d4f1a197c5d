"""Lets creates in on behalf of one worker: one transaction at a time, however many hints come, and a batch with each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import structlog

from pileus.compute import admission
from pileus.compute.lanes import Lane
from pileus.compute.leases import Taken
from pileus.compute.scheduler import Scheduler
from pileus.compute.service import Compute

log = structlog.get_logger(__name__)

ROOM = 16
"""Blocked creates that go on when there is room again: what one change of capacity costs at most."""
ROOM_OF_BUILD = 2
"""Those that go on when one build ended."""
BUSY = 0.01
"""Seconds until the next try while another worker lets creates in, more or less."""
AFTER_ERROR = 0.5


class Admitter:
    """`begin` computes what was let in; each has a place in the lane already."""

    def __init__(
        self, compute: Compute, scheduler: Scheduler, worker: str, lease: float, lane: Lane, begin: Callable[[list[Taken]], None]
    ) -> None:
        self._compute = compute
        self._scheduler = scheduler
        self._worker = worker
        self._lease = lease
        self._lane = lane
        self._begin = begin
        self._wanted = asyncio.Event()
        self._more = False
        """There were perhaps more than could be let in."""
        self._blocked = False
        """Some are blocked, as far as is known here."""
        self._newly = False
        """One was since the last sweep, which may have looked before that."""
        self._room = 0
        self.unused = 0
        """Room, in all, that came while nobody was there to use it: whoever was being computed meanwhile may not have seen it."""
        self._after = -1

    def wake(self) -> None:
        """Creates wait for their turn."""
        self._wanted.set()

    def ended(self) -> None:
        """A build ended, or is parked: another one may begin."""
        if self._more:
            self.wake()
        self.room(ROOM_OF_BUILD)

    def ended_computing(self) -> None:
        """There is a place in the lane again."""
        if self._more:
            self.wake()

    def room(self, most: int = ROOM) -> None:
        """There is room on some host again: blocked creates may go on."""
        if self._blocked:
            self._room = min(ROOM, self._room + most)
            self.wake()
        else:
            self.unused += most

    def told(self, queue: admission.Waiting) -> None:
        """What the sweep saw."""
        self._blocked, self._newly = queue.blocked or self._newly, False
        if queue.waiting:
            self.wake()

    def is_blocked(self, unused_before: int) -> None:
        """One more is blocked; when its computing began, `unused` was so."""
        self._blocked = self._newly = True
        if (missed := self.unused - unused_before) > 0:
            self.room(missed)

    async def run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._admit()
            except Exception:
                log.exception("letting creates in failed; it goes on")
                await asyncio.sleep(AFTER_ERROR)
                self.wake()

    async def _admit(self) -> None:
        settings, store = self._compute.settings, self._compute.store
        limits = settings.compute
        if self._room:
            most, self._room = self._room, 0
            count, self._after = await store.write(admission.unblock, most=most, after=self._after, limit=limits.queue_limit)
            self.unused += most - count
        if self._lane.free <= 0:
            self._more = True
            return
        await self._scheduler.fresh()
        found = await store.write(
            admission.admit,
            self._worker,
            lease=self._lease,
            limit=_least(limits.max_builds, self._scheduler.build_room()),
            most=self._lane.free,
            deadline=self._compute.create_limit,
            rates=settings.quota.queued_creates >= 0,
        )
        if found is None:
            await asyncio.sleep(BUSY * random.uniform(0.5, 1.5))  # noqa: S311 - so that workers do not come together again
            self.wake()
            return
        self._more = found.full
        self._begin(found.batch)


def _least(one: int, other: int) -> int:
    """The lesser limit; 0 is none."""
    return min(one, other) if one and other else one or other
