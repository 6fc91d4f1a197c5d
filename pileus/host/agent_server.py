"""The network agent's end of the orders of a compute side that is another process (remote_agent.py).

Orders may come twice, late, or in another order than they were given. Each has a number, and of each port the latest number that was
acted on is remembered: what is older comes too late and is refused, what is repeated joins the work that goes on.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from pileus.bus import Bus, Subscription
from pileus.host.agent import Agent
from pileus.host.chores import Chores
from pileus.host.network_side import Beside
from pileus.host.ports import WireError
from pileus.host.switch import Switch, SwitchError
from pileus.messages import Holdings, HoldingsWanted, PortsDone, PortsOrder, holdings_subject, order_subject

TOGETHER = 64
"""Orders of one kind under way at once; the agent's lanes order them further."""
REMEMBERED = 50_000
"""Ports whose latest order is remembered, the latest ones."""
ASK_AGAIN, ASK_SELDOM = 0.5, 10.0
OLDER_LIMIT = 30.0

Stamp = tuple[float, int]


class AgentServer:
    def __init__(self, host: str, agent: Agent, switch: Switch, bus: Bus) -> None:
        self._host = host
        self._agent = agent
        self._switch = switch
        self._side = Beside(agent, switch)
        self._bus = bus
        self._epoch = 0.0
        self._held: Stamp = (0.0, 0)
        self._latest: OrderedDict[str, Stamp] = OrderedDict()
        self._under_way: dict[tuple[str, Stamp], asyncio.Task[PortsDone]] = {}
        self._holding = asyncio.Lock()
        self._chores = Chores()
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        """Take orders, and ask the compute side what it holds until it says so."""
        bus = self._bus
        kinds = {"plug": self._plug, "wire": self._wire, "remove": self._remove, "left": self._left}
        self._subscriptions = [
            bus.serve(order_subject(self._host, kind), PortsOrder, self._taking(kind, work), concurrency=TOGETHER)
            for kind, work in kinds.items()
        ]
        self._subscriptions += [
            bus.serve(order_subject(self._host, "levels"), PortsOrder, self._levels),
            bus.serve(order_subject(self._host, "hold"), Holdings, self._hold),
        ]
        self._chores.start(self._ask(), "agent-holdings")

    async def close(self) -> None:
        for subscription in self._subscriptions:
            await subscription.close()
        await self._chores.close(patience=0)

    def _taking(self, kind: str, work: Callable[[PortsOrder], Awaitable[PortsDone]]) -> Callable[[PortsOrder], Awaitable[PortsDone]]:
        """An order's work is done once, to its end, however often it is asked for and whoever gives up waiting."""

        async def whole(order: PortsOrder) -> PortsDone:
            try:
                return await work(order)
            except (SwitchError, WireError) as error:
                return PortsDone(error=str(error) or type(error).__name__)

        async def take(order: PortsOrder) -> PortsDone:
            stamp = (order.epoch, order.number)
            task = self._under_way.get((kind, stamp))
            if task is None:
                if not self._accept(order, stamp):
                    return PortsDone(error="the order came too late: a later one has been taken for the same port")
                task = self._under_way[kind, stamp] = self._chores.own(whole(order), f"agent-{kind}")
                task.add_done_callback(lambda _: self._under_way.pop((kind, stamp), None))
            return await asyncio.shield(task)

        return take

    def _accept(self, order: PortsOrder, stamp: Stamp) -> bool:
        if order.epoch < self._epoch:
            return False  # from a compute side that is no more
        if any(self._latest.get(port.port_id, stamp) > stamp for port in order.ports):
            return False
        for port in order.ports:
            self._latest[port.port_id] = stamp
            self._latest.move_to_end(port.port_id)
        while len(self._latest) > REMEMBERED:
            self._latest.popitem(last=False)
        return True

    async def _plug(self, order: PortsOrder) -> PortsDone:
        await self._side.plug(order.ports)
        return PortsDone()

    async def _wire(self, order: PortsOrder) -> PortsDone:
        levels = {port.port_id: await self._side.wire(port) for port in order.ports}
        return PortsDone(levels={port_id: (level.generation, level.at) for port_id, level in levels.items()})

    async def _remove(self, order: PortsOrder) -> PortsDone:
        await self._side.remove(order.ports)
        return PortsDone()

    async def _left(self, order: PortsOrder) -> PortsDone:
        await self._side.left(order.ports)
        return PortsDone()

    async def _levels(self, order: PortsOrder) -> PortsDone:
        levels = await self._side.levels(order.ports)
        return PortsDone(levels={port_id: (level.generation, level.at) for port_id, level in levels.items()})

    async def _hold(self, holdings: Holdings) -> PortsDone:
        """What the compute side holds stays or comes back, what newer orders are about is left alone, all else goes."""
        stamp = (holdings.epoch, holdings.number)

        def spared() -> set[str]:
            newer = {port_id for port_id, latest in self._latest.items() if latest > stamp}
            return newer | set(holdings.busy)

        async with self._holding:
            if stamp <= self._held:
                return PortsDone()
            self._epoch = max(self._epoch, holdings.epoch)
            await self._older_done()
            working = spared()
            owned = {port.port_id: port for port in holdings.running if port.port_id not in working}
            idle = [port for port in holdings.idle if port.port_id not in working]
            await self._agent.hold(owned, idle, spared)
            await self._switch.drop_taps(spared() | owned.keys())
            self._held = stamp
        return PortsDone()

    async def _older_done(self) -> None:
        """What a compute side that is no more had ordered comes to its end before it is looked what there is."""
        older = [task for (_, (epoch, _)), task in self._under_way.items() if epoch < self._epoch]
        if older:
            await asyncio.wait(older, timeout=OLDER_LIMIT)

    async def _ask(self) -> None:
        pause = ASK_AGAIN
        while not self._held[0]:
            await self._bus.publish(holdings_subject(self._host), HoldingsWanted(self._host))
            await asyncio.sleep(pause)
            pause = min(2 * pause, ASK_SELDOM)
