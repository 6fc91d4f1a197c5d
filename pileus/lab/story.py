"""The story's experiment: predict each case's knee, then put real processes under load and see.

First the case that the story began with, up to the load at which it loses servers to plug timeouts; then every case at that load, and
up or down from its prediction until its knee is found.
"""

from __future__ import annotations

import asyncio
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

import pileus
from pileus.errors import StartupError
from pileus.lab import cases, costs, metrics, physics, words
from pileus.lab.calibrate import Calibration
from pileus.lab.cases import Case
from pileus.lab.ground import Ground, Size
from pileus.lab.janitor import swept
from pileus.lab.load import Judge, Load
from pileus.lab.physics import Costs, Prediction, World
from pileus.lab.results import Case as Found
from pileus.lab.results import Experiment, Rung
from pileus.lab.site import Site, fill

STEP = 1.25
"""From one load to the next, until one is good and the next is not."""
NEAR = 1.13
"""Then between them: so far apart are the knee and the lowest load that was not good, at most."""
FIRST = 0.9
"""Of the prediction: the first load that is tried."""
BREAKS, HARDER = 1.25, 1.15
"""Times the first case's knee is the load that is tried first to break it; and times that the next one, where it did not."""
TRIES = 4
MOST_RUNGS = 8
AT_LOAD = 2.0
"""Plug timeouts that the load which breaks the first case goes on."""
MANY = 10
"""Times that load is asked of Pileus's default, too."""
CALM = 60.0
"""Seconds beside two plug timeouts after which what is left of a load is not waited for: the next one gets a new site."""

Tell = Callable[[str, str], None]
"""Who (a case, or empty), and what of it is to be shown."""


@dataclass(frozen=True)
class Options:
    """Seconds and counts. None: chosen for the plug timeout. `together`: cases at once, of those whose limit is waiting. `shortened`: what
    is less than it should be, in words for the report."""

    cases: Sequence[str] = tuple(cases.BY_NAME)
    plug_timeout: float = 300.0
    hosts: int | None = None
    servers: int = 400
    round_trip: float = 0.001
    rung: float | None = None
    together: int = 1
    shortened: Sequence[str] = ()

    @property
    def hosts_or_default(self) -> int:
        """A build holds its slot while it waits: with fewer hosts no queue could grow as long as the plug timeout."""
        return self.hosts or max(20, math.ceil(0.7 * self.plug_timeout))

    @property
    def rung_s(self) -> float:
        return self.rung or self.plug_timeout


@dataclass
class Lab:
    """What an experiment goes along with."""

    options: Options
    ground: Ground
    calibration: Calibration
    tell: Tell
    costs: dict[str, Costs] = field(default_factory=dict)
    """Profile → what things cost with it."""
    load_per_s: float = 0.0
    numbers: int = 0

    @property
    def judge(self) -> Judge:
        return Judge(self.options.plug_timeout)

    @property
    def world(self) -> World:
        options = self.options
        return World(
            hosts=options.hosts_or_default,
            servers=options.servers,
            cores=os.cpu_count() or 1,
            plug_timeout_s=options.plug_timeout,
            rung_s=options.rung_s,
            flow_s=self.calibration.flows_of_port(int(cases.value(cases.first(), "simulated.flows_per_port"))),
            wire_s=self.calibration.plug + self.calibration.wire,
        )

    def predict(self, case: Case) -> Prediction:
        return physics.predict(case, self.costs[case.profile], self.world)

    def site(self, case: Case, **settings: Any) -> Site:
        self.numbers += 1
        mine = {"compute.vif_plugging_timeout": self.options.plug_timeout, **settings}
        return Site(self.ground, case, f"case_{self.numbers}", settings=mine)


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
    runner = _Runner(lab, case)
    async with runner:
        if case is cases.first():
            await runner.open_the_story()
        else:
            await runner.at_load()
            await runner.climb()
    return runner.found()


