"""How a guest comes to run: image, plug and a paused guest at once; the agent wires; resume."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

from pileus.host.hypervisor import Hypervisor, Images
from pileus.host.images import ImageCache
from pileus.host.network_side import NetworkSide
from pileus.host.plug_signal import PlugFailed, PlugSignal
from pileus.host.steps import StepFailed, do, first_of
from pileus.host.switch import Tap, Taps
from pileus.messages import Desired, GuestSpec
from pileus.settings import Compute

TELL_WAIT = 1.0
"""Seconds of waiting for the network, with everything else done, after which it is told."""

TellWait = Callable[[Desired, dict[str, float], str], Awaitable[None]]
"""(message, stamps until now, the step that is waited for)."""


class Builder:
    """`starts`: guest processes started at once; what waits for its network does not count. `tell_wait`: called once for a build
    that does nothing any more but wait for its network."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        taps: Taps,
        network: NetworkSide,
        images: ImageCache,
        signals: dict[str, PlugSignal],
        limits: Compute,
        *,
        starts: int,
        tell_wait: TellWait,
    ) -> None:
        self._hypervisor = hypervisor
        self._taps = taps
        self._network = network
        self._images = images
        self._signals = signals
        self._limits = limits
        self._starting = asyncio.Semaphore(starts)
        self._tell_wait = tell_wait

    async def build(self, message: Desired, spec: GuestSpec, stamps: dict[str, float]) -> None:
        """Make the guest run on its ports, or ready to where that is not the goal, stamping the steps that are done.

        Raises StepFailed; undoing is the caller's.
        """
        signal = self._signals[message.signal]
        signal.expect(spec.server_id, spec.ports)
        try:
            with ExitStack() as opened:
                await do("plugged", self._limits.plug_limit, self._network.left(spec.ports))
                async with asyncio.TaskGroup() as group:
                    image = group.create_task(self._image(message.spec or spec, stamps))
                    taps = await do("plugged", self._limits.plug_limit, self._open_taps(spec, opened))
                    paused = group.create_task(self._start_paused(message, spec, taps, image, stamps))
                    connected = group.create_task(self._connect(message, spec, signal, stamps))
                    if spec.ports:
                        group.create_task(self._watch(message, paused, connected, stamps))
        except BaseExceptionGroup as several:
            raise first_of(several) from None
        finally:
            signal.forget(spec.server_id)
        if message.goal != "running":
            return
        await do("resumed", self._limits.start_limit, self._hypervisor.resume(spec.server_id))
        stamps["resumed"] = time.time()

    async def _image(self, spec: GuestSpec, stamps: dict[str, float]) -> Images:
        images = await do("image", self._limits.image_limit, self._images.prepare(spec.boot))
        stamps["image"] = time.time()
        return images

    async def _open_taps(self, spec: GuestSpec, opened: ExitStack) -> dict[str, Tap]:
        taps = {}
        for port in spec.ports:
            tap = taps[port.port_id] = await self._taps.open_tap(port.port_id, port.mtu)
            if tap.fd >= 0:
                opened.callback(os.close, tap.fd)
        return taps

    async def _start_paused(
        self, message: Desired, spec: GuestSpec, taps: dict[str, Tap], image: asyncio.Task[Images], stamps: dict[str, float]
    ) -> None:
        images = await image
        async with self._starting:
            start = self._hypervisor.create(spec, message.generation, images, taps)
            await do("paused", self._limits.start_limit, start)
        stamps["paused"] = time.time()

    async def _connect(self, message: Desired, spec: GuestSpec, signal: PlugSignal, stamps: dict[str, float]) -> None:
        await do("plugged", self._limits.plug_limit, self._network.plug(spec.ports))
        if not spec.ports:
            return
        stamps["plugged"] = time.time()
        # Nova's two ways to do without the network are the callback's: beside us it is work that we do, and it has a limit.
        local = message.signal == "local"
        if not local and message.plug_timeout == 0:
            return
        limit = message.plug_timeout or self._limits.plug_limit
        try:
            stamps |= await signal.ready(spec.server_id, spec.ports, limit)
        except PlugFailed as failed:
            if local or message.plug_fatal:
                raise StepFailed(failed.step, failed.cause) from None
        except TimeoutError:
            if local or message.plug_fatal:
                raise StepFailed(*await self._late(limit, spec)) from None
        if "wired" not in stamps:
            levels = await self._network.levels(spec.ports)
            if all(port.port_id in levels for port in spec.ports):
                stamps["wired"] = max(level.at for level in levels.values())

    async def _watch(self, message: Desired, paused: asyncio.Task[None], connected: asyncio.Task[None], stamps: dict[str, float]) -> None:
        """Say so when all but the network has been ready for a while."""
        await asyncio.wait([paused])
        _, waiting = await asyncio.wait([connected], timeout=TELL_WAIT)
        if waiting and "plugged" in stamps:
            await self._tell_wait(message, dict(stamps), "wired" if message.signal == "local" else "signalled")

    async def _late(self, limit: float, spec: GuestSpec) -> tuple[str, str]:
        """Which step the network's wait ended in, and what to say of it."""
        levels = await self._network.levels(spec.ports)
        unwired = [p.port_id for p in spec.ports if p.port_id not in levels or levels[p.port_id].generation < p.generation]
        if unwired:
            return "wired", f"port {unwired[0]} was not wired within {limit:g} s"
        return "signalled", f"no network-vif-plugged arrived within {limit:g} s, and the port is not ready either"
