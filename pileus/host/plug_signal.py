"""The plug signal: who tells a host that a server's ports are ready. `local`: the agent beside it. `callback`: OpenStack's way.

Both answer the same question, "is each port wired at the generation I was given?", and both pass one contract suite.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pileus.bus import Bus, BusError
from pileus.host.network_side import NetworkSide
from pileus.host.ports import WireError
from pileus.messages import READINESS, HostEvent, PortWiring, Readiness, ReadinessRequest, from_host

FIRST_LOOK = 1.0
"""Seconds without a word after which the level is read; then after twice as long, and so on, and once more at the end."""


Heard = Literal["wired", "failed", "look", "nothing"]
Level = Literal["wired", "failed", "not yet", "unknown"]


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

    def __init__(self, network: NetworkSide) -> None:
        self._network = network

    def expect(self, server_id: str, ports: Sequence[PortWiring]) -> None:
        pass

    async def ready(self, server_id: str, ports: Sequence[PortWiring], limit: float) -> dict[str, float]:
        try:
            async with asyncio.timeout(limit):
                levels = await asyncio.gather(*[self._network.wire(port) for port in ports])
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
    look: bool = False
    """Words may have been lost: the level is to be read."""
    change: asyncio.Event = field(default_factory=asyncio.Event)


def _could_not(port_id: str) -> PlugFailed:
    return PlugFailed("signalled", f"network-vif-failed: port {port_id} could not be wired")


class CallbackSignal:
    """Wait for external events: agent → RPC → network service → REST → compute API → bus → here.

    `reread`: nobody waits long, or gives up, without reading the level itself; without it events alone are believed.
    """

    def __init__(self, host: str, bus: Bus, *, question_limit: float, reread: bool = True) -> None:
        self._host = host
        self._bus = bus
        self._question_limit = question_limit
        self._reread = reread
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

    def look_again(self) -> None:
        """Words may have been lost: whoever waits reads the level at once."""
        if not self._reread:
            return
        for wait in self._waits.values():
            wait.look = True
            wait.change.set()

    async def ready(self, server_id: str, ports: Sequence[PortWiring], limit: float) -> dict[str, float]:
        wait = self._waits.get(server_id) or _Wait({port.port_id for port in ports})
        self._waits[server_id] = wait
        if not ports:
            return {}
        if not self._reread:
            return await self._believe(wait, limit)
        ends, patience = time.monotonic() + limit, FIRST_LOOK
        while True:
            left = ends - time.monotonic()
            heard = await self._heard(wait, min(patience, left))
            level = await self._level(ports)
            if level == "wired" or (level == "unknown" and heard == "wired"):
                return {"signalled": time.time()}
            if "failed" in (level, heard if level == "unknown" else ""):
                raise _could_not(wait.failed or ports[0].port_id)
            if heard == "look":
                continue
            if heard != "nothing":  # the word was an older binding's
                wait.missing, wait.failed = {port.port_id for port in ports}, ""
            elif patience >= left:
                raise TimeoutError
            else:
                patience *= 2

    def forget(self, server_id: str) -> None:
        self._waits.pop(server_id, None)

    async def _believe(self, wait: _Wait, limit: float) -> dict[str, float]:
        """Nova's way: what an event says is so, whichever binding it was about, and what no event says is not."""
        heard = await self._heard(wait, limit)
        if heard == "nothing":
            raise TimeoutError
        if heard == "failed":
            raise _could_not(wait.failed)
        return {"signalled": time.time()}

    async def _heard(self, wait: _Wait, limit: float) -> Heard:
        try:
            async with asyncio.timeout(limit):
                while wait.missing and not wait.failed and not wait.look:
                    wait.change.clear()
                    await wait.change.wait()
        except TimeoutError:
            return "nothing"
        if wait.look:
            wait.look = False
            return "look"
        return "failed" if wait.failed else "wired"

    async def _level(self, ports: Sequence[PortWiring]) -> Level:
        """What the ports are at the generation that we were given. An event says no generation, and may be lost: it is the hint to
        look, and nobody gives up without looking (law 1). Unknown where nobody answers: then the event is believed, as in Nova."""
        question = ReadinessRequest(self._host, [port.port_id for port in ports])
        try:
            answer = await self._bus.request(from_host(self._host, READINESS), question, Readiness, timeout=self._question_limit)
        except BusError:
            return "unknown"
        if any(answer.failed.get(port.port_id, 0) >= port.generation for port in ports):
            return "failed"
        return "wired" if all(answer.wired.get(port.port_id, 0) >= port.generation for port in ports) else "not yet"
