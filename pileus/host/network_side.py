"""The seam between the two sides of a host: what the compute side asks of the network agent.

Implementations: `Beside` in one process, `pileus.host.remote_agent` where the agent is a process of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from pileus.host.agent import Agent
from pileus.host.ports import Level
from pileus.host.steps import first_of
from pileus.host.switch import Switch
from pileus.messages import PortWiring


class NetworkSide(Protocol):
    """Every call is idempotent, and safe to cancel. Of several for one port the latest wins."""

    async def plug(self, ports: Sequence[PortWiring]) -> None:
        """The ports' TAPs become switch ports. Raises SwitchError."""

    async def wire(self, port: PortWiring) -> Level:
        """Make packets pass at the port's generation. Raises WireError."""
        ...

    async def remove(self, ports: Sequence[PortWiring]) -> None:
        """Ports, flows and DHCP entries of these go; returns when they are gone."""

    async def left(self, ports: Sequence[PortWiring]) -> None:
        """Wait until what is being removed of these ports is gone."""

    async def levels(self, ports: Sequence[PortWiring]) -> dict[str, Level]:
        """How far these ports are; those that are not wired are left out. Never waits long: unknown counts as not wired."""
        ...


class Beside:
    """The agent in this process."""

    def __init__(self, agent: Agent, switch: Switch) -> None:
        self._agent = agent
        self._switch = switch

    async def plug(self, ports: Sequence[PortWiring]) -> None:
        """All at once; where one fails, none of the others goes on while they are being removed."""
        self._agent.expect(ports)
        try:
            async with asyncio.TaskGroup() as group:
                for port in ports:
                    group.create_task(self._switch.plug(port))
        except BaseExceptionGroup as several:
            raise first_of(several) from None

    async def wire(self, port: PortWiring) -> Level:
        return await self._agent.wire(port)

    async def remove(self, ports: Sequence[PortWiring]) -> None:
        await self._agent.remove(ports)

    async def left(self, ports: Sequence[PortWiring]) -> None:
        await self._agent.left(ports)

    async def levels(self, ports: Sequence[PortWiring]) -> dict[str, Level]:
        known = self._agent.levels
        return {port.port_id: known[port.port_id] for port in ports if port.port_id in known}
