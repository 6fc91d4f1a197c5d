"""Load on a case: creates at a steady rate, as many deletes, restarts of compute services; and what became of the creates.

When a server was asked for is known from its request; what became of it is read from its action's row, a few times a second for all
together, past the proxy and the API. So the load generator takes little of the cores that it shares with the cloud.
"""

from __future__ import annotations

import asyncio
import json
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pileus import timeline
from pileus.lab.results import Rung, Window
from pileus.lab.site import Site

LOOK = 0.5
"""Seconds between two looks at what has become of creates."""
WINDOWS = 8
"""Of one rung."""
GRACE = 5.0
"""Seconds that a create that ran into its limit may take to be in ERROR."""
PLUG_STEPS = ("wired", "signalled")
"""A create that failed in these was lost to the plug timeout: its network did not come in time."""

_FINISHED = """
SELECT server_id, state, started_at, finished_at, stamps, details FROM compute_actions
WHERE name = 'create' AND finished_at >= $1 ORDER BY finished_at
"""


@dataclass(slots=True)
class Create:
    """Seconds since the epoch; `ended` 0: not yet. `steps`: seconds of each step of the chain that decided how long it took."""

    sent: float
    ended: float = 0.0
    active: bool = False
    plug_timeout: bool = False
    steps: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.ended - self.sent


@dataclass(frozen=True)
class Judge:
    """When a rung is good: all ACTIVE, and p99 under half of the plug timeout."""

    plug_timeout: float

    @property
    def bar(self) -> float:
        return self.plug_timeout / 2

    def is_lost(self, creates: Sequence[Create], asked: int, now: float) -> bool:
        """Can the rung be good no more? `asked`: creates that it will have in all."""
        if any(each.ended and not each.active for each in creates):
            return True
        late = sum((each.ended or now) - each.sent > self.bar for each in creates)
        return late > max(0, asked - math.ceil(0.99 * asked))

    def is_good(self, creates: Sequence[Create]) -> bool:
        p99 = percentile([each.seconds for each in creates if each.active], 99)
        return bool(creates) and all(each.active for each in creates) and p99 is not None and p99 < self.bar


class Load:
    """On one site, for all its rungs. `tell`: hears now and then how many were sent and how many are ACTIVE."""

    def __init__(self, site: Site, judge: Judge, tell: Callable[[str], None]) -> None:
        self._site = site
        self._judge = judge
        self._tell = tell
        self._standing: deque[str] = deque()
        self._number = 0

    async def start(self) -> None:
        self._standing.extend(await self._site.alive())

    async def rung(self, rate: float, seconds: float, *, whole: bool = False, deletes: float | None = None) -> Rung:
        """Creates at this rate for so long, then wait for what became of them. It ends as soon as it cannot be good any more, unless
        the `whole` is wanted. `deletes`: a second; None: as many as creates."""
        run = _Run(self._site, self._judge, rate, seconds, self._standing, deletes=rate if deletes is None else deletes)
        self._number += 1
        await run.go(f"r{self._number}", whole, self._tell)
        return run.result()

    async def calm(self, limit: float) -> bool:
        """Delete what is in ERROR, and wait until nothing is under way. False: something still is."""
        for server_id in await self._site.failed():
            await self._site.delete(server_id)
        try:
            await self._site.settled(limit)
        except TimeoutError:
            return False
        return True


