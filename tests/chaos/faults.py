"""What can happen to a cloud, each as a function that lets it happen and ends when it is over."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.chaos.proxy import Proxy, Weather
from tests.engines.cluster import Cluster, Process


@dataclass
class Scene:
    """A cloud under fire. `proxies`: between the processes and NATS, by whom they serve: `all`, or one host process alone."""

    cluster: Cluster
    proxies: dict[str, Proxy]
    dice: random.Random


Fault = Callable[[Scene], Awaitable[None]]


def kill(name: str) -> Fault:
    """kill -9, and after a while it is started again."""

    async def fault(scene: Scene) -> None:
        process = scene.cluster.processes[name]
        await asyncio.to_thread(process.kill)
        await asyncio.sleep(scene.dice.uniform(0, 2))
        await _again(process)

    return fault


def restart(name: str) -> Fault:
    """It is told to end, and started again."""

    async def fault(scene: Scene) -> None:
        process = scene.cluster.processes[name]
        await asyncio.to_thread(process.stop)
        await _again(process)

    return fault


def freeze(name: str) -> Fault:
    """It stands still for seconds, and goes on as if nothing had been."""

    async def fault(scene: Scene) -> None:
        process = scene.cluster.processes[name]
        process.freeze()
        try:
            await asyncio.sleep(scene.dice.uniform(1, 5))
        finally:
            process.thaw()

    return fault


async def kill_postgresql(scene: Scene) -> None:
    await asyncio.to_thread(scene.cluster.postgres.kill)
    await asyncio.sleep(scene.dice.uniform(0, 2))
    await asyncio.to_thread(scene.cluster.postgres.start)


async def freeze_postgresql(scene: Scene) -> None:
    scene.cluster.postgres.pause()
    try:
        await asyncio.sleep(scene.dice.uniform(1, 4))
    finally:
        scene.cluster.postgres.resume()


async def kill_nats(scene: Scene) -> None:
    await asyncio.to_thread(scene.cluster.nats.kill)
    await asyncio.sleep(scene.dice.uniform(0, 2))
    await asyncio.to_thread(scene.cluster.nats.start)


async def freeze_nats(scene: Scene) -> None:
    scene.cluster.nats.freeze()
    try:
        await asyncio.sleep(scene.dice.uniform(1, 4))
    finally:
        scene.cluster.nats.thaw()


async def bad_weather(scene: Scene) -> None:
    """For seconds, messages are lost, doubled and late."""
    dice = scene.dice
    weather = Weather(lost=dice.uniform(0.02, 0.2), doubled=dice.uniform(0, 0.2), late=dice.uniform(0, 0.3), delay=dice.uniform(0.05, 2))
    before = {name: proxy.weather for name, proxy in scene.proxies.items()}
    for proxy in scene.proxies.values():
        proxy.weather = weather
    try:
        await asyncio.sleep(dice.uniform(2, 5))
    finally:
        for name, proxy in scene.proxies.items():
            proxy.weather = before[name]


def cut_off(name: str) -> Fault:
    """A host process loses the bus for seconds: long enough to count as down, sometimes."""

    async def fault(scene: Scene) -> None:
        proxy = scene.proxies[name]
        proxy.closed = True
        proxy.cut()
        try:
            await asyncio.sleep(scene.dice.uniform(1, 12))
        finally:
            proxy.closed = False

    return fault


async def cut_everybody(scene: Scene) -> None:
    """Every connection to NATS ends once."""
    for proxy in scene.proxies.values():
        proxy.cut()


async def _again(process: Process) -> None:
    """Started, and not waited for: that it comes up is the load's to see."""
    while not process.running:
        process.start()
        await asyncio.sleep(0.3)
