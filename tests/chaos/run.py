"""One run: load on a cloud whose roles are apart, faults one after the other, then peace, and the truth."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos import faults, truth
from tests.chaos.faults import Fault, Scene
from tests.chaos.load import Load
from tests.chaos.proxy import Proxy
from tests.engines.cluster import Cluster

HOLLOW = ("hollow:5@left", "hollow:5@right")
ROLES = ("api --workers 2", "worker@1", "worker@2", "network-rpc", *HOLLOW)
SETTLE = 120.0
"""Seconds after the last fault in which everything must have found its end."""

SETTINGS: dict[str, Any] = {
    "compute.heartbeat_interval": 1,
    "compute.service_down_time": 6,
    "compute.report_interval": 5,
    "compute.resend_interval": 0.5,
    "compute.vif_plugging_timeout": 60,
    "network.send_events_interval": 0.1,
    "network.rpc_timeout": 2,
    "network.rpc_workers": 2,
    "network.agent_down_time": 8,
    "log_level": "warning",
}

FAULTS: Mapping[str, Fault] = {
    **{f"kill {name}": faults.kill(name) for name in ("api", "worker@1", "worker@2", "network-rpc", *HOLLOW)},
    **{f"freeze {name}": faults.freeze(name) for name in ("api", "worker@1", "network-rpc", HOLLOW[0])},
    **{f"restart {name}": faults.restart(name) for name in ("worker@2", "network-rpc", HOLLOW[1])},
    "kill PostgreSQL": faults.kill_postgresql,
    "freeze PostgreSQL": faults.freeze_postgresql,
    "kill NATS": faults.kill_nats,
    "freeze NATS": faults.freeze_nats,
    "bad weather": faults.bad_weather,
    f"cut off {HOLLOW[0]}": faults.cut_off(HOLLOW[0]),
    "cut everybody": faults.cut_everybody,
}


@dataclass(frozen=True)
class Outcome:
    """What a run came to. `wrong`: nothing, or what is not true, in words."""

    wrong: dict[str, Any]
    happened: list[str]
    counts: dict[str, Any]


async def run(folder: Path, seed: int, *, signal: str, seconds: float, rate: float = 8.0, most: int = 60) -> Outcome:
    """The same seed lets the same things happen in the same order. Raises what keeps a run from its end."""
    dice = random.Random(seed)
    async with AsyncExitStack() as stack:
        proxies: dict[str, Proxy] = {}
        cluster = Cluster(folder, SETTINGS | {"compute.plug_signal": signal}, roles=ROLES, postgresql={"max_connections": "150"})
        stack.push_async_callback(cluster.close)
        for name in ("all", HOLLOW[0]):
            proxies[name] = await stack.enter_async_context(Proxy(cluster.nats.port, random.Random(dice.random())))
        cluster.place("bus.url", proxies["all"].url)
        cluster.place("bus.url", proxies[HOLLOW[0]].url, only=HOLLOW[0])
        await cluster.start()
        load = Load(cluster.url, cluster.password(), random.Random(dice.random()))
        stack.push_async_callback(load.close)
        await load.start()
        scene = Scene(cluster, proxies, dice)
        happened: list[str] = []
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run(seconds, rate=rate, most=most))
            group.create_task(_let_happen(scene, seconds, happened))
        await _peace(cluster)
        wrong = await _end(cluster, load)
        counts = {**vars(load.counts), "messages": {name: proxy.counts for name, proxy in proxies.items()}}
        return Outcome(wrong, happened, counts)


async def _let_happen(scene: Scene, seconds: float, happened: list[str]) -> None:
    """Faults one after the other, sometimes two at once."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    names = list(FAULTS)
    while loop.time() < ends:
        await asyncio.sleep(scene.dice.uniform(0.2, 1.5))
        chosen = scene.dice.sample(names, scene.dice.choice((1, 1, 2)))
        happened.append(" + ".join(chosen))
        # Two of one thing (a kill and a freeze of the same process) would be neither.
        chosen = chosen if len({name.split(maxsplit=1)[-1] for name in chosen}) == len(chosen) else chosen[:1]
        await asyncio.gather(*[FAULTS[name](scene) for name in chosen])


async def _peace(cluster: Cluster) -> None:
    for process in cluster.processes.values():
        if not process.running:
            process.start()
    for process in cluster.processes.values():
        await process.ready()


async def _end(cluster: Cluster, load: Load) -> dict[str, Any]:
    """Wait for the end of all that is on its way; what is wrong then."""
    wrong: dict[str, Any] = {}
    try:
        found = await load.settle(SETTLE)
    except TimeoutError as stuck:
        return {"stuck": str(stuck), "lies": await truth.lies(cluster.database)}
    wrong |= _look(found, load)
    loop = asyncio.get_running_loop()
    ends = loop.time() + SETTLE
    while (lies := await _lies(cluster)) and loop.time() < ends:
        await asyncio.sleep(1)
    return wrong | lies


def _look(found: Sequence[Mapping[str, Any]], load: Load) -> dict[str, Any]:
    """What a user would find wrong."""
    wrong = {
        "neither ACTIVE nor ERROR": [(s["id"], s["status"]) for s in found if s["status"] not in ("ACTIVE", "ERROR")],
        "ERROR without a cause": [s["id"] for s in found if s["status"] == "ERROR" and not s.get("fault", {}).get("message")],
        "deleted and there": sorted(load.deleted & {s["id"] for s in found}),
        "created and lost": sorted((load.known - load.deleted) - {s["id"] for s in found}),
    }
    return {what: who for what, who in wrong.items() if who}


async def _lies(cluster: Cluster) -> dict[str, Any]:
    """Database against itself, then against the hosts: their worlds are read from disk, with the processes stopped for that."""
    if lies := await truth.lies(cluster.database):
        return lies
    told = await truth.on_hosts(cluster.database)
    for name in HOLLOW:
        await asyncio.to_thread(cluster.processes[name].stop)
    guests, ports = _worlds(cluster.folder)
    for name in HOLLOW:
        cluster.processes[name].start()
    for name in HOLLOW:
        await cluster.processes[name].ready()
    strange = {host: sorted(told.get(host, set()) ^ guests.get(host, set())) for host in told.keys() | guests.keys()}
    counts = {host: (len(told.get(host, ())), ports.get(host, 0)) for host in told.keys() | ports.keys()}
    wrong = {
        "guests here and not there": {host: ids for host, ids in strange.items() if ids},
        "ports that are not the servers'": {host: pair for host, pair in counts.items() if pair[0] != pair[1]},
    }
    return {what: found for what, found in wrong.items() if found}


def _worlds(folder: Path) -> tuple[dict[str, set[str]], dict[str, int]]:
    """Host → ids of its guests; host → how many wired switch ports it has."""
    guests: dict[str, set[str]] = {}
    ports: dict[str, int] = {}
    for path in folder.glob("hollow*/hollow/*.db"):
        with closing(sqlite3.connect(path)) as world:
            for host, server in world.execute("SELECT host, server FROM guests"):
                guests.setdefault(host, set()).add(server)
            ports |= dict(world.execute("SELECT host, count(*) FROM ports GROUP BY host"))
    return guests, ports
