"""The compute side of a host: builds guests, changes and removes them, as the control plane desires.

One task a server at a time; a newer generation takes over from an older one. Everything may be asked twice.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec
import structlog

from pileus.bus import Bus
from pileus.host.builder import Builder
from pileus.host.hypervisor import Hypervisor, HypervisorError
from pileus.host.network_side import NetworkSide
from pileus.host.steps import StepFailed, do, first_of
from pileus.host.switch import SwitchError
from pileus.messages import OBSERVED, Desired, GuestNow, GuestSpec, Observed, PortWiring, PowerState, from_host
from pileus.settings import Compute

log = structlog.get_logger(__name__)

TOMBSTONES = 10_000
"""Removed guests whose generation is remembered, so that a late older message makes none of them again."""

EVACUATIONS = frozenset({"evacuate", "evacuate_stopped"})
MADE_ANEW = frozenset({"create", "start", "reboot_hard"}) | EVACUATIONS
"""Actions whose guest has its generation from its very start."""

UNDO_AGAIN = 1.0
UNDO_PATIENCE = 10.0
"""Seconds of undoing after which a failure is told although not all of it is undone."""


@dataclass
class Guest:
    """What this host knows of one server. `reached`: the generation it is at; `working`: the one a task is working on."""

    reached: int = 0
    working: int = 0
    spec: GuestSpec | None = None
    task: asyncio.Task[None] | None = None
    last: Observed | None = None
    ended: tuple[PowerState, str] | None = None
    """It ended by itself while a task worked on it: how, and why. Told when the task has told its own."""
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with `ended`: nobody need wait any longer for what such a guest waits for."""
    ports: dict[str, PortWiring] = field(default_factory=dict)


