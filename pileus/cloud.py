"""The whole cloud in one process: all roles, and the hosts."""

from __future__ import annotations

from pathlib import Path

from pileus import firststart, roles
from pileus.bus.opening import open_bus
from pileus.choice import Choice
from pileus.errors import StartupError
from pileus.hosts import HostPart, hollow_hosts, real_host
from pileus.http.server import HttpServer, listening, public_url
from pileus.lockfile import claimed
from pileus.metrics_server import MetricsServer
from pileus.parts import Stack
from pileus.services import FACES, assemble
from pileus.settings import Settings
from pileus.store.opening import open_store

HEARD_LIMIT = 60.0
"""Seconds in which all hosts of a process that has started them must have said that they live."""


class Cloud:
    """`start` returns when requests are answered; `close` drains them and leaves guests running."""

    def __init__(self, settings: Settings, choice: Choice) -> None:
        self.settings = settings
        self.choice = choice
        self.state = Path(settings.state).absolute()
        self.hosts: list[HostPart] = []
        self.access = firststart.Access(None)
        self.base_url = ""
        self._stack = Stack()
        self._server: HttpServer | None = None

    async def start(self) -> None:
        """Raises StartupError in one line; what had been started is closed again."""
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        if self._server is not None:
            await self._server.close()
        await self._stack.aclose()

    async def wait(self) -> None:
        """Until the HTTP server ends."""
        if self._server is not None:
            await self._server.wait()

    async def _start(self) -> None:
        settings, stack = self.settings, self._stack
        if settings.network.rpc_workers > 1:
            raise StartupError(
                f"setting network.rpc_workers is {settings.network.rpc_workers}, but `pileus up` is one process: it takes the agents' "
                "RPC itself; set it to 1, or run the roles apart with `pileus serve`"
            )
        stack.enter_context(claimed(self.state))
        listener = stack.enter_context(listening(settings.api.listen))
        self.base_url = settings.api.public_url or public_url(listener)
        if settings.metrics.listen:
            await stack.run(MetricsServer(settings.metrics.listen))
        if settings.database.url:
            from pileus.store.upgrading import upgrade_postgresql  # SQLite does without what it imports

            await upgrade_postgresql(settings.database.url)
        store = await open_store(settings, role="up")
        stack.push_async_callback(store.close)
        bus = await open_bus(settings, name="up")
        stack.push_async_callback(bus.close)
        services = assemble(settings, self.state, store, bus, self.base_url)
        stack.push_async_callback(services.close)
        await stack.run(services.identity)
        self.access = await firststart.run(self.state, self.base_url, services.identity, store, services.network.config)
        await stack.run(services.images)
        await roles.network_rpc(stack, services)
        compute = roles.ComputeWorker(services, exclusive=not settings.database.url)
        await stack.run(compute.watch)
        self._server = await roles.api(stack, services, listener, FACES)
        if self.choice.hypervisor == "qemu":
            self.hosts = [real_host(settings, self.state, bus, services.images)]
        else:
            self.hosts = hollow_hosts(settings, self.state, bus, services.images)
        for host in self.hosts:
            await stack.run(host)
        try:
            await compute.watch.heard([host.name for host in self.hosts], HEARD_LIMIT)
        except TimeoutError:
            raise StartupError(f"not all of {len(self.hosts)} hosts were heard of within {HEARD_LIMIT:.0f} s") from None
        # Only now: what was under way when we were ended would fail on hosts that seem down because nobody has heard of them since.
        await stack.run(compute.worker)