class _Run:
    def __init__(self, site: Site, judge: Judge, rate: float, seconds: float, standing: deque[str], *, deletes: float) -> None:
        self._site = site
        self._judge = judge
        self._rate = rate
        self._seconds = seconds
        self._standing = standing
        self._deletes = deletes
        self._asked = max(1, round(rate * seconds))
        self._known: dict[str, Create] = {}
        self._creates: list[Create] = []
        self._begun = time.time()
        self._looked = self._begun
        self._sent = 0.0
        """For how long creates were sent."""

    async def go(self, name: str, whole: bool, tell: Callable[[str], None]) -> None:
        async with asyncio.TaskGroup() as group:
            # What is asked for stays asked for: a request under way is waited for by the group, not by who sends the next.
            sender = group.create_task(self._send(name, group))
            beside = [group.create_task(self._restart())]
            if self._deletes:
                beside.append(group.create_task(self._delete(group)))
            await self._watch(sender, whole, tell)
            for task in (sender, *beside):
                task.cancel()
        self._sent = self._sent or time.time() - self._begun

    def result(self) -> Rung:
        creates = self._creates
        active = [each.seconds for each in creates if each.active]
        ended = [each for each in creates if each.ended]
        return Rung(
            rate_per_s=self._rate,
            seconds=self._sent,
            created=len(creates),
            active=len(active),
            error=len(ended) - len(active),
            plug_timeouts=sum(each.plug_timeout for each in creates),
            p50_s=percentile(active, 50),
            p95_s=percentile(active, 95),
            p99_s=percentile(active, 99),
            good=self._judge.is_good(creates),
            steps=mean_steps(ended),
            windows=windows(creates, self._begun, self._sent),
        )

    async def _send(self, name: str, group: asyncio.TaskGroup) -> None:
        begun = time.perf_counter()
        for number in range(self._asked):
            await asyncio.sleep(max(0.0, begun + number / self._rate - time.perf_counter()))
            group.create_task(self._create(f"{name}-{number}"))
        await asyncio.sleep(max(0.0, begun + self._seconds - time.perf_counter()))
        self._sent = time.perf_counter() - begun

    async def _create(self, name: str) -> None:
        made = Create(time.time())
        self._creates.append(made)
        try:
            reply = await self._site.create(name)
        except (OSError, TimeoutError):
            made.ended = time.time()
            return
        if reply.status == 202:
            self._known[str(json.loads(reply.body)["server"]["id"])] = made
        else:
            made.ended = time.time()

    async def _delete(self, group: asyncio.TaskGroup) -> None:
        """The oldest first: where as many go as are made, the population stays as it is."""
        begun = time.perf_counter()
        for number in range(round(self._deletes * self._seconds)):
            await asyncio.sleep(max(0.0, begun + number / self._deletes - time.perf_counter()))
            if self._standing:
                group.create_task(self._remove(self._standing.popleft()))

    async def _remove(self, server_id: str) -> None:
        try:
            reply = await self._site.delete(server_id)
        except (OSError, TimeoutError):
            self._standing.append(server_id)
            return
        if reply.status >= 500:
            self._standing.append(server_id)

    async def _restart(self) -> None:
        """Of one host after the other."""
        rate = self._site.case.restarts * self._site.ground.size.hosts / 60
        while rate:
            await asyncio.sleep(1 / rate)
            self._site.restart_compute()

    async def _watch(self, sender: asyncio.Task[None], whole: bool, tell: Callable[[str], None]) -> None:
        """Until all creates have ended, or what is still under way is not waited for any longer."""
        limit = math.inf
        while True:
            await asyncio.sleep(LOOK)
            await self._look()
            now = time.time()
            tell(self._words(now))
            open_ones = sum(not each.ended for each in self._creates)
            if sender.done():
                limit = min(limit, now + 2 * self._judge.plug_timeout + GRACE)
                if not open_ones or now > limit:
                    return
                self._looked = self._begun  # what was answered, or written, too late for the look that was meant to see it
            if not whole and self._judge.is_lost(self._creates, self._asked, now):
                return

    async def _look(self) -> None:
        rows = await self._site.database.fetch(_FINISHED, self._looked - 2 * LOOK)
        for row in rows:
            made = self._known.get(row["server_id"])
            if made is not None and not made.ended:
                _note(made, row)
                if made.active:
                    self._standing.append(row["server_id"])
            self._looked = max(self._looked, row["finished_at"])

    def _words(self, now: float) -> str:
        active = [each.seconds for each in self._creates if each.active]
        failed = sum(bool(each.ended) and not each.active for each in self._creates)
        p99 = percentile(active, 99)
        slow = f", p99 {p99:.2f} s" if p99 is not None else ""
        return (
            f"{self._rate:.3g}/s: {min(now - self._begun, self._seconds):.0f} of {self._seconds:.0f} s, "
            f"{len(active)} of {len(self._creates)} ACTIVE, {failed} failed{slow}"
        )


def _note(made: Create, row: Mapping[str, Any]) -> None:
    """What an action's row says of its create."""
    stamps, details = json.loads(row["stamps"]), json.loads(row["details"])
    made.ended, made.active = row["finished_at"], row["state"] == "done"
    failure = details.get("failure") or {}
    if not made.active:
        made.plug_timeout = failure.get("step") in PLUG_STEPS and " within " in str(failure.get("cause", ""))
        step = failure.get("step")
        if step in timeline.STEPS:
            stamps = {name: at for name, at in stamps.items() if name != "reported"} | {step: row["finished_at"]}
    spans = timeline.spans({"accepted": row["started_at"], **stamps})
    made.steps = {span.step: span.seconds for span in timeline.critical(spans)}
    made.steps["accepted"] = max(0.0, row["started_at"] - made.sent)


def mean_steps(ended: Sequence[Create]) -> dict[str, float]:
    """Mean seconds of each step of the chains, in their order; together they are the mean of the whole."""
    told = [each.steps for each in ended if each.steps]
    return {
        step: sum(steps.get(step, 0.0) for steps in told) / len(told) for step in timeline.STEPS if any(step in steps for steps in told)
    }


def windows(creates: Sequence[Create], begun: float, seconds: float, count: int = WINDOWS) -> list[Window]:
    """By when creates were asked for."""
    found = []
    length = max(seconds, 1e-9) / count
    for number in range(count):
        last = number == count - 1
        start = begun + number * length
        here = [each for each in creates if start <= each.sent and (last or each.sent < start + length)]
        active = [each.seconds for each in here if each.active]
        found.append(Window(number * length, len(here), len(active), percentile(active, 50), percentile(active, 99)))
    return found


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The smallest value that so many percent are not above (nearest rank); None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def flat(found: Sequence[Window]) -> float | None:
    """How much the p99 of windows grows: the median of their later half over that of their earlier; None where there is none."""
    half = len(found) // 2
    early = [each.p99_s for each in found[:half] if each.p99_s is not None]
    late = [each.p99_s for each in found[half:] if each.p99_s is not None]
    return statistics.median(late) / statistics.median(early) if early and late else None
