"""The network agent as the compute side sees it where it is a process of its own: orders on the host's own subjects.

An order is repeated until it is answered, for as long as its caller waits; the other end knows a repeated one by its number, and a late
one by what came after it (agent_server.py). So whatever the bus loses, doubles or delays costs time and nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from pileus.bus import Bus, BusError, NoAnswer, Subscription
from pileus.host.chores import Chores
from pileus.host.ports import Level, WireError
from pileus.host.reporter import PAUSE, growing_limits
from pileus.host.switch import SwitchError
from pileus.messages import Holdings, HoldingsWanted, PortsDone, PortsOrder, PortWiring, holdings_subject, order_subject

log = structlog.get_logger(__name__)

LOOK_LIMIT = 0.5
"""Seconds for a question whose answer nobody needs: how far are ports?"""

TELL_AGAIN = 1.0

Held = Callable[[], Awaitable[tuple[list[PortWiring], list[PortWiring], list[str]]]]
"""Ports of guests that run, of guests that do not, and ids of ports of those that are being worked on."""


class RemoteAgent:
    """See `NetworkSide`. `longest`: seconds that one try of an order waits at most."""

    def __init__(self, host: str, bus: Bus, *, longest: float) -> None:
        self._host = host
        self._bus = bus
        self._longest = longest
        self._epoch = time.time()
        self._number = 0
        self._wanted = asyncio.Event()
        self._chores = Chores()
        self._subscription: Subscription | None = None

    def start(self, held: Held) -> None:
        """Tell the agent what is held here: now, and whenever it asks because it was started anew."""
        self._subscription = self._bus.subscribe(holdings_subject(self._host), HoldingsWanted, self._asked)
        self._wanted.set()
        self._chores.start(self._tell(held), "holdings")

    async def close(self) -> None:
        if self._subscription is not None:
            await self._subscription.close()
        await self._chores.close(patience=0)

    async def plug(self, ports: Sequence[PortWiring]) -> None:
        await self._order("plug", ports)

    async def wire(self, port: PortWiring) -> Level:
        try:
            done = await self._order("wire", [port])
        except SwitchError as error:
            raise WireError(str(error)) from None
        return Level(*done.levels[port.port_id])

    async def remove(self, ports: Sequence[PortWiring]) -> None:
        await self._order("remove", ports)

    async def left(self, ports: Sequence[PortWiring]) -> None:
        await self._order("left", ports)

    async def levels(self, ports: Sequence[PortWiring]) -> dict[str, Level]:
        question = PortsOrder(self._host, self._epoch, self._next(), list(ports))
        try:
            done = await self._bus.request(order_subject(self._host, "levels"), question, PortsDone, timeout=LOOK_LIMIT)
        except BusError:
            return {}
        return {port_id: Level(*level) for port_id, level in done.levels.items()}

    async def _order(self, kind: str, ports: Sequence[PortWiring]) -> PortsDone:
        if not ports:
            return PortsDone()
        return await self._ask(kind, PortsOrder(self._host, self._epoch, self._next(), list(ports)))

    async def _ask(self, kind: str, order: PortsOrder) -> PortsDone:
        """Raises SwitchError for what the agent refuses or fails at."""
        for limit in growing_limits(self._longest):
            try:
                done = await self._bus.request(order_subject(self._host, kind), order, PortsDone, timeout=limit)
            except NoAnswer as error:
                log.warning("no answer from the network agent, asking again", order=kind, cause=str(error))
                await asyncio.sleep(PAUSE)
                continue
            except BusError as error:
                raise SwitchError(f"the network agent: {error}") from None
            if done.error:
                raise SwitchError(done.error)
            return done
        raise AssertionError("limits go on for ever")

    async def _asked(self, _question: HoldingsWanted) -> None:
        self._wanted.set()

    async def _tell(self, held: Held) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                # The number first: an order that is given while we look counts as a later one.
                number = self._next()
                running, idle, busy = await held()
                holdings = Holdings(self._host, self._epoch, number, running, idle, busy)
                await self._bus.request(order_subject(self._host, "hold"), holdings, PortsDone, timeout=self._longest)
            except BusError as error:
                log.warning("the network agent has not taken what is held here, telling it again", cause=str(error))
            except Exception:
                log.exception("the network agent was not told what is held here, trying again")
            else:
                continue
            self._wanted.set()
            await asyncio.sleep(TELL_AGAIN)

    def _next(self) -> int:
        self._number += 1
        return self._number
