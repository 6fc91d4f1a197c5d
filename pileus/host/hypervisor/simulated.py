"""The simulated hypervisor of hollow hosts: guests without processes, with latencies, capacities and faults that can be set.

A `World` is what a real machine would keep while Pileus is down: hand the same one to the next SimulatedHypervisor, and it
finds the guests again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pileus import settings
from pileus.host.hypervisor import Acceleration, Capacity, FoundGuest, HypervisorError, Images
from pileus.host.switch import Tap
from pileus.messages import GuestSpec, PowerState

VERSION = 1_000_000

BOOT_LOG = """\
[    0.000000] Linux version 6.1.0 (simulated)
[    0.000000] Memory: {memory_mb} MB, CPUs: {vcpus}
[    0.412000] virtio_net: {ports} device(s)
[    0.731000] {hostname}: reached userspace
[    0.731000] {hostname} login:
"""


@dataclass
class SimulatedGuest:
    """One guest. `boots`: how often it started to run from the beginning, each time with the same words on its console."""

    spec: GuestSpec
    generation: int
    power: PowerState = "paused"
    booted: bool = False
    boots: int = 0

    @property
    def log(self) -> str:
        spec = self.spec
        words = BOOT_LOG.format(memory_mb=spec.memory_mb, vcpus=spec.vcpus, ports=len(spec.ports), hostname=spec.hostname)
        return words * self.boots


@dataclass
class World:
    """What exists whether Pileus runs or not: the guests."""

    guests: dict[str, SimulatedGuest] = field(default_factory=dict)

    def changed(self, server_id: str) -> None:
        """A guest has come, changed or gone."""


@dataclass
class _Turn:
    """The order of calls on one guest; kept while anybody is in it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class SimulatedHypervisor:
    """Implements `pileus.host.hypervisor.Hypervisor`; its docstrings are the contract."""

    def __init__(self, simulated: settings.Simulated, *, seed: int = 0, world: World | None = None) -> None:
        self.on_exit: Callable[[str, PowerState, str], None] | None = None
        self.world = world or World()
        self._settings = simulated
        self._random = random.Random(seed)  # noqa: S311 - latencies, not secrets
        self._failures: deque[str] = deque()
        self._turns: dict[str, _Turn] = {}

    # --- faults, for tests and for the lab ---

    def fail_next(self, cause: str, times: int = 1) -> None:
        """The next `times` starts fail with this cause, after their usual latency."""
        self._failures.extend([cause] * times)

    def kill(self, server_id: str, power: PowerState = "crashed", cause: str = "the guest's process was killed") -> None:
        """A guest ends by itself. One that is not there, or does not run: nothing."""
        guest = self.world.guests.get(server_id)
        if guest is None or guest.power not in ("running", "paused"):
            return
        guest.power = power
        self.world.changed(server_id)
        if self.on_exit is not None:
            self.on_exit(server_id, power, cause)

    # --- the seam ---

    async def start(self) -> None:
        """There is nothing to check."""

    async def close(self) -> None:
        """Guests go on: they are the world's."""

    def capacity(self) -> Capacity:
        have = self._settings
        info = {"arch": "x86_64", "vendor": "Pileus", "model": "simulated"}
        return Capacity("simulated", VERSION, have.vcpus, have.memory_mb, have.disk_gb, info)

    def acceleration(self) -> Acceleration:
        return Acceleration("simulated", "this host is hollow: it runs no real guests")

    async def found(self) -> list[FoundGuest]:
        return [FoundGuest(guest.spec, guest.generation, guest.power) for guest in self.world.guests.values()]

    async def create(self, spec: GuestSpec, generation: int, images: Images, taps: Mapping[str, Tap]) -> None:
        async with self._locked(spec.server_id):
            known = self.world.guests.get(spec.server_id)
            if known is not None and known.power in ("running", "paused"):
                return
            missing = [port.port_id for port in spec.ports if port.port_id not in taps]
            if missing:
                raise HypervisorError(f"port {missing[0]} has no network device on this host")
            await self._pass(self._settings.start)
            if self._failures:
                raise HypervisorError(self._failures.popleft())
            if self._random.random() < self._settings.fail_start:
                raise HypervisorError("the simulated guest did not start (setting simulated.fail_start)")
            boots = known.boots if known is not None else 0
            self.world.guests[spec.server_id] = SimulatedGuest(spec, generation, boots=boots)
            self.world.changed(spec.server_id)

    async def resume(self, server_id: str) -> None:
        async with self._locked(server_id):
            guest = self._started(server_id)
            guest.power = "running"
            if not guest.booted:
                self._boot(guest)
            self.world.changed(server_id)

    async def pause(self, server_id: str) -> None:
        async with self._locked(server_id):
            self._started(server_id).power = "paused"
            self.world.changed(server_id)

    async def stop(self, server_id: str, *, hard: bool) -> None:
        async with self._locked(server_id):
            guest = self.world.guests.get(server_id)
            if guest is not None and guest.power in ("running", "paused"):
                await self._pass(self._settings.stop)
            if guest is not None:
                guest.power = "stopped"
                self.world.changed(server_id)

    async def reset(self, server_id: str, *, hard: bool) -> bool:
        async with self._locked(server_id):
            guest = self._known(server_id)
            if guest.power not in ("running", "paused") or (not hard and guest.power != "running"):
                return False
            guest.power = "running"
            self._boot(guest)
            self.world.changed(server_id)
            return True

    async def destroy(self, server_id: str) -> None:
        async with self._locked(server_id):
            if server_id in self.world.guests:
                await self._pass(self._settings.stop)
                del self.world.guests[server_id]
                self.world.changed(server_id)

    async def set_generation(self, server_id: str, generation: int) -> None:
        self._known(server_id).generation = generation
        self.world.changed(server_id)

    async def power(self, server_id: str) -> PowerState:
        guest = self.world.guests.get(server_id)
        return "absent" if guest is None else guest.power

    async def console(self, server_id: str, lines: int | None) -> str:
        guest = self.world.guests.get(server_id)
        if guest is None:
            return ""
        return guest.log if lines is None else "".join(guest.log.splitlines(keepends=True)[-lines:] if lines > 0 else [])

    def console_socket(self, server_id: str) -> Path | None:
        return None

    # --- helpers ---

    def _known(self, server_id: str) -> SimulatedGuest:
        guest = self.world.guests.get(server_id)
        if guest is None:
            raise HypervisorError(f"guest {server_id} is not on this host")
        return guest

    def _started(self, server_id: str) -> SimulatedGuest:
        guest = self._known(server_id)
        if guest.power not in ("running", "paused"):
            raise HypervisorError(f"guest {server_id} is not running")
        return guest

    def _boot(self, guest: SimulatedGuest) -> None:
        guest.booted = True
        guest.boots += 1

    async def _pass(self, seconds: float) -> None:
        """Let a latency pass, with its jitter. None at all costs no turn of the event loop."""
        if seconds > 0:
            jitter = self._settings.jitter
            await asyncio.sleep(seconds * self._random.uniform(1 - jitter, 1 + jitter))

    @contextlib.asynccontextmanager
    async def _locked(self, server_id: str) -> AsyncIterator[None]:
        """Calls on one guest are in order."""
        turn = self._turns.setdefault(server_id, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if turn.users == 0:
                del self._turns[server_id]
