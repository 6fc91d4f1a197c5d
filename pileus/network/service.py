"""The network service: its rules on a store, and what runs beside its API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pileus.bus import Bus
from pileus.clients.compute import ComputeEvents
from pileus.messages import PortsChanged, PortWiring, ports_subject
from pileus.network import config
from pileus.network.client import InProcessNetwork
from pileus.network.notifier import Notifier
from pileus.network.rpc import Rpc
from pileus.settings import Settings
from pileus.store import Store

BATCH = 200
"""Ports of one message about changes."""


class Network:
    """`client` is what compute uses. `notify`: compute is told of port levels (the `callback` plug signal), by what `notify_by` is
    given before the start; without it nothing is noted for compute and no notifier runs."""

    def __init__(self, store: Store, bus: Bus, settings: Settings, *, notify: bool) -> None:
        self.store = store
        self.config = config.read(settings, notify=notify)
        self.client = InProcessNetwork(store, self.config)
        self._bus = bus
        self._rpc = Rpc(store, bus, self.config, self.wake)
        self._notifier: Notifier | None = None

    def notify_by(self, events: ComputeEvents) -> None:
        """How compute is told. `events` stays the caller's to close."""
        network = self.config.settings.network
        self._notifier = Notifier(self.store, events, interval=network.send_events_interval, limit=network.notify_timeout)

    async def start(self) -> None:
        if self.config.notify and self._notifier is None:
            raise RuntimeError("notify without notify_by: levels would be noted for compute and never told")
        if self._notifier is not None:
            await self._notifier.start()
        await self._rpc.start()

    async def close(self) -> None:
        await self._rpc.close()
        if self._notifier is not None:
            await self._notifier.close()

    async def tell(self, changed: Mapping[str, Sequence[PortWiring]]) -> None:
        """Let hosts know of changed ports (host → ports). Only a hint: an agent that asks for details gets the same."""
        for host, wirings in changed.items():
            for start in range(0, len(wirings), BATCH):
                await self._bus.publish(ports_subject(host), PortsChanged(list(wirings[start : start + BATCH])))

    def wake(self) -> None:
        """Compute has something to be told."""
        if self._notifier is not None:
            self._notifier.wake()
