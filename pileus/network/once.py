"""Neutron's way to tell the compute service: at most once (`network.notify = once`).

What is told was taken out of the outbox first, so whoever dies now takes it along, and what nobody accepts within about a second is
dropped. The count of what was lost is all that remains of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import structlog

from pileus.clients.compute import ComputeEvents, ExternalEvent
from pileus.errors import PileusError

log = structlog.get_logger(__name__)

TRIED_FOR = 1.0
"""Seconds after which no other try is begun."""
PAUSE = 0.25


async def tell(events: ComputeEvents, batch: Sequence[ExternalEvent], *, limit: float) -> int:
    """Send a batch; how many of it are lost. `limit`: of one try (s). Cancelled meanwhile, all of it is."""
    lost, cause = len(batch), "Pileus is ending"
    try:
        lost, cause = await _try(events, batch, limit)
    finally:
        if lost:
            log.warning("compute not told, events dropped (network.notify = once)", lost=lost, of=len(batch), cause=cause)
            count_dropped(lost)
    return lost


async def _try(events: ComputeEvents, batch: Sequence[ExternalEvent], limit: float) -> tuple[int, str]:
    """How many were not taken, and why."""
    ends = time.monotonic() + TRIED_FOR
    while True:
        try:
            async with asyncio.timeout(limit):
                answers = await events.send(batch)
        except (PileusError, OSError) as error:  # TimeoutError is an OSError
            if time.monotonic() + PAUSE > ends:
                return len(batch), str(error) or type(error).__name__
            await asyncio.sleep(PAUSE)
        else:
            taken = sum(answer.code == 200 for answer in answers)
            return len(batch) - taken, "compute refused them"


def count_dropped(events: int) -> None:
    from pileus import metrics  # costs 100 ms: who drops nothing and is never asked does without

    metrics.NETWORK_EVENTS_DROPPED.inc(events)
