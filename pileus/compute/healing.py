"""Keeps the network info cache right: reads the network anew for servers of which somebody said that they must be (at once), and for
all others now and then, since what is said may be lost. Two loops of each worker, beside everything else; the schedule is in the rows, so
any worker does what is due, and after a restart it goes on where it was."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal

import structlog

from pileus.clients.network import ServerAddress
from pileus.compute import info_cache
from pileus.compute.figures import Figures
from pileus.compute.info_cache import Read
from pileus.compute.service import Compute
from pileus.errors import PileusError

log = structlog.get_logger(__name__)

Why = Literal["event", "healing"]

LOOK = 5.0
"""Seconds between looks for what is due, more or less: the most that a lost hint costs. Healing looks often enough for its interval."""
LOOKS = 20
"""Looks of an interval, at least."""
TOGETHER = 100
"""Most servers of one transaction."""
CALLS, TURNS = 8, 4
"""Where each server is asked for by itself: so many at once, so many times that number in one transaction."""
SETTLING = 5.0
"""Seconds that a read may take beside the network service's answer; then somebody else begins it anew."""
AGAIN = 10.0
"""Seconds until what the network service did not answer is asked again."""


class Healing:
    """`alive`: whether others know that this worker lives."""

    def __init__(self, compute: Compute, alive: Callable[[], bool], figures: Figures) -> None:
        self._compute = compute
        self._settings = compute.settings.compute
        self._alive = alive
        self._figures = figures
        self._wanted = asyncio.Event()
        together = compute.network.addresses_together
        self._chunk = min(together, TOGETHER)
        self._most = TOGETHER if together > 1 else CALLS * TURNS
        self._limit = self._settings.network_limit * (1 if together > 1 else TURNS) + SETTLING

    def wake(self) -> None:
        """Somebody said that caches are stale."""
        self._wanted.set()

    async def told(self) -> None:
        """Read what somebody said is stale, for ever."""
        while True:
            try:
                async with asyncio.timeout(LOOK * random.uniform(0.5, 1.5)):  # noqa: S311 - so that workers do not look together
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            await self._while_full("event", self._due)

    async def in_turn(self) -> None:
        """Heal, for ever; nothing where it is off."""
        interval = self._settings.heal_instance_info_cache_interval
        if interval <= 0:
            return
        pause, settled = min(LOOK, interval / LOOKS), False
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - so that workers do not look together
            settled = settled or await self._settled()
            await self._while_full("healing", self._in_turn)

    async def _while_full(self, why: Why, begin: Callable[[], Awaitable[Sequence[Read]]]) -> None:
        """Turn by turn until less than a whole one was due. In process, half of the time is others': creates come first."""
        try:
            while self._alive():
                began = time.monotonic()
                reads = await begin()
                if reads:
                    await self._read(why, reads)
                if len(reads) < self._most:
                    return
                if self._chunk > 1:
                    await asyncio.sleep(time.monotonic() - began)
        except Exception:
            log.exception("network info caches could not be read; it goes on", why=why)

    async def _due(self) -> Sequence[Read]:
        store = self._compute.store
        if not await store.read(info_cache.any_due):
            return []
        return await store.write(info_cache.begin_due, time.time() + self._limit, self._most)

    async def _in_turn(self) -> Sequence[Read]:
        store = self._compute.store
        if not await store.read(info_cache.any_in_turn, self._settings):
            return []
        return await store.write(info_cache.begin_in_turn, self._settings, time.time() + self._limit, self._most)

    async def _read(self, why: Why, reads: Sequence[Read]) -> None:
        """Ask the network service, and write down what it says."""
        slots = asyncio.Semaphore(CALLS)
        chunks = [reads[start : start + self._chunk] for start in range(0, len(reads), self._chunk)]
        answers = await asyncio.gather(*[self._ask(why, slots, chunk) for chunk in chunks])
        found = {server_id: addresses for answer in answers if answer is not None for server_id, addresses in answer.items()}
        done = [read for chunk, answer in zip(chunks, answers, strict=True) if answer is not None for read in chunk]
        failed = [read for chunk, answer in zip(chunks, answers, strict=True) if answer is None for read in chunk]
        await self._compute.store.write(info_cache.end, done, found)
        if failed:
            await self._compute.store.write(info_cache.put_off, failed, time.time() + AGAIN)
        self._figures.caches(why, read=len(done), failed=len(failed), late=sum(read.late for read in reads))

    async def _ask(self, why: Why, slots: asyncio.Semaphore, reads: Sequence[Read]) -> Mapping[str, Sequence[ServerAddress]] | None:
        """None where the network service does not answer, or nothing that can be used."""
        async with slots:
            began = time.monotonic()
            try:
                async with asyncio.timeout(self._settings.network_limit):
                    return await self._compute.network.addresses([read.server_id for read in reads])
            except (PileusError, TimeoutError) as error:
                cause = error.message if isinstance(error, PileusError) else f"no answer within {self._settings.network_limit:g} s"
                log.warning("network info caches not read, trying again", servers=len(reads), cause=cause)
                return None
            except Exception:  # an answer that nobody understands keeps no other server's cache from being right
                log.exception("network info caches could not be read, trying again", servers=[read.server_id for read in reads])
                return None
            finally:
                self._figures.asked(why, time.monotonic() - began)

    async def _settled(self) -> bool:
        """What stands in the rows is of the interval that is set now; False: not yet."""
        try:
            while await self._compute.store.write(info_cache.settle, self._settings, TOGETHER):
                pass
        except PileusError as error:
            log.warning("healing could not be spread, trying again", cause=error.message)
            return False
        return True
