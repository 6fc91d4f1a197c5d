"""What `Switch.watch()` returns: ports as they change, for a consumer that may be slow."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Iterable

from pileus.host.switch import SwitchPort


class Watch(AsyncIterator[SwitchPort]):
    """Holds the newest state of each port that the consumer has not seen yet: nothing is lost, nothing piles up."""

    def __init__(self, standing: Iterable[SwitchPort]) -> None:
        self._fresh = {port.port_id: port for port in standing}
        self._wake = asyncio.Event()

    def put(self, port: SwitchPort) -> None:
        self._fresh[port.port_id] = port
        self._wake.set()

    def drop(self, port_id: str) -> None:
        """The port went before it was seen."""
        self._fresh.pop(port_id, None)

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> SwitchPort:
        while not self._fresh:
            self._wake.clear()
            await self._wake.wait()
        return self._fresh.pop(next(iter(self._fresh)))


class Watches:
    """All watches that somebody still holds."""

    def __init__(self) -> None:
        self._all: weakref.WeakSet[Watch] = weakref.WeakSet()

    def add(self, standing: Iterable[SwitchPort]) -> Watch:
        watch = Watch(standing)
        self._all.add(watch)
        return watch

    def put(self, port: SwitchPort) -> None:
        for watch in self._all:
            watch.put(port)

    def drop(self, port_id: str) -> None:
        for watch in self._all:
            watch.drop(port_id)
