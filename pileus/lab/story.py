"""The story's experiment: predict each case's knee, then put real processes under load and see.

First the case that the story began with, up to the load at which it loses servers to plug timeouts; then every case at that load, and
up or down from its prediction until its knee is found.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pileus
from pileus.errors import StartupError
from pileus.lab import cases, costs, words
from pileus.lab.calibrate import Calibration
from pileus.lab.cases import Case
from pileus.lab.climb import BREAKS, Runner
from pileus.lab.ground import Ground, Size
from pileus.lab.janitor import swept
from pileus.lab.plan import Lab, Options, Tell
from pileus.lab.results import Case as Found
from pileus.lab.results import Experiment
from pileus.lab.site import fill


async def run(options: Options, calibration: Calibration, tell: Tell) -> Experiment:
    """Raises StartupError. However it ends, its processes and folders are gone."""
    chosen = [_case(name) for name in options.cases]
    started, begun = time.time(), time.monotonic()
    with swept() as folder:
        size = Size(options.hosts_or_default, options.servers, options.round_trip, options.together)
        ground = Ground(folder, size, calibration.simulated())
        lab = Lab(options, ground, calibration, tell)
        try:
            ground.start()
            tell("", f"a population of {options.servers} servers on {size.hosts} hosts is made")
            await fill(ground, cases.BY_NAME["default"])
            await _cost(lab, chosen)
            for case in chosen:
                told = lab.predict(case)
                tell(case.name, f"predicted knee {told.knee:.2f}/s, limited by {told.limited_by}")
            found = await _all(lab, chosen)
        finally:
            ground.stop()
    return Experiment(
        title="The story: four settings, and what each does",
        version=pileus.__version__,
        started_at=started,
        seconds=time.monotonic() - begun,
        machine=machine(),
        load_per_s=lab.load_per_s,
        plug_timeout_s=options.plug_timeout,
        real=words.real(lab.world),
        simulated=words.simulated(calibration),
        added=words.added(lab.costs, options.round_trip, options.shortened),
        cases=found,
    )


def machine() -> dict[str, Any]:
    """What this runs on."""
    model = ""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count() or 1,
        "memory_gib": round(memory / 2**30, 1),
        "processor": model,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _case(name: str) -> Case:
    found = cases.BY_NAME.get(name)
    if found is None:
        raise StartupError(f"no such case: {name}; there are {', '.join(cases.BY_NAME)}")
    return found


async def _cost(lab: Lab, chosen: Sequence[Case]) -> None:
    """What things cost, for each profile that is asked for."""
    for name in ("all", "default"):
        case = cases.BY_NAME[name]
        if any(each.profile == case.profile for each in chosen):
            lab.tell("", f"what a boot costs with the {case.profile} profile is measured")
            roomy = {cases.HEAL: costs.NEVER, "compute.heal_scope": "all", cases.WORKERS: 1}
            async with lab.site(case, **roomy) as site:
                lab.costs[case.profile] = await costs.measure(site, lambda text: lab.tell("", text))


async def _all(lab: Lab, chosen: Sequence[Case]) -> list[Found]:
    """Every case, the first by itself; of the others those that wait, rather than use the cores, may run beside one another."""
    found: dict[str, Found] = {}
    opener = cases.first() if cases.first() in chosen else None
    if opener is not None:
        found[opener.name] = await _one(lab, opener)
    if not lab.load_per_s:
        lab.load_per_s = round(BREAKS * lab.predict(cases.first()).full_at, 2) if "story" in lab.costs else 1.0
    rest = [case for case in chosen if case is not opener]
    waiting = [case for case in rest if lab.predict(case).limited_by != "CPU"]
    gate = asyncio.Semaphore(lab.options.together)

    async def gated(case: Case) -> None:
        async with gate:
            found[case.name] = await _one(lab, case)

    async with asyncio.TaskGroup() as group:
        for case in waiting:
            group.create_task(gated(case))
    for case in rest:
        if case not in waiting:
            found[case.name] = await _one(lab, case)
    return [found[case.name] for case in chosen]


async def _one(lab: Lab, case: Case) -> Found:
    runner = Runner(lab, case)
    async with runner:
        if case is cases.first():
            await runner.open_the_story()
        else:
            await runner.at_load()
            await runner.climb()
    return runner.found()
