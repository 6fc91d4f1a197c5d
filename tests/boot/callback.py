"""The compute API's external events without HTTP, for tests that are not about HTTP."""

from __future__ import annotations

from collections.abc import Sequence

from pileus.bus import Bus
from pileus.clients.compute import Delivery, ExternalEvent
from pileus.compute.api.external_events import NAMES
from pileus.compute.external_events import Event, deliver
from pileus.errors import Unavailable
from pileus.store import Store


class DirectEvents:
    """Implements `ComputeEvents`. `refuse`: how many batches are not taken; `swallow`: how many are taken and lost behind the API."""

    def __init__(self, store: Store, bus: Bus) -> None:
        self.refuse = 0
        self.swallow = 0
        self._store = store
        self._bus = bus

    async def send(self, events: Sequence[ExternalEvent]) -> list[Delivery]:
        if self.refuse > 0:
            self.refuse -= 1
            raise Unavailable("refused for the test")
        if self.swallow > 0:
            self.swallow -= 1
            return [Delivery(event, 200) for event in events]
        assert {event.name for event in events} <= NAMES.keys()
        outcomes = await deliver(self._store, self._bus, [Event(e.name, e.server_id, e.status, e.tag) for e in events])
        return [Delivery(event, outcome.code) for event, outcome in zip(events, outcomes, strict=True)]

    async def close(self) -> None:
        pass
