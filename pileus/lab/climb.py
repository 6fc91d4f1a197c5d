"""One case from load to load: the load that all are compared at, then up or down from its prediction until its knee is found."""

from __future__ import annotations

import math
import time
from contextlib import AsyncExitStack

import msgspec

from pileus.lab import metrics, physics, words
from pileus.lab.cases import Case
from pileus.lab.load import Load
from pileus.lab.plan import Lab
from pileus.lab.results import Case as Found
from pileus.lab.results import Rung
from pileus.lab.site import Site

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


class Runner:
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

    async def __aenter__(self) -> Runner:
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
            return min(wanted, bad / STEP ** max(1, len(self._rungs) - 1))  # far off: in longer and longer steps
        if bad / good <= NEAR:
            return None
        return wanted if good * STEP <= wanted <= bad / STEP else math.sqrt(good * bad)

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
