"""The heartbeat of one part of a host: its facts at the start, when they change and when asked; else a few bytes.

Whoever takes the beats compares the mark of the facts with the one written down and asks when it is another, so no word that is lost
matters for long: after its start a part beats a few times soon, since a host whose first word was lost is not known at all. Then its beats
come at a random moment of the interval: hosts that start together do not beat together.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Callable
from itertools import chain, repeat
from typing import Generic, TypeVar

import msgspec
import structlog

from pileus.bus import Bus
from pileus.messages import AGENT, AGENT_BEAT, BEAT, HEARTBEAT, AgentBeat, AgentFacts, HostBeat, HostFacts, from_host

log = structlog.get_logger(__name__)

Facts = TypeVar("Facts", HostFacts, AgentFacts)

EARLY = (2.0, 4.0, 8.0)
"""Seconds, at most, from a start to a beat, from it to the next and to the one after: long enough for a control plane to have written
down what many hosts that start at once have told, so that it need not ask them again."""
COUNTED = {"guests": 0, "started_at": 0.0, "mark": 0}
"""What beats tell themselves, so that a change of it makes no facts new."""


def marked(facts: Facts) -> Facts:
    """The facts with the mark that tells them from others."""
    same = {name: value for name, value in COUNTED.items() if name in facts.__struct_fields__}
    return msgspec.structs.replace(facts, mark=zlib.crc32(msgspec.msgpack.encode(msgspec.structs.replace(facts, **same))))


class Heartbeat(Generic[Facts]):
    """`facts` is asked before every beat (seconds of `interval` apart); it must not wait for anything."""

    def __init__(self, bus: Bus, interval: float, facts: Callable[[], Facts]) -> None:
        self._bus = bus
        self._interval = interval
        self._facts: Callable[[], Facts] = facts
        self._told = -1
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Say what there is, then go on beating."""
        await self.tell()
        self._task = asyncio.create_task(self._run(), name="heartbeat")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def tell(self) -> None:
        """All the facts, now."""
        facts = marked(self._facts())
        await self._bus.publish(from_host(facts.host, HEARTBEAT if isinstance(facts, HostFacts) else AGENT), facts)
        self._told = facts.mark

    async def beat(self) -> None:
        """The facts where they have changed, else a short beat."""
        facts = marked(self._facts())
        if facts.mark != self._told:
            await self.tell()
        elif isinstance(facts, HostFacts):
            await self._bus.publish(from_host(facts.host, BEAT), HostBeat(facts.host, facts.mark, facts.started_at, facts.guests))
        else:
            await self._bus.publish(from_host(facts.host, AGENT_BEAT), AgentBeat(facts.host, facts.mark, facts.started_at))

    async def _run(self) -> None:
        pauses = chain(_first_pauses(self._interval), repeat(self._interval))
        for pause in pauses:
            await asyncio.sleep(pause)
            try:
                await self.beat()
            except Exception:
                log.exception("no heartbeat; the next one follows")


def _first_pauses(interval: float) -> list[float]:
    early = [random.uniform(0.5, 1.0) * min(pause, interval) for pause in EARLY]  # noqa: S311 - no secret
    return [*early, random.uniform(0, interval)]  # noqa: S311 - a phase, no secret
