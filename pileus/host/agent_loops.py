"""In which order an agent works: the seam between what it does (ports.py, removals.py) and when. `lanes`: wires, updates and removals
beside one another, as they come. `serial_loop`: all in the turns of one loop, where whatever comes waits for whatever came before."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import structlog

from pileus.host import figures
from pileus.host.chores import Chores
from pileus.host.ports import Ports, RemovedMeanwhile, WireError
from pileus.host.removals import Removals
from pileus.messages import PortWiring

log = structlog.get_logger(__name__)


class AgentLoop(Protocol):
    """All calls but `start` are made at any time; what was asked before a restart of the agent is still done."""

    restart_spread: float
    """Seconds over which agents ask what the ports are meant to be that they find at their start: several may be started together."""

    def start(self, chores: Chores) -> None:
        """Begin to work, by tasks that `chores` owns and that may be cancelled at any moment (then it is started anew)."""

    def alone(self) -> AbstractAsyncContextManager[None]:
        """While inside, nothing is being wired or updated."""
        ...

    async def wire(self, port: PortWiring) -> None:
        """In its turn; returns when it is done. Raises WireError."""

    async def adopt(self, ports: Sequence[PortWiring]) -> None:
        """Wire these without waiting for a turn; returns when it was tried with all."""

    async def update(self, ports: Sequence[PortWiring]) -> None:
        """Other wirings for ports that may be here."""

    def rewire(self, ports: Iterable[PortWiring]) -> None:
        """The switch has lost their flows: wire them again until it works, unless they change or go."""

    def notice(self, port_id: str) -> None:
        """A port is plugged, and nobody has said yet what it is meant to be."""

    def removed(self, ids: Sequence[str]) -> None:
        """These are waiting in the removals now."""


async def blocking(removals: Removals) -> bool:
    """Remove while nothing else is done, and count how long that was."""
    began = time.monotonic()
    try:
        return await removals.remove()
    finally:
        figures.blocked(time.monotonic() - began)


async def wire_or_remove(ports: Ports, removals: Removals, port: PortWiring) -> None:
    """Wire; should the port have been removed meanwhile, what was made of it goes in its turn. Raises WireError."""
    try:
        await ports.wire(port)
    except RemovedMeanwhile:
        removals.put([port.port_id], [port])
        raise


async def quietly(work: Awaitable[object]) -> None:
    """A port that could not be wired was reported; here it is only logged."""
    await succeeds(work)


async def succeeds(work: Awaitable[object]) -> bool:
    """Whether a port could be wired; if not, the log says why."""
    try:
        await work
    except WireError as error:
        log.warning("port not wired", cause=str(error))
        return False
    return True
