"""Compute in process, as the network service tells it of ports: what its events API does, without the way there."""

from __future__ import annotations

from collections.abc import Sequence

from pileus.bus import Bus
from pileus.clients.compute import Delivery, ExternalEvent
from pileus.compute.external_events import Event, deliver
from pileus.store import Store


class InProcessEvents:
    """See `pileus.clients.compute.ComputeEvents`."""

    def __init__(self, store: Store, bus: Bus) -> None:
        self._store = store
        self._bus = bus

    async def send(self, events: Sequence[ExternalEvent]) -> list[Delivery]:
        outcomes = await deliver(self._store, self._bus, [Event(e.name, e.server_id, e.status, e.tag) for e in events])
        return [Delivery(event, outcome.code) for event, outcome in zip(events, outcomes, strict=True)]

    async def close(self) -> None:
        pass