class _Runner:
    """One case on its site, which is made anew when a load leaves it restless."""

    def __init__(self, lab: Lab, case: Case) -> None:
        self._lab = lab
        self._case = case
        self._told = lab.predict(case)
        self._rungs: list[Rung] = []
        self._at_load: Rung | None = None
        self._site: Site
        self._load: Load
        self._sites = AsyncExitStack()

    async def __aenter__(self) -> _Runner:
        await self._fresh()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._sites.aclose()

    async def open_the_story(self) -> None:
        """Find the knee, then the load that breaks it: the one at which servers are lost to plug timeouts."""
        await self.climb()
        rate = BREAKS * (self._knee() or self._told.full_at)
        for _ in range(TRIES):
            self._at_load = await self._rung(rate, AT_LOAD * self._lab.options.plug_timeout, whole=True)
            self._lab.load_per_s = rate
            if self._at_load.plug_timeouts:
                break
            rate *= HARDER

    async def at_load(self) -> None:
        """The load that breaks the first case; the default bears many times as much."""
        load = self._lab.load_per_s
        self._at_load = await self._rung(load, AT_LOAD * self._lab.options.plug_timeout, whole=True)
        if self._case.profile == "default":
            await self._rung(MANY * load, self._lab.options.rung_s, deletes=load)

    async def climb(self) -> None:
        """Loads in steps until one is good and the next is not, then between these two."""
        for _ in range(MOST_RUNGS - len(self._rungs)):
            rate = self._next()
            if rate is None:
                return
            await self._rung(rate, self._lab.options.rung_s)

    def _next(self) -> float | None:
        """The rate of the next load; None: the knee is found."""
        good, bad = max([rung.rate_per_s for rung in self._rungs if rung.good], default=0.0), self._bad()
        wanted = FIRST * self._told.knee
        if not good and bad == math.inf:  # what is not good for longer may be good for a while, but not much more is
            return min([wanted, *(rung.rate_per_s for rung in self._rungs if not rung.good)])
        if good >= bad:  # a load that was good, and a lower one that was not: the machine did something else meanwhile
            return None
        if bad == math.inf:
            return max(wanted, good * STEP)
        if not good:
            return min(wanted, bad / STEP)
        if bad / good <= NEAR:
            return None
        between = math.sqrt(good * bad)
        return between if bad / good <= STEP * STEP else min(max(wanted, good * STEP), bad / STEP)

    def found(self) -> Found:
        """What the case came to."""
        at = self._at_load or self._rungs[-1]
        told, lab = self._told, self._lab
        knee = self._knee()
        return Found(
            name=self._case.name,
            settings={"case": self._case.words, "profile": self._case.profile, **self._case.settings},
            knee_per_s=knee,
            predicted_knee_per_s=told.knee,
            created=at.created,
            active=at.active,
            error=at.error,
            plug_timeouts=at.plug_timeouts,
            p50_s=at.p50_s,
            p95_s=at.p95_s,
            p99_s=at.p99_s,
            steps=at.steps,
            limited_by=told.limited_by,
            arithmetic=told.arithmetic,
            note=physics.why_not(self._case, lab.costs[self._case.profile], lab.world),
            rungs=sorted(self._rungs, key=lambda rung: rung.rate_per_s),
        )

    def _knee(self) -> float:
        bad = self._bad()
        return max([rung.rate_per_s for rung in self._rungs if rung.good and rung.rate_per_s < bad], default=0.0)

    def _bad(self) -> float:
        """The lowest load that was not good, of those held no longer than a load that looks for the knee: in more time queues grow more."""
        longest = 1.05 * self._lab.options.rung_s
        return min([rung.rate_per_s for rung in self._rungs if not rung.good and rung.seconds <= longest], default=math.inf)

    async def _rung(self, rate: float, seconds: float, *, whole: bool = False, deletes: float | None = None) -> Rung:
        if self._rungs and not await self._load.calm(2 * self._lab.options.plug_timeout + CALM):
            await self._fresh()
        before, asked, begun = await metrics.read(self._site), await self._site.counts(), time.monotonic()
        rung = await self._load.rung(rate, seconds, whole=whole, deletes=deletes)
        after, heard, passed = await metrics.read(self._site), await self._site.counts(), time.monotonic() - begun
        said = metrics.figures(before, after, seconds=passed, hosts=self._lab.world.hosts)
        read = said["healed_per_min"] + said["read_for_events_per_min"]
        said |= metrics.requests(asked, heard, seconds=passed, healed=said["healed_per_min"] / max(read, 1e-9))
        rung = msgspec.structs.replace(rung, figures=said)
        self._rungs.append(rung)
        self._lab.tell(self._case.name, words.of_rung(rung))
        return rung

    async def _fresh(self) -> None:
        await self._sites.aclose()
        self._sites = AsyncExitStack()
        self._lab.tell(self._case.name, "its processes start")
        self._site = await self._sites.enter_async_context(self._lab.site(self._case))
        self._load = Load(self._site, self._lab.judge, lambda text: self._lab.tell(self._case.name, text))
        await self._load.start()
