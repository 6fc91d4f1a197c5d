"""The network service: its rules on a store, and what runs beside its API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pileus.bus import Bus
from pileus.messages import PortsChanged, PortWiring, ports_subject
from pileus.network import config
from pileus.network.client import InProcessNetwork
from pileus.settings import Settings
from pileus.store import Store

BATCH = 200
"""Ports of one message about changes."""


class Network:
    """`client` is what compute uses. `notify`: compute is told of port levels (the `callback` plug signal)."""

    def __init__(self, store: Store, bus: Bus, settings: Settings, *, notify: bool) -> None:
        self.store = store
        self.config = config.read(settings, notify=notify)
        self.client = InProcessNetwork(store, self.config)
        self._bus = bus

    async def tell(self, changed: Mapping[str, Sequence[PortWiring]]) -> None:
        """Let hosts know of changed ports (host → ports). Only a hint: an agent that asks for details gets the same."""
        for host, wirings in changed.items():
            for start in range(0, len(wirings), BATCH):
                await self._bus.publish(ports_subject(host), PortsChanged(list(wirings[start : start + BATCH])))

    def wake(self) -> None:
        """Compute has something to be told."""
