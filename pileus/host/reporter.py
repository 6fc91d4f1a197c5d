"""The agent's reports to the network service: gathered, sent as one, repeated until they are taken."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

import structlog

from pileus.bus import Bus, BusError
from pileus.host import figures
from pileus.messages import LEVELS, DeviceLevels, PortLevel, Taken, from_host
from pileus.settings import Network

log = structlog.get_logger(__name__)

BATCH = 256
FIRST_LIMIT = 1.0
PAUSE = 0.1


def growing_limits(most: float) -> Iterator[float]:
    """Seconds to wait for each try of an RPC: short first, because a lost message must cost little; then as long as allowed."""
    limit = min(FIRST_LIMIT, most)
    while True:
        yield limit
        limit = min(limit * 2, most)


def doubling_limits(limit: float) -> Iterator[float]:
    """The same as Neutron's agents have it: as long as allowed, twice as long after each try, at most ten times."""
    most = 10 * limit
    while True:
        yield limit
        limit = min(2 * limit, most)


class Reporter:
    """What is put is sent by `run`, or whenever `flush` is called."""

    def __init__(self, host: str, bus: Bus, settings: Network) -> None:
        self._host = host
        self._bus = bus
        self._settings = settings
        self._waiting: dict[tuple[str, int], PortLevel] = {}
        self._some = asyncio.Event()

    def put(self, level: PortLevel) -> None:
        """Report a port's level; a newer one of the same port and generation replaces one that waits."""
        self._waiting.pop((level.port_id, level.generation), None)
        self._waiting[level.port_id, level.generation] = level
        self._some.set()

    async def run(self) -> None:
        while True:
            await self._some.wait()
            if self._settings.report_interval:
                await asyncio.sleep(self._settings.report_interval)
            await self._send(self._take(BATCH), growing_limits(self._settings.rpc_timeout))

    async def flush(self, step: int) -> None:
        """Send all that waits now, `step` ports a call and one call after the other; returns when all is taken."""
        limits = doubling_limits(self._settings.rpc_timeout)
        for _ in range(0, len(self._waiting), step):
            await self._send(self._take(step), limits)

    def _take(self, most: int) -> list[PortLevel]:
        batch = [self._waiting.pop(key) for key in list(self._waiting)[:most]]
        if not self._waiting:
            self._some.clear()
        return batch

    async def _send(self, batch: list[PortLevel], limits: Iterable[float]) -> None:
        with figures.reporting():
            for limit in limits:
                try:
                    await self._bus.request(from_host(self._host, LEVELS), DeviceLevels(self._host, batch), Taken, timeout=limit)
                    return
                except BusError as error:
                    log.warning("report not taken, trying again", ports=len(batch), cause=str(error))
                    await asyncio.sleep(PAUSE)
