"""What hollow hosts hold, read from their disks, against what is written down."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.chaos.faults import Scene
from tests.chaos.truth import Told
from tests.engines.cluster import Process

Guests = dict[str, tuple[int, str]]
"""Server id → generation, power."""
Ports = dict[str, int]
"""Port id → the generation that it is wired at."""


async def lies(scene: Scene, told: Told) -> dict[str, Any]:
    cluster = scene.cluster
    processes = [process for name, process in cluster.processes.items() if name.startswith("hollow")]
    guests, ports = await asyncio.to_thread(_worlds, cluster.folder, processes)
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


def _worlds(folder: Path, processes: Sequence[Process]) -> tuple[dict[str, Guests], dict[str, Ports]]:
    """Of each host."""
    guests: dict[str, Guests] = {}
    ports: dict[str, Ports] = {}
    with tempfile.TemporaryDirectory(dir=folder) as copies:
        for path in _copied(folder, processes, Path(copies)):
            with closing(sqlite3.connect(path)) as world:
                for host, server, generation, power in world.execute("SELECT host, server, generation, power FROM guests"):
                    guests.setdefault(host, {})[server] = (generation, power)
                for host, port, wired in world.execute("SELECT host, port, wired FROM ports"):
                    ports.setdefault(host, {})[port] = wired
    return guests, ports


def _copied(folder: Path, processes: Sequence[Process], to: Path) -> list[Path]:
    """The files of a process that runs are its own; while it stands still they can be copied, with the log of what is not in them yet."""
    for process in processes:
        process.freeze()
    try:
        while not all(_stands_still(pid) for process in processes for pid in process.pids()):
            time.sleep(0.001)
        found = [Path(shutil.copy(path, to)) for path in folder.glob("hollow*/hollow/*.db*") if not path.name.endswith("-shm")]
    finally:
        for process in processes:
            process.thaw()
    return [path for path in found if path.suffix == ".db"]


def _stands_still(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
