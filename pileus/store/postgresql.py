"""PostgreSQL by asyncpg: a few connections, each with a task of its own that runs one transaction after the other.

The caller of a transaction waits for a future, so cancelling it neither cuts the transaction nor leaks the connection. After a
deadlock, or when the connection was lost before the commit, the transaction is run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Concatenate

from pileus import metrics
from pileus.errors import Unavailable
from pileus.settings import Database
from pileus.store import P, T, Tx, is_one_statement
from pileus.store.postgresql_check import checked, process_name
from pileus.store.postgresql_link import READ, WRITE, Again, Link, Links
from pileus.store.postgresql_lock import LOCK_LIMIT, locked

LIMIT = 30.0
"""Seconds that a transaction may take once it has a connection, all its tries together."""
COLLISIONS = 12
"""Tries of a transaction that collides with others."""
FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.5
"""Seconds before the second try; twice as many before each further one."""


class _Job:
    """A transaction that somebody waits for. `begin` None: one statement, which is a transaction by itself."""

    __slots__ = ("asked_at", "begin", "fn", "future", "timer")

    def __init__(self, fn: Callable[[Tx], Any], begin: str | None, future: asyncio.Future[Any]) -> None:
        self.fn = fn
        self.begin = begin
        self.future = future
        self.asked_at = time.perf_counter()
        self.timer: asyncio.TimerHandle | None = None

    def answer(self, result: Any) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class PostgresStore:
    """See `pileus.store.Store`. Open with `PostgresStore.open`; it belongs to one event loop."""

    def __init__(self, settings: Database, links: Links) -> None:
        self._settings = settings
        self._links = links
        self._loop = asyncio.get_running_loop()
        self._workers: set[asyncio.Task[None]] = set()
        self._idle: list[asyncio.Future[_Job | None]] = []
        self._waiting: deque[_Job] = deque()
        self._running: set[_Job] = set()
        self._closed = False
        metrics.DB_POOL_SIZE.set(settings.max_pool_size)
        metrics.DB_IN_USE.set_function(lambda: len(self._running))
        metrics.DB_WAITING.set_function(lambda: len(self._waiting))

    @classmethod
    async def open(cls, settings: Database, *, role: str, processes: int = 1) -> PostgresStore:
        """Connect and check. `role` names this process to the others; `processes`: how many like it its parent runs, itself among them.

        Raises StartupError: unreachable, refused, too old, a schema that is not of today, or the pools of all Pileus processes
        together are larger than what the server has.
        """
        links = Links(settings.url, process_name(settings, role, processes))
        async with checked(settings, role, processes):
            first = await links.open()
        store = cls(settings, links)
        store._hire(None, first)
        await asyncio.sleep(0)  # so that it is idle
        return store

    async def read(self, fn: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._ask(lambda tx: fn(tx, *args, **kwargs), None if is_one_statement(fn) else READ)

    async def write(self, fn: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._ask(lambda tx: fn(tx, *args, **kwargs), WRITE)

    @contextlib.asynccontextmanager
    async def exclusive(self, name: str, *, limit: float = LOCK_LIMIT) -> AsyncIterator[None]:
        async with locked(self._settings.url, name, limit):
            yield

    async def close(self) -> None:
        """What has been asked for is finished first."""
        self._closed = True
        for idle in self._idle:
            if not idle.done():
                idle.set_result(None)
        if self._workers:
            await asyncio.wait(self._workers, timeout=LIMIT)
        workers = list(self._workers)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        await self._links.close()
        for gauge in (metrics.DB_IN_USE, metrics.DB_WAITING):
            gauge.set_function(lambda: 0)

    async def _ask(self, fn: Callable[[Tx], T], begin: str | None) -> T:
        if self._closed:
            raise Unavailable("the database is closed: Pileus is ending")
        job = _Job(fn, begin, self._loop.create_future())
        if self._idle:
            self._idle.pop().set_result(job)  # the one that ran last: its caches are warm, and others need not be opened
        elif len(self._workers) < self._settings.max_pool_size and len(self._waiting) >= self._finishing():
            self._hire(job, None)
        else:
            job.timer = self._loop.call_later(self._settings.pool_timeout, self._give_up, job)
            self._waiting.append(job)
        result: T = await job.future
        return result

    def _finishing(self) -> int:
        """Connections that have answered and are about to be free: to open another would take a hundred times longer."""
        return sum(job.future.done() and not job.future.cancelled() for job in self._running)

    def _give_up(self, job: _Job) -> None:
        with contextlib.suppress(ValueError):
            self._waiting.remove(job)
        if not job.future.done():
            _count_wait(job)
            metrics.DB_TIMEOUTS.inc()
            size, limit = self._settings.max_pool_size, self._settings.pool_timeout
            job.fail(
                Unavailable(
                    f"no database connection was free within {limit:g} s (database.pool_timeout): all {size} of this process are in use; "
                    "try again, and if it stays so raise database.max_pool_size or run more processes"
                )
            )

    def _hire(self, job: _Job | None, link: Link | None) -> None:
        worker = asyncio.create_task(self._work(job, link), name="store-connection")
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)

    async def _work(self, job: _Job | None, link: Link | None) -> None:
        """One place of the pool: job after job, until the store closes."""
        try:
            while (job := job or self._waited() or await self._hired()) is not None:
                if not job.future.done():
                    _count_wait(job)
                    begun = time.perf_counter()
                    self._running.add(job)
                    try:
                        link = await self._serve(job, link)
                    finally:
                        self._running.discard(job)
                        metrics.DB_RUN.observe(time.perf_counter() - begun)
                job = None
        finally:
            if job is not None:
                job.fail(Unavailable("the database is closed: Pileus is ending"))
            if link is not None:
                await link.close()

    def _waited(self) -> _Job | None:
        """Who has waited longest."""
        if not self._waiting:
            return None
        job = self._waiting.popleft()
        if job.timer is not None:
            job.timer.cancel()
        return job

    async def _hired(self) -> _Job | None:
        """Wait for a job; None: the store closes."""
        if self._closed:
            return None
        idle: asyncio.Future[_Job | None] = self._loop.create_future()
        self._idle.append(idle)
        return await idle

    async def _serve(self, job: _Job, link: Link | None) -> Link | None:
        """Run a job until it is answered. The connection to go on with, if there still is one."""
        last: Again | None = None
        collisions, pause = 0, FIRST_PAUSE
        try:
            async with asyncio.timeout(LIMIT):
                while not job.future.done():
                    try:
                        if link is None or link.lost:
                            link = await self._renewed(link)
                        await link.transact(job.fn, job.begin, job.answer)
                    except Again as again:
                        last = again
                        metrics.DB_RETRIES.labels(again.why).inc()
                        collisions += again.why == "collided"
                        if collisions >= COLLISIONS:
                            raise Unavailable(f"a change collided with others {collisions} times ({again}); try again") from None
                        await asyncio.sleep(random.uniform(0.5, 1) * pause)  # noqa: S311
                        pause = min(2 * pause, LONGEST_PAUSE)
        except TimeoutError:
            if link is not None:
                link.abort()
            job.fail(Unavailable(f"the database did not answer within {LIMIT:.0f} s{f' ({last})' if last else ''}; try again"))
        except Exception as error:
            job.fail(error)
        except BaseException:
            if link is not None:
                link.abort()
            job.fail(Unavailable("the database is closed: Pileus is ending"))
            raise
        return link

    async def _renewed(self, link: Link | None) -> Link:
        if link is not None:
            await link.close()
        return await self._links.open()


def _count_wait(job: _Job) -> None:
    metrics.DB_WAIT.observe(time.perf_counter() - job.asked_at)
