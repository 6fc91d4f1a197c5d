"""The compute side of a host: hypervisor, images and guests, joined to the control plane and to its network agent by the bus."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from pileus.bus import Bus, Subscription
from pileus.host.builder import Builder
from pileus.host.chores import repeat
from pileus.host.guests import Guests
from pileus.host.heartbeat import Heartbeat
from pileus.host.hypervisor import Hypervisor
from pileus.host.images import ImageCache
from pileus.host.network_part import network_types
from pileus.host.network_side import NetworkSide
from pileus.host.plug_signal import CallbackSignal, LocalSignal, PlugSignal
from pileus.host.remote_agent import RemoteAgent
from pileus.host.switch import Taps
from pileus.messages import (
    PROGRESS,
    REPORT,
    ConsoleRequest,
    ConsoleText,
    Desired,
    FactsWanted,
    HostEvent,
    HostFacts,
    HostReport,
    Progress,
    console_subject,
    desired_subject,
    event_subject,
    facts_subject,
    from_host,
)
from pileus.settings import Settings

REPORT_AGAIN = 6.0
"""Seconds from the first report to the second: the control plane believes no report on what changed in the 5 s before it."""


@dataclass(frozen=True)
class ComputeParts:
    hypervisor: Hypervisor
    taps: Taps
    images: ImageCache


class ComputePart:
    """`open`, then `listen`. `spread`: seconds over which the first reports of hosts that start together are spread."""

    def __init__(
        self,
        name: str,
        parts: ComputeParts,
        network: NetworkSide,
        bus: Bus,
        settings: Settings,
        *,
        address: str = "127.0.0.1",
        spread: float = 0.0,
    ) -> None:
        self.name = name
        self.parts = parts
        self._bus = bus
        self._settings = settings
        self._address = address
        self._spread = spread
        self._started_at = time.time()
        reread = settings.compute.vif_plugging_reread
        self._callback = CallbackSignal(name, bus, question_limit=settings.network.rpc_timeout, reread=reread)
        starts = settings.host.start_concurrency or os.cpu_count() or 1
        signals: dict[str, PlugSignal] = {"local": LocalSignal(network), "callback": self._callback}
        limits = settings.compute
        tell = self._waits
        builder = Builder(parts.hypervisor, parts.taps, network, parts.images, signals, limits, starts=starts, tell_wait=tell)
        self.guests = Guests(name, parts.hypervisor, network, builder, bus, limits, deletes=settings.host.delete_concurrency)
        self._in_use = self.guests.images_in_use
        parts.images.used_by(self._in_use)
        self._heartbeat = Heartbeat(bus, limits.heartbeat_interval, self.facts)
        self._subscriptions: list[Subscription] = []
        self._forget: Callable[[], None] = lambda: None
        self._reporting: asyncio.Task[None] | None = None

    async def _waits(self, message: Desired, stamps: dict[str, float], step: str) -> None:
        """A build does nothing any more but wait: others may begin in its place."""
        news = Progress(message.server_id, self.name, message.generation, stamps, step)
        await self._bus.publish(from_host(self.name, PROGRESS), news)

    async def open(self) -> None:
        """Raises StartupError in one line."""
        await self.parts.hypervisor.start()

    async def listen(self) -> None:
        """Be there for the control plane, and say so."""
        bus = self._bus
        self._subscriptions = [
            bus.subscribe(desired_subject(self.name), Desired, self.guests.desired),
            bus.subscribe(event_subject(self.name), HostEvent, self._callback.event),
            bus.subscribe(facts_subject(self.name), FactsWanted, self._wanted),
            bus.serve(console_subject(self.name), ConsoleRequest, self._console, concurrency=4),
        ]
        self._forget = bus.on_reconnect(self._reconnected)
        await self._heartbeat.start()
        if not self._spread:
            await self._report()
        interval = self._settings.compute.report_interval
        # Each host has a phase of its own from the third report on; sooner or later than the interval matters to nobody.
        phase = random.uniform(0.5, 1.0) * interval  # noqa: S311 - no secret
        pauses = [min(REPORT_AGAIN, interval), phase]
        if self._spread:
            pauses.insert(0, random.uniform(0, self._spread))  # noqa: S311 - no secret
        self._report_after(*pauses)

    async def close(self) -> None:
        """Stop listening and working; guests go on."""
        self._forget()
        for subscription in self._subscriptions:
            await subscription.close()
        await self._heartbeat.close()
        if self._reporting is not None:
            self._reporting.cancel()
            await asyncio.gather(self._reporting, return_exceptions=True)
        await self.guests.close()
        await self.parts.images.left_by(self._in_use)
        await self.parts.hypervisor.close()

    async def say_restarted(self) -> None:
        """Tell what a compute service tells that has just been started. It goes on with all its work: this is for labs."""
        self._started_at = time.time()
        await self._heartbeat.tell()

    def facts(self) -> HostFacts:
        """What this host has and holds. Waits for no guest: a heartbeat that did would be late with each that does not answer."""
        capacity = self.parts.hypervisor.capacity()
        acceleration = self.parts.hypervisor.acceleration()
        settings = self._settings
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
            availability_zone=settings.compute.availability_zone,
            physical_networks=sorted(settings.host.bridge_mappings),
            network_types=network_types(settings),
            guests=self.guests.count(),
            started_at=self._started_at,
        )

    async def _wanted(self, wanted: FactsWanted) -> None:
        if wanted.part == "compute":
            await self._heartbeat.tell()

    async def _report(self) -> None:
        at = time.time()
        await self._bus.publish(from_host(self.name, REPORT), HostReport(self.name, await self.guests.now(), at))
        await self.parts.images.prune(self._settings.compute.report_interval / 2)

    def _report_after(self, *pauses: float) -> None:
        """Report after each of these pauses (s), then at the interval."""
        if self._reporting is not None:
            self._reporting.cancel()
        self._reporting = asyncio.create_task(repeat(self._settings.compute.report_interval, self._report, *pauses), name="report")

    async def _reconnected(self) -> None:
        """Messages were lost while the bus was: say what is, and ask what is (law 1)."""
        await self._heartbeat.beat()
        self._report_after(random.uniform(0, self._spread))  # noqa: S311 - no secret
        self._callback.look_again()

    async def _console(self, request: ConsoleRequest) -> ConsoleText:
        return ConsoleText(await self.parts.hypervisor.console(request.server_id, request.lines))


class ComputeAlone:
    """The compute side as a process of its own: its network agent is reached by the bus."""

    def __init__(
        self,
        name: str,
        parts: ComputeParts,
        bus: Bus,
        settings: Settings,
        *,
        address: str = "127.0.0.1",
        at_end: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self._at_end = at_end
        self.network = RemoteAgent(name, bus, longest=settings.network.rpc_timeout)
        self.part = ComputePart(name, parts, self.network, bus, settings, address=address)

    async def start(self) -> None:
        """Re-read what runs here, tell the agent, then listen. The agent need not be there yet. Raises StartupError in one line."""
        await self.part.open()
        await self.part.guests.adopt()
        self.network.start(self.part.guests.holdings)
        await self.part.listen()

    async def close(self) -> None:
        """Stop listening and working; guests go on."""
        await self.part.close()
        await self.network.close()
        if self._at_end is not None:
            self._at_end()
