"""The whole cloud in one process: every seam with its implementation, every service, and the hosts."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import structlog
import uvicorn

from pileus import firststart, operator_api
from pileus.bus.inprocess import InProcessBus
from pileus.compute.api.face import face as compute_face
from pileus.compute.hostwatch import HostWatch
from pileus.compute.scheduler import Scheduler
from pileus.compute.service import Compute
from pileus.compute.worker import Worker
from pileus.errors import StartupError
from pileus.host.service import Host
from pileus.hosts import hollow_hosts, real_host
from pileus.http.face import Limits
from pileus.http.mount import mount
from pileus.identity.api.face import face as identity_face
from pileus.identity.service import Identity
from pileus.image.api.face import face as image_face
from pileus.image.service import Images
from pileus.network.api.face import face as network_face
from pileus.network.client import InProcessNetwork
from pileus.network.compute_http import HttpComputeEvents
from pileus.network.service import Network
from pileus.placement.api.face import face as placement_face
from pileus.placement.service import Placement
from pileus.settings import Settings
from pileus.store.sqlite import SqliteStore

log = structlog.get_logger(__name__)

HEARD_LIMIT = 60.0
"""Seconds in which all hosts of a process that has started them must have said that they live."""


class Part(Protocol):
    async def start(self) -> None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Choice:
    """Which hypervisor runs the guests, and why in words."""

    hypervisor: str
    reason: str


class Cloud:
    """`start` returns when requests are answered; `close` drains them and leaves guests running."""

    def __init__(self, settings: Settings, choice: Choice) -> None:
        self.settings = settings
        self.choice = choice
        self.state = Path(settings.state).absolute()
        self.bus = InProcessBus()
        self.hosts: list[Host] = []
        self.clouds_yaml: Path | None = None
        self.base_url = ""
        self._stack = AsyncExitStack()
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises StartupError in one line; what had been started is closed again."""
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await asyncio.gather(self._serving, return_exceptions=True)
            self._serving = None
        await self._stack.aclose()

    async def wait(self) -> None:
        """Until the HTTP server ends. Who gives up waiting does not end it: `close` does, and drains it."""
        if self._serving is not None:
            await asyncio.wait([self._serving])

    async def _start(self) -> None:
        settings, stack = self.settings, self._stack
        if settings.network.rpc_workers > 1:
            raise StartupError(
                f"setting network.rpc_workers is {settings.network.rpc_workers}, but `pileus up` is one process: it takes the agents' "
                "RPC itself; set it to 1"
            )
        stack.enter_context(claimed(self.state))
        listener = stack.enter_context(listening(settings.api.listen))
        self.base_url = settings.api.public_url or public_url(listener)
        store = await asyncio.to_thread(SqliteStore.open, self.state / "pileus.db")
        stack.push_async_callback(store.close)
        stack.push_async_callback(self.bus.close)

        identity = Identity(store, settings, self.state / "keys", self.base_url)
        placement = Placement(store)
        images = Images(store, self.state / "images", settings)
        network = Network(store, self.bus, settings, notify=settings.compute.plug_signal == "callback")
        compute = Compute(store, self.bus, settings, images, InProcessNetwork(store, network.config), placement)
        scheduler = Scheduler(store, placement, settings.compute)
        await self._run(identity)
        self.clouds_yaml = await firststart.run(self.state, self.base_url, identity, store, network.config)
        await self._run(images)
        if network.config.notify:
            events = HttpComputeEvents(f"{self.base_url}/compute/v2.1", identity.service_token, limit=settings.network.notify_timeout)
            stack.push_async_callback(events.close)
            network.notify_by(events)
        await self._run(network)
        watch = HostWatch(compute, scheduler)
        await self._run(watch)
        await self._serve(listener, identity, placement, images, network, compute)
        if self.choice.hypervisor == "qemu":
            self.hosts = [real_host(settings, self.state, self.bus, images)]
        else:
            self.hosts = hollow_hosts(settings, self.state, self.bus, images)
        for host in self.hosts:
            await self._run(host)
        try:
            await watch.heard([host.name for host in self.hosts], HEARD_LIMIT)
        except TimeoutError:
            raise StartupError(f"not all of {len(self.hosts)} hosts were heard of within {HEARD_LIMIT:.0f} s") from None
        # Only now: what was under way when we were ended would fail on hosts that seem down because nobody has heard of them since.
        await self._run(Worker(compute, scheduler, exclusive=True))

    async def _run(self, part: Part) -> None:
        """Start a part; all are closed in reverse order."""
        self._stack.push_async_callback(part.close)
        await part.start()

    async def _serve(
        self, listener: socket.socket, identity: Identity, placement: Placement, images: Images, network: Network, compute: Compute
    ) -> None:
        api = self.settings.api
        limits = Limits(api.max_body, api.max_limit)
        ask, url = identity.authenticate, f"{self.base_url}/identity"
        app = mount(
            {
                "/identity": identity_face(identity, limits),
                "/image": image_face(images, ask, url, self.base_url, limits),
                "/placement": placement_face(placement, ask, url, self.base_url, limits),
                "/compute": compute_face(compute, ask, url, self.base_url, limits),
                "/network": network_face(network, ask, url, self.base_url, limits),
                "/pileus": operator_api.face(compute, ask, url, self.base_url, limits),
            }
        )
        config = uvicorn.Config(
            app,
            http="httptools",
            loop="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, round(api.drain)),
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="http")
        while not self._server.started and not self._serving.done():  # noqa: ASYNC110 uvicorn has no event for it
            await asyncio.sleep(0.001)


class _Server(uvicorn.Server):
    """Signals are for whoever runs the cloud, not for its HTTP server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def claimed(state: Path) -> Iterator[None]:
    """The state folder is ours alone while this lasts. Raises StartupError."""
    try:
        state.mkdir(mode=0o711, parents=True, exist_ok=True)
        file = (state / "lock").open("a+")
    except OSError as error:
        raise StartupError(f"state folder {state}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise StartupError(f"state folder {state} is in use by another pileus (pid {file.read().strip() or '?'})") from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    """A listening socket. Raises StartupError that names address and reason."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, int(port)))
            listener.listen(2048)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise StartupError(f"cannot listen on {address}: {why}; choose another with --listen ADDR:PORT") from None
        listener.setblocking(False)
        yield listener


def public_url(listener: socket.socket) -> str:
    """What clients call us: the address we listen on, or this machine's name when we listen on all of them."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def effective(settings: Settings, origins: Mapping[str, str], choice: Choice) -> Settings:
    """Settings with what hollow hosts imply: they share a simulated physical network, so networks can span them."""
    if choice.hypervisor != "simulated" or settings.host.hosts == 1 or "network.default_type" in origins:
        return settings
    network = msgspec.structs.replace(
        settings.network, default_type="vlan", vlan_ranges=settings.network.vlan_ranges or ["simulated:1:4094"]
    )
    names = {entry.partition(":")[0] for entry in network.vlan_ranges}
    host = msgspec.structs.replace(settings.host, bridge_mappings=settings.host.bridge_mappings or dict.fromkeys(sorted(names), "none"))
    return msgspec.structs.replace(settings, network=network, host=host)
