"""Tells hosts which other hosts share a network with them: answers their questions, and lets the others know of who comes and goes.

Changes are gathered for a moment (`network.members_gather`), so that each host is sent one message for all of them: hosts that come by
the hundred are a few messages each, not one for every pair. A message is only a hint: hosts ask again now and then.
"""

from __future__ import annotations

import asyncio

import structlog

from pileus.bus import Bus, Subscription
from pileus.errors import PileusError
from pileus.messages import MEMBERS, Members, MembersChanged, MembersRequest, from_hosts, members_subject
from pileus.network import members
from pileus.settings import Network
from pileus.store import Store

log = structlog.get_logger(__name__)

QUEUE = "network-rpc"
IDLE = 2.0
"""Seconds after which it is looked for changes though nobody asked: of a host that leaves nobody hears."""
AGAIN = 1.0


class Announcer:
    def __init__(self, store: Store, bus: Bus, settings: Network) -> None:
        self._store = store
        self._bus = bus
        self._gather = settings.members_gather
        self._at_once = settings.executor_thread_pool_size
        self._some = asyncio.Event()
        self._subscription: Subscription | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._subscription = self._bus.serve(from_hosts(MEMBERS), MembersRequest, self._asked, queue=QUEUE, concurrency=self._at_once)
        self._task = asyncio.create_task(self._run(), name="network-announcer")

    async def close(self) -> None:
        if self._subscription is not None:
            await self._subscription.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _asked(self, question: MembersRequest) -> Members:
        """A host that asks has most often just come: the others are to know soon."""
        answer, moved = await self._store.read(members.asked, question)
        if moved:
            await self._store.write(members.moved, question.host, question.address)
        if moved or answer.networks:
            self._some.set()
        return answer

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(IDLE):
                    await self._some.wait()
                await asyncio.sleep(self._gather)
            except TimeoutError:
                pass
            self._some.clear()
            try:
                while await self._store.read(members.news) and await self._tell():
                    pass
            except PileusError as error:
                log.warning("changes of networks' members not read, trying again", cause=error.message)
                await asyncio.sleep(AGAIN)
            except Exception:
                log.exception("announcer failed, trying again")
                await asyncio.sleep(AGAIN)

    async def _tell(self) -> bool:
        """Is there perhaps more?"""
        told = await self._store.write(members.sweep)
        for host, changes in (told or {}).items():
            await self._bus.publish(members_subject(host), MembersChanged(changes))
        return told is not None
