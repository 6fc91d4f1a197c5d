"""What can happen to a cloud, each as a function that lets it happen and ends when it is over.

Each is given dice of its own, so that what happens depends on the seed and not on what else takes how long.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from tests.chaos.proxy import Proxy, Weather
from tests.engines.cluster import Cluster, Process
from tests.real.machine import Machine


@dataclass
class Scene:
    """A cloud under fire. `proxies`: between the processes and NATS, by whom they serve: `all`, or one host process alone. `pace`:
    how long things last, 1 is seconds. `down_time`: seconds after which a silent host is given up. `machines`: of real hosts."""

    cluster: Cluster
    proxies: dict[str, Proxy]
    down_time: float
    pace: float = 1.0
    machines: Mapping[str, Machine] = field(default_factory=dict)


Fault = Callable[[Scene, random.Random], Awaitable[None]]


def kill(name: str) -> Fault:
    """kill -9, and after a while it is started again."""

    async def fault(scene: Scene, dice: random.Random) -> None:
        process = scene.cluster.processes[name]
        await asyncio.to_thread(process.kill)
        await asyncio.sleep(scene.pace * dice.uniform(0, 2))
        await _again(process)

    return fault


def restart(name: str) -> Fault:
    """It is told to end, and started again."""

    async def fault(scene: Scene, dice: random.Random) -> None:
        process = scene.cluster.processes[name]
        await asyncio.to_thread(process.stop)
        await _again(process)

    return fault


def freeze(name: str) -> Fault:
    """It stands still for seconds, and goes on as if nothing had been."""

    async def fault(scene: Scene, dice: random.Random) -> None:
        process = scene.cluster.processes[name]
        process.freeze()
        try:
            await asyncio.sleep(scene.pace * dice.uniform(1, 5))
        finally:
            process.thaw()

    return fault


def restart_agents(name: str) -> Fault:
    """The network agents of a host process alone begin anew."""

    async def fault(scene: Scene, dice: random.Random) -> None:
        scene.cluster.processes[name].restart_agents()

    return fault


def stay_away(name: str) -> Fault:
    """A host process is dead for so long that it is given up, and comes back to what it had."""

    async def fault(scene: Scene, dice: random.Random) -> None:
        process = scene.cluster.processes[name]
        await asyncio.to_thread(process.kill)
        await asyncio.sleep(scene.down_time * dice.uniform(1.3, 2))
        await _again(process)

    return fault


def cut_off(name: str, *, given_up: bool = False) -> Fault:
    """A host process loses the bus for seconds; `given_up`: for so long that it counts as down, while its guests run."""

    async def fault(scene: Scene, dice: random.Random) -> None:
        proxy = scene.proxies[name]
        proxy.closed = True
        proxy.cut()
        try:
            await asyncio.sleep(scene.down_time * dice.uniform(1.3, 2) if given_up else scene.pace * dice.uniform(1, 4))
        finally:
            proxy.closed = False

    return fault


async def kill_postgresql(scene: Scene, dice: random.Random) -> None:
    await asyncio.to_thread(scene.cluster.postgres.kill)
    await asyncio.sleep(scene.pace * dice.uniform(0, 2))
    await asyncio.to_thread(scene.cluster.postgres.start)


async def freeze_postgresql(scene: Scene, dice: random.Random) -> None:
    scene.cluster.postgres.pause()
    try:
        await asyncio.sleep(scene.pace * dice.uniform(1, 4))
    finally:
        scene.cluster.postgres.resume()


async def kill_nats(scene: Scene, dice: random.Random) -> None:
    await asyncio.to_thread(scene.cluster.nats.kill)
    await asyncio.sleep(scene.pace * dice.uniform(0, 2))
    await asyncio.to_thread(scene.cluster.nats.start)


async def freeze_nats(scene: Scene, dice: random.Random) -> None:
    scene.cluster.nats.freeze()
    try:
        await asyncio.sleep(scene.pace * dice.uniform(1, 4))
    finally:
        scene.cluster.nats.thaw()


async def bad_weather(scene: Scene, dice: random.Random) -> None:
    """For seconds, messages are lost, doubled and late."""
    weather = Weather(lost=dice.uniform(0.02, 0.2), doubled=dice.uniform(0, 0.2), late=dice.uniform(0, 0.3), delay=dice.uniform(0.05, 2))
    before = {name: proxy.weather for name, proxy in scene.proxies.items()}
    for proxy in scene.proxies.values():
        proxy.weather = weather
    try:
        await asyncio.sleep(scene.pace * dice.uniform(3, 6))
    finally:
        for name, proxy in scene.proxies.items():
            proxy.weather = before[name]


async def cut_everybody(scene: Scene, dice: random.Random) -> None:
    """Every connection to NATS ends once."""
    for proxy in scene.proxies.values():
        proxy.cut()


async def kill_a_guest(scene: Scene, dice: random.Random) -> None:
    """One QEMU dies."""
    running = [(machine, server) for machine in scene.machines.values() for server in machine.guest_folders()]
    found = [pid for machine, server in running for pid in machine.qemus(server)]
    if found:
        _send(dice.choice(sorted(found)), signal.SIGKILL)


def kill_switch(host: str) -> Fault:
    """The switch's own process dies under guests and agent."""

    async def fault(scene: Scene, dice: random.Random) -> None:
        if pid := scene.machines[host].daemon("ovs-vswitchd"):
            _send(pid, signal.SIGKILL)

    return fault


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


async def _again(process: Process) -> None:
    """Started, and not waited for: that it comes up is the load's to see."""
    while not process.running:
        process.start()
        await asyncio.sleep(0.3)
