"""One process of one role (`pileus serve`): it opens its engines, starts its parts, and works beside any number of others."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Literal

from pileus import firststart, roles
from pileus.bus import Bus
from pileus.bus.opening import open_bus
from pileus.errors import StartupError
from pileus.host.chores import Chores
from pileus.host.network_part import NetworkPart
from pileus.host.service import Host
from pileus.hosts import HostPart, Part, hollow_hosts, host_name, real_host
from pileus.http.server import HttpServer
from pileus.lockfile import claimed
from pileus.metrics_server import MetricsServer
from pileus.parts import Stack
from pileus.services import Services, assemble
from pileus.settings import Settings
from pileus.store.opening import open_store

Role = Literal["api", "worker", "network-rpc"]

AGENTS_AT_ONCE = 8
"""Agents of hollow hosts that restart at once; a thousand would keep their one process from everything else meanwhile."""


@dataclass(frozen=True)
class Place:
    """Which of how many processes of its kind this one is."""

    index: int = 0
    count: int = 1


class ControlProcess:
    """A process of the control plane. `listener`, `base_url` and `faces` are the API's."""

    def __init__(
        self,
        settings: Settings,
        role: Role,
        place: Place,
        *,
        base_url: str,
        listener: socket.socket | None = None,
        faces: Collection[str] = (),
    ) -> None:
        self.settings = settings
        self.access = firststart.Access(None)
        self._state = Path(settings.state).absolute()
        self._role = role
        self._place = place
        self._listener = listener
        self._base_url = base_url
        self._faces = faces
        self._stack = Stack()
        self._server: HttpServer | None = None

    async def start(self) -> None:
        """Raises StartupError in one line."""
        settings, stack = self.settings, self._stack
        if settings.metrics.listen:
            await stack.run(MetricsServer(settings.metrics.listen, self._place.index))
        store = await open_store(settings, role=self._role, processes=self._place.count)
        stack.push_async_callback(store.close)
        bus = await open_bus(settings, name=self._role)
        stack.push_async_callback(bus.close)
        services = assemble(settings, self._state, store, bus, self._base_url)
        stack.push_async_callback(services.close)
        if self._role == "api":
            await self._api(services)
        elif self._role == "network-rpc":
            await stack.run(services.identity)
            await roles.network_rpc(stack, services)
        else:
            if services.calls_with_our_tokens:
                await stack.run(services.identity)
            compute = roles.ComputeWorker(services, exclusive=False)
            await stack.run(compute.watch)
            await stack.run(compute.worker)

    async def wait(self) -> None:
        await (self._server.wait() if self._server is not None else asyncio.Event().wait())

    async def close(self) -> None:
        if self._server is not None:
            await self._server.close()
        await self._stack.aclose()

    async def _api(self, services: Services) -> None:
        assert self._listener is not None
        stack = self._stack
        await asyncio.to_thread(self._state.mkdir, mode=0o711, parents=True, exist_ok=True)
        await stack.run(services.identity)
        self.access = await firststart.run(self._state, self._base_url, services.identity, services.store, services.network.config)
        if "image" in self._faces:  # a folder that nobody uploads to must not judge which uploads are under way
            await stack.run(services.images)
        self._server = await roles.api(stack, services, self._listener, self._faces)


class HostProcess:
    """A hypervisor host, or many hollow ones: it knows the bus and the image API, and no database. SIGUSR1 restarts network agents;
    SIGUSR2 lets the compute service of the next host say that it was restarted: healing of its servers may begin again by that."""

    def __init__(self, settings: Settings, hypervisor: str, part: Part) -> None:
        self.settings = settings
        self.hosts: list[HostPart] = []
        self._hypervisor = hypervisor
        self._part: Part = part
        self._chores = Chores()
        self._in_turn: Iterator[Host] = iter(())
        self._state = Path(settings.state).absolute()
        self._stack = Stack()

    async def start(self) -> None:
        """Raises StartupError in one line."""
        self._stack.enter_context(claimed(self._state, "lock" if self._part == "both" else f"lock-{self._part}"))
        if self.settings.metrics.listen:
            await self._stack.run(MetricsServer(self.settings.metrics.listen))
        bus: Bus = await open_bus(self.settings, name="host", host=host_name(self.settings))
        self._stack.push_async_callback(bus.close)
        if self._hypervisor == "qemu":
            self.hosts = [real_host(self.settings, self._state, bus, part=self._part)]
        else:
            self.hosts = hollow_hosts(self.settings, self._state, bus)
        for host in self.hosts:
            await self._stack.run(host)
        self._in_turn = cycle([host for host in self.hosts if isinstance(host, Host)])
        self._stack.push_async_callback(self._chores.close)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._restart_agents)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, self._say_restarted)

    def _restart_agents(self) -> None:
        """All of them, as after an update of agents that are processes of their own."""
        hosts = [host for host in self.hosts if isinstance(host, (Host, NetworkPart))]
        for first in range(AGENTS_AT_ONCE):
            self._chores.start(_restart_each(hosts[first::AGENTS_AT_ONCE]), "restart-agents")

    def _say_restarted(self) -> None:
        host = next(self._in_turn, None)
        if host is not None:
            self._chores.start(host.say_restarted(), "say-restarted")

    async def wait(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        await self._stack.aclose()


async def _restart_each(hosts: Sequence[Host | NetworkPart]) -> None:
    for host in hosts:
        await host.restart_agent()


def check(settings: Settings, role: str) -> None:
    """Raises StartupError where a role that stands apart could reach no other."""
    missing = [] if settings.bus.url else ["bus.url (nats://HOST:PORT)"]
    if role != "host" and not settings.database.url:
        missing.insert(0, "database.url (postgresql://USER:PASSWORD@HOST:PORT/NAME)")
    if missing:
        raise StartupError(
            f"`pileus serve {role}` is one of several processes, so it needs {' and '.join(missing)}; `pileus up` needs neither"
        )
