"""One host: a hypervisor, a switch, DHCP and an agent, joined to the control plane by the bus and nothing else."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from pileus.bus import Bus, Subscription
from pileus.host.agent import Agent
from pileus.host.builder import Builder
from pileus.host.dhcp import Dhcp
from pileus.host.guests import Guests
from pileus.host.hypervisor import Hypervisor
from pileus.host.images import ImageCache
from pileus.host.plug_signal import CallbackSignal, LocalSignal, PlugSignal
from pileus.host.switch import Switch
from pileus.messages import (
    HEARTBEAT,
    REPORT,
    ConsoleRequest,
    ConsoleText,
    Desired,
    HostEvent,
    HostFacts,
    HostReport,
    PortsChanged,
    console_subject,
    desired_subject,
    event_subject,
    from_host,
    ports_subject,
)
from pileus.settings import Settings

log = structlog.get_logger(__name__)

REPORT_AGAIN = 6.0
"""Seconds from the first report to the second: the control plane believes no report on what changed in the 5 s before it."""


@dataclass(frozen=True)
class Parts:
    """What a host stands on: one implementation of each seam."""

    hypervisor: Hypervisor
    switch: Switch
    dhcp: Dhcp
    images: ImageCache


class Host:
    def __init__(self, name: str, parts: Parts, bus: Bus, settings: Settings, *, address: str = "127.0.0.1") -> None:
        self.name = name
        self.parts = parts
        self._bus = bus
        self._settings = settings
        self._address = address
        self._started_at = time.time()
        callback = settings.compute.plug_signal == "callback"
        self.agent = Agent(name, parts.switch, parts.dhcp, bus, settings.network, notices=callback)
        self._callback = CallbackSignal(name, bus, question_limit=settings.network.rpc_timeout)
        starts = settings.host.start_concurrency or os.cpu_count() or 1
        signals: dict[str, PlugSignal] = {"local": LocalSignal(self.agent), "callback": self._callback}
        limits = settings.compute
        builder = Builder(parts.hypervisor, parts.switch, self.agent, parts.images, signals, limits, starts=starts)
        self.guests = Guests(name, parts.hypervisor, self.agent, builder, bus, limits, deletes=settings.host.delete_concurrency)
        self._subscriptions: list[Subscription] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Re-read what is really there, then listen, then say that we live. Raises StartupError in one line."""
        parts = self.parts
        await asyncio.gather(parts.hypervisor.start(), parts.switch.start())
        await parts.dhcp.start()
        owned, idle = await self.guests.adopt()
        await self.agent.start(owned, idle)
        bus = self._bus
        self._subscriptions = [
            bus.subscribe(desired_subject(self.name), Desired, self.guests.desired),
            bus.subscribe(event_subject(self.name), HostEvent, self._callback.event),
            bus.subscribe(ports_subject(self.name), PortsChanged, self.agent.update),
            bus.serve(console_subject(self.name), ConsoleRequest, self._console, concurrency=4),
        ]
        await self._beat()
        await self._report()
        self._tasks = [
            asyncio.create_task(self._every(self._settings.compute.heartbeat_interval, self._beat), name="heartbeat"),
            asyncio.create_task(self._every(self._settings.compute.report_interval, self._report, first=REPORT_AGAIN), name="report"),
        ]

    async def close(self) -> None:
        """Stop listening and working; guests, ports and DHCP go on."""
        for subscription in self._subscriptions:
            await subscription.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.guests.close()
        await self.agent.close()
        await self.parts.dhcp.close()
        await self.parts.switch.close()
        await self.parts.hypervisor.close()

    def facts(self) -> HostFacts:
        """What this host has and holds. Waits for no guest: a heartbeat that did would be late with each that does not answer."""
        capacity = self.parts.hypervisor.capacity()
        acceleration = self.parts.hypervisor.acceleration()
        mappings = self._settings.host.bridge_mappings
        return HostFacts(
            host=self.name,
            hypervisor_type=capacity.type,
            hypervisor_version=capacity.version,
            vcpus=capacity.vcpus,
            memory_mb=capacity.memory_mb,
            disk_gb=capacity.disk_gb,
            cpu_info=dict(capacity.cpu_info),
            acceleration=acceleration.name,
            acceleration_reason=acceleration.reason,
            address=self._address,
            availability_zone=self._settings.compute.availability_zone,
            physical_networks=sorted(mappings),
            network_types=["local", *(["vlan"] if mappings else [])],
            guests=self.guests.count(),
            started_at=self._started_at,
        )

    async def _beat(self) -> None:
        await self._bus.publish(from_host(self.name, HEARTBEAT), self.facts())

    async def _report(self) -> None:
        at = time.time()
        await self._bus.publish(from_host(self.name, REPORT), HostReport(self.name, await self.guests.now(), at))
        await self.parts.images.prune(self.guests.images_in_use())

    async def _console(self, request: ConsoleRequest) -> ConsoleText:
        return ConsoleText(await self.parts.hypervisor.console(request.server_id, request.lines))

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]], *, first: float | None = None) -> None:
        pause = seconds if first is None else min(first, seconds)
        while True:
            await asyncio.sleep(pause)
            pause = seconds
            try:
                await work()
            except Exception:
                log.exception("host's periodic work failed; it goes on", host=self.name)
