"""One run: load on a cloud whose roles are apart, faults one after the other, then peace, and the truth."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pileus.errors import StartupError
from tests.chaos import truth
from tests.chaos.faults import Scene
from tests.chaos.load import Load
from tests.chaos.proxy import Proxy
from tests.chaos.stages import HOLLOW, Stage
from tests.engines.cluster import Cluster, Process

SETTLE = 90.0
"""Seconds after the last fault in which everything must have found its end."""
RELOOK = 4.0
"""Seconds between two looks at the hosts: longer than they take to tell what they have, and what is wrong to be put right."""
CALM = 2.0
"""Seconds of load before anything happens, so that there is something to lose."""
AT_ONCE = 3
TAIL = 30
"""Lines of each process's log that are shown when something is wrong."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to. `wrong`: nothing, or what is not true, in words; `statuses`: how many servers are how at the end.
    `histories`: of the servers that are named in what is wrong."""

    wrong: dict[str, Any]
    happened: list[str]
    counts: dict[str, Any]
    statuses: dict[str, int]
    histories: list[str]


def plan(stage: Stage, dice: random.Random) -> Iterator[tuple[float, str, random.Random]]:
    """What happens: after which pause, what, with which dice. All that can happen comes before anything comes again."""
    while True:
        for name in dice.sample(list(stage.faults), len(stage.faults)):
            yield dice.uniform(0.1, 1.5), name, random.Random(dice.random())


async def run(
    folder: Path,
    seed: int,
    *,
    signal: str,
    seconds: float,
    stage: Stage = HOLLOW,
    pace: float = 1.0,
    down_time: float = 6.0,
    tell: Callable[[str], None] = lambda words: None,
) -> Outcome:
    """The same seed lets the same things happen in the same order. Raises what keeps a run from its end."""
    dice = random.Random(seed)
    settings = {"compute.plug_signal": signal, "compute.service_down_time": down_time, "network.agent_down_time": down_time + 2}
    async with AsyncExitStack() as stack:
        proxies: dict[str, Proxy] = {}
        cluster = Cluster(folder, {**stage.settings, **settings}, roles=stage.roles, postgresql={"max_connections": "150"})
        machines = await stage.machines(cluster, stack)
        stack.push_async_callback(cluster.close)
        for name in ("all", stage.apart):
            proxies[name] = await stack.enter_async_context(Proxy(cluster.nats.port, random.Random(dice.random())))
        cluster.place("bus.url", proxies["all"].url)
        cluster.place("bus.url", proxies[stage.apart].url, only=stage.apart)
        await cluster.start()
        load = Load(cluster.url, cluster.password(), random.Random(dice.random()))
        stack.push_async_callback(load.close)
        await load.start()
        scene = Scene(cluster, proxies, down_time, pace, machines)
        happened: list[str] = []
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run(CALM + seconds, rate=stage.rate, most=stage.most))
            group.create_task(_let_happen(scene, stage, dice, seconds, happened, tell))
        tell("peace")
        await peace(cluster.processes.values())
        wrong, statuses = await _end(scene, stage, load)
        counts = {**vars(load.counts), "messages": {name: proxy.counts for name, proxy in proxies.items()}}
        return Outcome(wrong, happened, counts, statuses, await truth.histories(cluster.database, wrong) if wrong else [])


def story(seed: int, signal: str, outcome: Outcome, folder: Path) -> str:
    """What a person needs who looks for the cause: what happened, what is wrong, and what the processes said."""
    logs = [f"--- {path.name}\n" + "\n".join(_last_lines(path)) for path in sorted(folder.glob("*.log"))]
    wrong = [f"WRONG {what}: {found}" for what, found in outcome.wrong.items()]
    head = [f"seed {seed}, plug signal {signal}, logs in {folder}", *outcome.happened, str(outcome.counts), str(outcome.statuses)]
    return "\n".join([*head, *wrong, *outcome.histories, *(logs if wrong else [])])


def _last_lines(path: Path) -> Sequence[str]:
    return path.read_text(errors="replace").splitlines()[-TAIL:]


async def _let_happen(
    scene: Scene, stage: Stage, dice: random.Random, seconds: float, happened: list[str], tell: Callable[[str], None]
) -> None:
    """Faults one after the other, and some at once."""
    await asyncio.sleep(CALM)
    begun = time.monotonic()
    locks = {target: asyncio.Lock() for target, _ in stage.faults.values()}
    places = asyncio.Semaphore(AT_ONCE)

    async def happen(name: str, own: random.Random) -> None:
        target, fault = stage.faults[name]
        try:
            await fault(scene, own)
        finally:
            locks[target].release()
            places.release()

    async with asyncio.TaskGroup() as group:
        for pause, name, own in plan(stage, dice):
            await asyncio.sleep(scene.pace * pause)
            await places.acquire()
            await locks[stage.faults[name][0]].acquire()
            if time.monotonic() - begun > seconds:
                return
            words = f"{time.monotonic() - begun:6.1f} s  {name}"
            happened.append(words)
            tell(words)
            group.create_task(happen(name, own))


async def peace(processes: Collection[Process]) -> None:
    """All of them run, and serve. One that was started into a fault may still end by it; who is started now has no excuse."""
    await asyncio.gather(*[_serving(process) for process in processes])


async def _serving(process: Process) -> None:
    if process.running:
        with contextlib.suppress(StartupError):
            await process.ready()
    if not process.running:
        process.start()
        await process.ready()


async def _end(scene: Scene, stage: Stage, load: Load) -> tuple[dict[str, Any], dict[str, int]]:
    """Wait for the end of all that is on its way; what is wrong then, and how many servers are how."""
    url = scene.cluster.database
    try:
        found = await load.settle(SETTLE)
    except TimeoutError as stuck:
        return {"stuck": str(stuck), **await truth.lies(url, scene.down_time)}, {}
    loop = asyncio.get_running_loop()
    ends = loop.time() + SETTLE
    while (lies := await _lies(scene, stage)) and loop.time() < ends:
        await asyncio.sleep(RELOOK)
    found = await load.settle(SETTLE)
    statuses = {status: sum(s["status"] == status for s in found) for status in sorted({s["status"] for s in found})}
    return _look(found, load, scene) | lies | await stage.last(scene, load), statuses


def _look(found: Sequence[Mapping[str, Any]], load: Load, scene: Scene) -> dict[str, Any]:
    """What a user would find wrong. (Who kills guests finds servers that are off.)"""
    fine = ("ACTIVE", "ERROR", "SHUTOFF") if scene.machines else ("ACTIVE", "ERROR")
    wrong = {
        "neither ACTIVE nor ERROR": [(s["id"], s["status"]) for s in found if s["status"] not in fine],
        "ERROR without a cause": [s["id"] for s in found if s["status"] == "ERROR" and not s.get("fault", {}).get("message")],
        "deleted and there": sorted(load.deleted & {s["id"] for s in found}),
        "created and lost": sorted(load.lost({s["id"] for s in found})),
    }
    return {what: who for what, who in wrong.items() if who}


async def _lies(scene: Scene, stage: Stage) -> dict[str, Any]:
    """Database against itself until it is in order, then against the hosts."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + SETTLE
    while lies := await truth.lies(scene.cluster.database, scene.down_time):
        if loop.time() > ends:
            return lies
        await asyncio.sleep(0.2)
    return await stage.lies(scene, await truth.told(scene.cluster.database))
