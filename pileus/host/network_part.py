"""The network side of a host: the agent with its switch and DHCP, joined to the control plane by the bus."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pileus.bus import Bus, Subscription
from pileus.host.agent import Agent
from pileus.host.agent_server import AgentServer
from pileus.host.dhcp import Dhcp
from pileus.host.heartbeat import Heartbeat
from pileus.host.switch import Switch
from pileus.host.tunnels import TYPES as TUNNELS
from pileus.messages import (
    AgentFacts,
    FactsWanted,
    MembersChanged,
    PortsChanged,
    PortWiring,
    SecurityChanged,
    facts_subject,
    members_subject,
    ports_subject,
    security_subject,
)
from pileus.settings import Settings

BEATS = 2.2
"""Heartbeats in the time after which an agent that is silent counts as dead: one may be lost."""


@dataclass(frozen=True)
class NetworkParts:
    switch: Switch
    dhcp: Dhcp


class NetworkPart:
    """`open`, `adopt`, `listen`; or `start` where the compute side is another process."""

    def __init__(self, name: str, parts: NetworkParts, bus: Bus, settings: Settings) -> None:
        self.name = name
        self.parts = parts
        self._bus = bus
        self._settings = settings
        self._started_at = time.time()
        notices = settings.compute.plug_signal == "callback"
        self.agent = Agent(name, parts.switch, parts.dhcp, bus, settings.network, notices=notices)
        self._server = AgentServer(name, self.agent, parts.switch, bus)
        self._heartbeat = Heartbeat(bus, settings.network.agent_down_time / BEATS, self.facts)
        self._subscriptions: list[Subscription] = []
        self._forget: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Alone: what is plugged stays, until the compute side says what it holds. Raises StartupError in one line."""
        await self.open()
        await self.adopt(None)
        await self._server.start()
        await self.listen()

    async def open(self) -> None:
        """Raises StartupError in one line."""
        await self.parts.switch.start()
        await self.parts.dhcp.start()

    async def adopt(self, owned: Mapping[str, PortWiring] | None, idle: Sequence[PortWiring] = ()) -> None:
        """See `Agent.start`."""
        await self.agent.start(owned, idle)

    async def listen(self) -> None:
        """Be there for the control plane, and say so."""
        bus = self._bus
        self._subscriptions = [
            bus.subscribe(ports_subject(self.name), PortsChanged, self.agent.update),
            bus.subscribe(members_subject(self.name), MembersChanged, self.agent.members),
            bus.subscribe(security_subject(self.name), SecurityChanged, self.agent.security),
            bus.subscribe(facts_subject(self.name), FactsWanted, self._wanted),
        ]
        self._forget = bus.on_reconnect(self._heartbeat.beat)
        await self._heartbeat.start()

    async def restart_agent(self) -> None:
        """See `Agent.restart`; the control plane hears of it as of any start."""
        self._started_at = time.time()
        await self.agent.restart()
        await self._heartbeat.beat()

    async def close(self) -> None:
        """Stop listening and working; ports and DHCP go on."""
        self._forget()
        for subscription in self._subscriptions:
            await subscription.close()
        await self._heartbeat.close()
        await self._server.close()
        await self.agent.close()
        await self.parts.dhcp.close()
        await self.parts.switch.close()

    def facts(self) -> AgentFacts:
        settings = self._settings
        mappings = settings.host.bridge_mappings
        return AgentFacts(
            host=self.name,
            availability_zone=settings.compute.availability_zone,
            physical_networks=sorted(mappings),
            network_types=network_types(settings),
            address=self.parts.switch.tunnel_address,
            started_at=self._started_at,
        )

    async def _wanted(self, wanted: FactsWanted) -> None:
        if wanted.part == "network":
            await self._heartbeat.tell()


def network_types(settings: Settings) -> list[str]:
    """Types of networks that a host with these settings can be in."""
    vlan = ["vlan"] if settings.host.bridge_mappings else []
    return ["local", *vlan, *(TUNNELS if settings.host.tunnel_address else ())]
