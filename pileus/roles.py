"""The roles of a control plane: what each starts, on a stack that closes it again. `pileus up` starts them all in one process."""

from __future__ import annotations

import socket
from collections.abc import Collection

from pileus.compute.hostwatch import HostWatch
from pileus.compute.scheduler import Scheduler
from pileus.compute.worker import Worker
from pileus.http.server import HttpServer
from pileus.parts import Stack
from pileus.services import Services, faces


async def api(stack: Stack, services: Services, listener: socket.socket, wanted: Collection[str]) -> HttpServer:
    """Answer requests to the faces that are wanted."""
    return await stack.run(HttpServer(faces(services, wanted), listener, drain=services.settings.api.drain))


async def network_rpc(stack: Stack, services: Services) -> None:
    """Take what agents ask and report, and tell compute of it. Raises StartupError."""
    events = services.events()
    stack.push_async_callback(events.close)
    services.network.notify_by(events)
    await stack.run(services.network)


class ComputeWorker:
    """The worker and what it knows of hosts: they share one picture. Two parts, because `pileus up` hears its hosts in between."""

    def __init__(self, services: Services, *, exclusive: bool) -> None:
        scheduler = Scheduler(services.store, services.placement, services.settings.compute)
        self.watch = HostWatch(services.compute, scheduler)
        self.worker = Worker(services.compute, scheduler, exclusive=exclusive)
