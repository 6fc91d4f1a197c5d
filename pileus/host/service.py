"""One host: hypervisor, switch, DHCP and an agent, joined to the control plane by the bus and nothing else. Both sides in one process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pileus.bus import Bus
from pileus.host.agent import Agent
from pileus.host.compute_part import ComputePart, ComputeParts
from pileus.host.dhcp import Dhcp
from pileus.host.guests import Guests
from pileus.host.hypervisor import Hypervisor
from pileus.host.images import ImageCache
from pileus.host.network_part import NetworkPart, NetworkParts
from pileus.host.network_side import Beside
from pileus.host.switch import Switch
from pileus.messages import HostFacts
from pileus.settings import Settings


@dataclass(frozen=True)
class Parts:
    """What a host stands on: one implementation of each seam."""

    hypervisor: Hypervisor
    switch: Switch
    dhcp: Dhcp
    images: ImageCache


class Host:
    """`spread`: see `ComputePart`."""

    def __init__(self, name: str, parts: Parts, bus: Bus, settings: Settings, *, address: str = "127.0.0.1", spread: float = 0.0) -> None:
        self.name = name
        self.parts = parts
        self._network = NetworkPart(name, NetworkParts(parts.switch, parts.dhcp), bus, settings)
        beside = Beside(self._network.agent, parts.switch)
        compute = ComputeParts(parts.hypervisor, parts.switch, parts.images)
        self._compute = ComputePart(name, compute, beside, bus, settings, address=address, spread=spread)

    @property
    def agent(self) -> Agent:
        return self._network.agent

    @property
    def guests(self) -> Guests:
        return self._compute.guests

    def facts(self) -> HostFacts:
        """See `ComputePart.facts`."""
        return self._compute.facts()

    async def start(self) -> None:
        """Re-read what is really there, then listen, then say that we live. Raises StartupError in one line."""
        await asyncio.gather(self._compute.open(), self._network.open())
        owned, idle = await self.guests.adopt()
        await self._network.adopt(owned, idle)
        await self._network.listen()
        await self._compute.listen()

    async def restart_agent(self) -> None:
        """See `Agent.restart`: guests go on, and boots under way wait for it."""
        await self._network.restart_agent()

    async def say_restarted(self) -> None:
        """See `ComputePart.say_restarted`."""
        await self._compute.say_restarted()

    async def close(self) -> None:
        """Stop listening and working; guests, ports and DHCP go on."""
        await self._compute.close()
        await self._network.close()
