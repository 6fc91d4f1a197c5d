"""What hollow hosts hold, read from their disks, against what is written down."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.chaos.faults import Scene
from tests.chaos.truth import Told

Guests = dict[str, tuple[int, str]]
"""Server id → generation, power."""
Ports = dict[str, int]
"""Port id → the generation that it is wired at."""


async def lies(scene: Scene, told: Told) -> dict[str, Any]:
    """The processes are stopped for that: one that runs keeps its file to itself."""
    cluster = scene.cluster
    names = [name for name in cluster.processes if name.startswith("hollow")]
    await asyncio.gather(*[asyncio.to_thread(cluster.processes[name].stop) for name in names])
    guests, ports = _worlds(cluster.folder)
    for name in names:
        cluster.processes[name].start()
    await asyncio.gather(*[cluster.processes[name].ready() for name in names])
    wrong: dict[str, Any] = {}
    for host in guests.keys() | ports.keys() | told.hosts():
        here, there = guests.get(host, {}), told.guests(host)
        if strange := {
            server: (here.get(server), there.get(server)) for server in here.keys() | there.keys() if not _same(here, there, server)
        }:
            wrong[f"guests of {host}, and what is written down"] = strange
        wired = {port: generation for port, generation in ports.get(host, {}).items() if port not in told.loose()}
        bound = told.ports(host)
        if wired != bound:
            wrong[f"ports of {host}, and what is written down"] = sorted(set(wired.items()) ^ set(bound.items()))
    return wrong


def _same(here: Guests, there: Guests, server: str) -> bool:
    """A guest is there at the server's generation; a guest that is in no order (ERROR) may be of an earlier one."""
    if server not in here or server not in there:
        return False
    return there[server][1] == "error" or here[server] == there[server]


def _worlds(folder: Path) -> tuple[dict[str, Guests], dict[str, Ports]]:
    """Of each host."""
    guests: dict[str, Guests] = {}
    ports: dict[str, Ports] = {}
    for path in folder.glob("hollow*/hollow/*.db"):
        with closing(sqlite3.connect(path)) as world:
            for host, server, generation, power in world.execute("SELECT host, server, generation, power FROM guests"):
                guests.setdefault(host, {})[server] = (generation, power)
            for host, port, wired in world.execute("SELECT host, port, wired FROM ports"):
                ports.setdefault(host, {})[port] = wired
    return guests, ports
