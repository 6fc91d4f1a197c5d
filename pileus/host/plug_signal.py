"""The plug signal: who tells a host that a server's ports are ready. `local`: the agent beside it. `callback`: OpenStack's way.

Both answer the same question, "is each port wired at the generation I was given?", and both pass one contract suite.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pileus.bus import Bus, BusError
from pileus.host.agent import Agent, WireError
from pileus.messages import READINESS, HostEvent, PortWiring, Readiness, ReadinessRequest

FIRST_LOOK = 1.0
"""Seconds without a word after which the level is read; then after twice as long, and so on, and once more at the end."""


class PlugFailed(Exception):
    """The network did not come: `step` of the timeline, the cause in words."""

    def __init__(self, step: str, cause: str) -> None:
        super().__init__(cause)
        self.step = step
        self.cause = cause


class PlugSignal(Protocol):
    def expect(self, server_id: str, ports: Sequence[PortWiring]) -> None:
        """Listen from now on (called before the ports are plugged, so that no word is missed)."""

    async def ready(self, server_id: str, ports: Sequence[PortWiring], limit: float) -> dict[str, float]:
        """Wait until all ports are wired; the stamps `wired` and `signalled`. Called when the ports are plugged.

        Raises PlugFailed when one of them failed, TimeoutError when the limit is over and the level, read again, is still not there.
        """
        ...

    def forget(self, server_id: str) -> None:
        """Nobody waits for this server any more."""


class LocalSignal:
    """Ask the agent on this host to wire, and wait for it."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def expect(self, server_id: str, ports: Sequence[PortWiring]) -> None:
        pass

    async def ready(self, server_id: str, ports: Sequence[PortWiring], limit: float) -> dict[str, float]:
        try:
            async with asyncio.timeout(limit):
                levels = await asyncio.gather(*[self._agent.wire(port) for port in ports])
        except WireError as error:
            raise PlugFailed("wired", str(error)) from None
        if not levels:
            return {}
        return {"wired": max(level.at for level in levels), "signalled": time.time()}

    def forget(self, server_id: str) -> None:
        pass


@dataclass
class _Wait:
    """Ports not yet heard of; `failed` names one that will not come."""

    missing: set[str]
    failed: str = ""
    change: asyncio.Event = field(default_factory=asyncio.Event)


class CallbackSignal:
    """Wait for external events: agent → RPC → network service → REST → compute API → bus → here."""

    def __init__(self, bus: Bus, *, question_limit: float) -> None:
        self._bus = bus
        self._question_limit = question_limit
        self._waits: dict[str, _Wait] = {}

    def expect(self, server_id: str, ports: Sequence[PortWiring]) -> None:
        self._waits[server_id] = _Wait({port.port_id for port in ports})

    async def event(self, event: HostEvent) -> None:
        """An external event arrived at this host."""
        wait = self._waits.get(event.server_id)
        if wait is None:
            return
        if event.name == "network-vif-failed" or (event.name == "network-vif-plugged" and event.status == "failed"):
            wait.failed = event.tag or "a port"
        elif event.name == "network-vif-plugged":
            wait.missing.discard(event.tag)
        wait.change.set()

    async def ready(self, server_id: str, ports: Sequence[PortWiring], limit: float) -> dict[str, float]:
        wait = self._waits.get(server_id) or _Wait({port.port_id for port in ports})
        self._waits[server_id] = wait
        ends, patience = time.monotonic() + limit, FIRST_LOOK
        while True:
            left = ends - time.monotonic()
            try:
                async with asyncio.timeout(min(patience, left)):
                    await self._heard_all(wait)
                break
            except TimeoutError:
                if await self._level_is_there(ports):
                    break
                if patience >= left:
                    raise
            patience *= 2
        return {"signalled": time.time()} if ports else {}

    def forget(self, server_id: str) -> None:
        self._waits.pop(server_id, None)

    async def _heard_all(self, wait: _Wait) -> None:
        while wait.missing:
            if wait.failed:
                raise PlugFailed("signalled", f"the network service reported network-vif-failed for port {wait.failed}")
            wait.change.clear()
            await wait.change.wait()

    async def _level_is_there(self, ports: Sequence[PortWiring]) -> bool:
        """A lost event must not kill a guest, and a restarted host must not wait for one that came before (law 1).

        Raises PlugFailed where a port has failed: that word may have been lost, too.
        """
        question = ReadinessRequest([port.port_id for port in ports])
        try:
            answer = await self._bus.request(READINESS, question, Readiness, timeout=self._question_limit)
        except BusError:
            return False
        for port in ports:
            if answer.failed.get(port.port_id, 0) >= port.generation:
                raise PlugFailed("signalled", f"the network service says that port {port.port_id} failed")
        return all(answer.wired.get(port.port_id, 0) >= port.generation for port in ports)