class Guests:
    def __init__(
        self,
        host: str,
        hypervisor: Hypervisor,
        network: NetworkSide,
        builder: Builder,
        bus: Bus,
        settings: Compute,
        *,
        deletes: int,
    ) -> None:
        self._host = host
        self._hypervisor = hypervisor
        self._network = network
        self._builder = builder
        self._bus = bus
        self._limits = settings
        self._guests: dict[str, Guest] = {}
        self._tombstones: OrderedDict[str, int] = OrderedDict()
        self._deleting = asyncio.Semaphore(deletes)
        self._notices: set[asyncio.Task[None]] = set()
        self._actions: dict[str, Callable[[Desired, Guest, dict[str, float]], Awaitable[PowerState]]] = {
            "create": self._build,
            "evacuate": self._take_in,
            "evacuate_stopped": self._take_in,
            "start": self._build,
            "reboot_hard": self._rebuild,
            "reboot": self._reboot,
            "stop": self._stop,
            "pause": self._pause,
            "unpause": self._unpause,
            "delete": self._delete,
        }
        hypervisor.on_exit = self._exited

    async def adopt(self) -> tuple[dict[str, PortWiring], list[PortWiring]]:
        """Re-read what is here: the ports of guests that run, by id, and those of guests that do not."""
        owned: dict[str, PortWiring] = {}
        idle: list[PortWiring] = []
        for found in await self._hypervisor.found():
            # A paused guest may be one that a killed process left before its resume: a message of that generation works on it again.
            reached = found.generation - 1 if found.power == "paused" else found.generation
            ports = {port.port_id: port for port in found.spec.ports}
            self._guests[found.spec.server_id] = Guest(reached=reached, spec=found.spec, ports=ports)
            if found.power in ("running", "paused"):
                owned |= ports
            else:
                idle += found.spec.ports
        return owned, idle

    async def holdings(self) -> tuple[list[PortWiring], list[PortWiring], list[str]]:
        """Ports of guests that run, of guests that do not, and ids of those of guests that are being worked on."""
        ids = list(self._guests)
        known = dict(zip(ids, await asyncio.gather(*map(self._hypervisor.power, ids)), strict=True))
        running: list[PortWiring] = []
        idle: list[PortWiring] = []
        busy: list[str] = []
        for server_id, guest in self._guests.items():
            if guest.task is not None or server_id not in known:
                busy += guest.ports
            else:
                (running if known[server_id] in ("running", "paused") else idle).extend(guest.ports.values())
        return running, idle, busy

    async def close(self) -> None:
        """Stop working; guests go on running, and what was under way goes on at the next start."""
        self._hypervisor.on_exit = None
        tasks = [guest.task for guest in self._guests.values() if guest.task is not None] + list(self._notices)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def count(self) -> int:
        """How many guests there are here."""
        return sum(guest.spec is not None for guest in self._guests.values())

    async def now(self) -> dict[str, GuestNow]:
        """All guests as they are; they are asked at once, so that one which does not answer holds up no other."""
        known = {server_id: guest for server_id, guest in self._guests.items() if guest.spec is not None}
        return dict(zip(known, await asyncio.gather(*(self._now(*each) for each in known.items())), strict=True))

    async def _now(self, server_id: str, guest: Guest) -> GuestNow:
        return GuestNow(max(guest.reached, guest.working), await self._hypervisor.power(server_id))

    def images_in_use(self) -> set[str]:
        """Ids of the images that guests here stand on."""
        boots = [guest.spec.boot for guest in self._guests.values() if guest.spec is not None]
        return {ref.id for boot in boots for ref in (boot.image, boot.kernel, boot.ramdisk) if ref is not None}

    async def desired(self, message: Desired) -> None:
        """Make a server so. Old generations are ignored, the current one is answered again, a newer one takes over."""
        server_id = message.server_id
        guest = self._guests.get(server_id)
        if guest is None:
            if message.generation < self._tombstones.get(server_id, 0):
                return
            guest = self._guests[server_id] = Guest()
        if message.generation < max(guest.reached, guest.working) or message.generation == guest.working:
            return
        if message.generation == guest.reached and guest.last is not None:
            await self._bus.publish(from_host(self._host, OBSERVED), guest.last)
            return
        before = guest.task
        guest.working = message.generation
        guest.task = asyncio.create_task(self._work(message, guest, before), name=f"guest-{server_id}")

    async def _work(self, message: Desired, guest: Guest, before: asyncio.Task[None] | None) -> None:
        if before is not None and not before.done():
            before.cancel()
            await asyncio.gather(before, return_exceptions=True)
        stamps: dict[str, float] = {}
        try:
            power = await self._actions[message.action](message, guest, stamps)
            observed = Observed(message.server_id, self._host, message.generation, power, stamps=stamps)
        except StepFailed as failed:
            observed = await self._undo(message, guest, failed, stamps)
        except Exception as error:
            log.exception("guest failed", server=message.server_id, action=message.action)
            observed = await self._undo(message, guest, StepFailed("sent", f"{type(error).__name__}: {error}"), stamps)
        await self._reach(message, guest, observed)

    async def _reach(self, message: Desired, guest: Guest, observed: Observed) -> None:
        guest.reached, guest.working, guest.last, guest.task = message.generation, 0, observed, None
        if observed.power == "absent":
            self._guests.pop(message.server_id, None)
            self._tombstones[message.server_id] = message.generation
            while len(self._tombstones) > TOMBSTONES:
                self._tombstones.popitem(last=False)
        elif message.action not in MADE_ANEW:
            await self._hypervisor.set_generation(message.server_id, message.generation)
        await self._bus.publish(from_host(self._host, OBSERVED), observed)
        if guest.ended is not None and observed.power in ("running", "paused"):
            self._exited(message.server_id, *guest.ended)

    async def _undo(self, message: Desired, guest: Guest, failed: StepFailed, stamps: dict[str, float]) -> Observed:
        """What an action that failed leaves is undone, however often that must be tried; then it is told, or before when it takes
        long: whoever waits for the answer need not wait for a switch that hangs."""

        def told(power: PowerState) -> Observed:
            return Observed(message.server_id, self._host, message.generation, power, failed.step, failed.cause, failed.retry, stamps)

        tell_at: float | None = asyncio.get_running_loop().time() + UNDO_PATIENCE
        while True:
            try:
                async with asyncio.timeout_at(tell_at):
                    return told(await self._undone(message, guest))
            except (HypervisorError, SwitchError, OSError) as error:
                log.warning("not undone yet", server=message.server_id, cause=str(error) or type(error).__name__)
            except Exception:
                log.exception("not undone yet", server=message.server_id)
            if tell_at is not None and asyncio.get_running_loop().time() >= tell_at:
                await self._bus.publish(from_host(self._host, OBSERVED), told(await self._hypervisor.power(message.server_id)))
                tell_at = None
            await asyncio.sleep(UNDO_AGAIN)

    async def _undone(self, message: Desired, guest: Guest) -> PowerState:
        """A create leaves nothing; of a server that was there before, the disk stays."""
        if message.action == "create" or message.action in EVACUATIONS:
            await self._hypervisor.destroy(message.server_id)
            await self._network.remove(list(guest.ports.values()))
            return "absent"
        if message.action in ("start", "reboot_hard"):
            await self._hypervisor.stop(message.server_id, hard=True)
            await self._network.remove(list(guest.ports.values()))
        return await self._hypervisor.power(message.server_id)

    async def _build(self, message: Desired, guest: Guest, stamps: dict[str, float]) -> PowerState:
        """Image, plug and paused guest at once; the agent wires; resume."""
        spec = message.spec or guest.spec
        if spec is None:
            raise StepFailed("sent", "the host was not told what to build")
        guest.spec = spec = _to_keep(spec)
        guest.ports, guest.ended = {port.port_id: port for port in spec.ports}, None
        guest.news.clear()
        try:
            async with asyncio.TaskGroup() as watched:
                death = watched.create_task(_death_of(guest))
                await self._builder.build(message, spec, stamps)
                death.cancel()
        except BaseExceptionGroup as several:
            raise first_of(several) from None
        return "running"

    async def _take_in(self, message: Desired, guest: Guest, stamps: dict[str, float]) -> PowerState:
        """A server whose host is dead: its disk is made anew. What an earlier life of it has left here goes first."""
        await do("removed", self._limits.action_limit, self._hypervisor.destroy(message.server_id))
        await do("removed", self._limits.action_limit, self._network.remove(list(guest.ports.values())))
        await self._build(message, guest, stamps)
        return await self._stop(message, guest, stamps) if message.goal == "stopped" else "running"

    async def _rebuild(self, message: Desired, guest: Guest, stamps: dict[str, float]) -> PowerState:
        await do("stopped", self._limits.action_limit, self._hypervisor.stop(message.server_id, hard=True))
        stamps["stopped"] = time.time()
        return await self._build(message, guest, stamps)

    async def _reboot(self, message: Desired, guest: Guest, stamps: dict[str, float]) -> PowerState:
        limit = self._limits.action_limit + self._limits.shutdown_timeout
        if await do("stopped", limit, self._hypervisor.reset(message.server_id, hard=message.hard)):
            stamps["resumed"] = time.time()
            return "running"
        return await self._rebuild(message, guest, stamps)

    async def _stop(self, message: Desired, guest: Guest, stamps: dict[str, float]) -> PowerState:
        limit = self._limits.action_limit + self._limits.shutdown_timeout
        await do("stopped", limit, self._hypervisor.stop(message.server_id, hard=message.hard))
        stamps["stopped"] = time.time()
        await do("removed", self._limits.action_limit, self._network.remove(list(guest.ports.values())))
        return "stopped"

    async def _pause(self, message: Desired, guest: Guest, stamps: dict[str, float]) -> PowerState:
        await do("paused", self._limits.action_limit, self._hypervisor.pause(message.server_id))
        stamps["paused"] = time.time()
        return "paused"

    async def _unpause(self, message: Desired, guest: Guest, stamps: dict[str, float]) -> PowerState:
        await do("resumed", self._limits.action_limit, self._hypervisor.resume(message.server_id))
        stamps["resumed"] = time.time()
        return "running"

    async def _delete(self, message: Desired, guest: Guest, stamps: dict[str, float]) -> PowerState:
        async with self._deleting:
            await do("removed", self._limits.action_limit, self._hypervisor.destroy(message.server_id))
        await do("removed", self._limits.action_limit, self._network.remove(list(guest.ports.values())))
        stamps["removed"] = time.time()
        return "absent"

    def _exited(self, server_id: str, power: PowerState, cause: str) -> None:
        """A guest ended by itself: its ports go, the control plane is told."""
        guest = self._guests.get(server_id)
        if guest is None:
            return
        if guest.task is not None:
            guest.ended = (power, cause)  # the task under way fails by it, or tells of it afterwards
            guest.news.set()
            return
        task = asyncio.create_task(self._ended(server_id, guest, power, cause), name=f"guest-ended-{server_id}")
        self._notices.add(task)
        task.add_done_callback(self._notices.discard)

    async def _ended(self, server_id: str, guest: Guest, power: PowerState, cause: str) -> None:
        log.warning("guest ended by itself", server=server_id, power=power, cause=cause)
        guest.last = Observed(server_id, self._host, guest.reached, power, cause=cause)
        await self._bus.publish(from_host(self._host, OBSERVED), guest.last)
        await self._network.remove(list(guest.ports.values()))


def _to_keep(spec: GuestSpec) -> GuestSpec:
    """A spec as it is kept beside the guest: tickets are good for a while only, and a fresh one makes no other spec."""
    boot = spec.boot
    kept = {
        name: msgspec.structs.replace(ref, ticket="")
        for name, ref in (("image", boot.image), ("kernel", boot.kernel), ("ramdisk", boot.ramdisk))
        if ref is not None and ref.ticket
    }
    return msgspec.structs.replace(spec, boot=msgspec.structs.replace(boot, **kept)) if kept else spec


async def _death_of(guest: Guest) -> None:
    """A guest that dies while it waits, paused, for its network fails its boot then, and not when that wait is over."""
    await guest.news.wait()
    raise StepFailed("paused", f"the guest died while it waited: {guest.ended[1] if guest.ended else 'no cause known'}")
