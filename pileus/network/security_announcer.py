"""Tells hosts what the security groups of their ports let pass: answers their questions, and tells those who read something that it has
changed: rules at once, addresses gathered.

A message is only a hint: hosts ask again now and then.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence

import structlog

from pileus.bus import Bus, Subscription
from pileus.errors import PileusError
from pileus.messages import SECURITY, Security, SecurityChanged, SecurityRequest, SetChange, from_hosts, security_subject
from pileus.network import security_members, security_readers
from pileus.settings import Network
from pileus.store import Store

log = structlog.get_logger(__name__)

QUEUE = "network-rpc"
IDLE = 2.0
"""Seconds after which it is looked for changes though nobody said that there are: of an address that goes nobody hears."""
AGAIN = 1.0
AT_ONCE = 10
"""Hosts told in one go: all of them at once would keep everybody else waiting for a moment, again and again."""


class SecurityAnnouncer:
    def __init__(self, store: Store, bus: Bus, settings: Network) -> None:
        self._store = store
        self._bus = bus
        self._settings = settings
        self._some = asyncio.Event()
        self._forget_at = 0.0
        self._subscription: Subscription | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        at_once = self._settings.executor_thread_pool_size
        self._subscription = self._bus.serve(from_hosts(SECURITY), SecurityRequest, self._asked, queue=QUEUE, concurrency=at_once)
        self._task = asyncio.create_task(self._run(), name="security-announcer")

    async def close(self) -> None:
        if self._subscription is not None:
            await self._subscription.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def wake(self) -> None:
        """A port has become ready: there may be addresses that others are to know soon."""
        self._some.set()

    async def _asked(self, question: SecurityRequest) -> Security:
        answer = await self._store.read(security_readers.asked, question)
        if question.groups or answer.new or answer.old:
            await self._store.write(security_readers.register, question.host, question.number, answer.new, answer.old)
        if answer.new:
            answer = await self._store.read(security_readers.asked, question)
            self._some.set()
        return answer.security

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(IDLE):
                    await self._some.wait()
                await asyncio.sleep(self._settings.members_gather)
            except TimeoutError:
                pass
            self._some.clear()
            try:
                await self._look()
            except PileusError as error:
                log.warning("changes of security groups' members not read, trying again", cause=error.message)
                await asyncio.sleep(AGAIN)
            except Exception:
                log.exception("security announcer failed, trying again")
                await asyncio.sleep(AGAIN)

    async def _look(self) -> None:
        """Tell all that is due; forget the dead now and then."""
        while (due := await self._store.read(security_members.next_due)) is not None and due <= time.time():
            told = await self._store.write(security_members.sweep, time.time(), self._settings.members_rate)
            if told is None:
                return  # another one is at it
            await tell_sets(self._store, self._bus, told, rate=self._settings.members_rate)
        if time.monotonic() >= self._forget_at:
            self._forget_at = time.monotonic() + self._settings.members_interval
            await self._store.write(security_readers.forget_dead, self._settings.agent_down_time)


async def tell_sets(store: Store, bus: Bus, changes: Sequence[SetChange], *, rate: float = math.inf) -> None:
    """To each host, in one message, what it reads of these; so many hosts a second, some at a time."""
    reading = await store.read(security_readers.readers, [change.set_id for change in changes])
    by_host: dict[str, list[SetChange]] = {}
    for change in changes:
        for host in reading.get(change.set_id, ()):
            by_host.setdefault(host, []).append(change)
    for count, (host, told) in enumerate(by_host.items()):
        if count and count % AT_ONCE == 0:
            await asyncio.sleep(AT_ONCE / rate)
        await bus.publish(security_subject(host), SecurityChanged([], told))


async def tell_rules(store: Store, bus: Bus, group_ids: Sequence[str]) -> None:
    """To each host, in one message, the rules of those of these groups that it reads."""
    if group_ids:
        for host, told in (await store.read(security_readers.of_rules, group_ids)).items():
            await bus.publish(security_subject(host), SecurityChanged(told, []))
