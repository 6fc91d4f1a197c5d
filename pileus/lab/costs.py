"""What one create, one delete and one healing cost: round trips by role, CPU, and how long a round trip holds its connection.

Measured on a site of its own before any case is: the model (physics.py) is fed by it and predicts what load will do. One by one they
cost more than together, since turns, batches and looks are shared. So work is measured under loads, too, from light to as much as the
cores can bear, on a site whose waiting parts are wide; nobody looks at how long anything takes there.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from pileus.lab import metrics
from pileus.lab.cases import CHANGES, WORKERS
from pileus.lab.load import Judge, Load
from pileus.lab.metrics import HOLD
from pileus.lab.physics import Costs, Cpu, Spent, Trips
from pileus.lab.site import ROLES, Site
from pileus.settings import Database
from pileus.store import Tx
from pileus.store.postgresql import PostgresStore

MORE_WORKERS = {"story": next(int(change.becomes) for change in CHANGES if change.key == WORKERS)}
"""RPC processes of the cases that have many of them."""
PROBED, HEALED = 12, 96
"""Creates and deletes; healings, which come many together."""
RATE = 2.0
LIGHT = {"story": 3.0, "default": 20.0}
"""Creates a second, and as many deletes, that each profile bears with ease."""
LOAD_S = 8.0
"""For how long a load is held."""
NEARLY, FULL = 0.8, 1.3
"""Of what the cores can bear by what is known so far: the second load, and the third. At a knee queues grow, and what queues comes in
larger batches: so the last load is one that makes them grow, too."""
IDLE = 3.0
"""Seconds in which what costs something by itself is looked at."""
STATEMENTS, RUNS = 100, 8
NEVER = 1e7
"""An interval of healing that nothing reaches."""
REST = "network"
"""The proxy's name of the network API's REST."""

_HEAL = "UPDATE compute_servers SET heal_at = $1 WHERE id = ANY($2)"
_DUE = "SELECT count(*) FROM compute_servers WHERE (heal_at <= $1 OR refresh_at IS NOT NULL) AND deleted_at IS NULL"


@dataclass(frozen=True)
class Seen:
    """One load. `rate`: pairs of a create and a delete a second, of the seconds until all of it had ended; round trips a second and
    connections held on average by role, and cores, without those at rest."""

    rate: float
    trips: Trips
    held: Trips
    cores: float


@dataclass(frozen=True)
class Reading:
    """Since a meter was started, or of each second: round trips and seconds of connections held by role, CPU seconds; seconds passed."""

    trips: Trips
    held: Trips
    cpu: float
    seconds: float

    def per_second(self) -> Reading:
        return self.less(Reading({}, {}, 0.0, 0.0), self.seconds)

    def less(self, idle: Reading, parts: float) -> Reading:
        """Without what is spent at rest (of each second), of each of so many parts."""

        def of(role: Trips, rest: Trips) -> Trips:
            return {name: max(0.0, value - rest.get(name, 0.0) * self.seconds) / parts for name, value in role.items()}

        cpu = max(0.0, self.cpu - idle.cpu * self.seconds) / parts
        return Reading(of(self.trips, idle.trips), of(self.held, idle.held), cpu, self.seconds / parts)


class Meter:
    """What a site spends from now on."""

    def __init__(self, site: Site, begun: Reading) -> None:
        self._site = site
        self._begun = begun

    @classmethod
    async def start(cls, site: Site) -> Meter:
        return cls(site, await _now(site))

    async def read(self) -> Reading:
        now, then = await _now(self._site), self._begun
        trips = {role: count - then.trips[role] for role, count in now.trips.items()}
        held = {role: max(0.0, total - then.held[role]) for role, total in now.held.items()}
        return Reading(trips, held, now.cpu - then.cpu, now.seconds - then.seconds)


async def measure(site: Site, tell: Callable[[str], None]) -> Costs:
    """On a site at rest. Raises TimeoutError."""
    await site.quiet("worker", "network-api", "network-rpc", "hosts")
    trip = await statement_seconds(f"postgresql://pileus@127.0.0.1:{site.ports['network-rpc']}/{site.name}")
    tell(f"a statement holds its connection for {trip * 1000:.2f} ms")
    idle = await _at_rest(site)

    async def costs(work: Any, number: int = PROBED) -> Reading:
        started = await Meter.start(site)
        await work
        await site.settled()
        await asyncio.sleep(2.5)  # what follows, reports and events, belongs to it
        return (await started.read()).less(idle, number)

    load = Load(site, Judge(3600.0), lambda _: None)
    await load.start()
    waits: list[float] = []

    async def creates() -> None:
        rung = await load.rung(RATE, PROBED / RATE, whole=True, deletes=0.0)
        waits.extend(each for each in (rung.p50_s, rung.p99_s) if each is not None)

    victims = (await site.alive())[:PROBED]
    create = await costs(creates())
    tell(f"a create: {_words(create.trips)}, {create.cpu * 1000:.0f} ms of CPU")
    delete = await costs(_deletes(site, victims))
    tell(f"a delete: {_words(delete.trips)}, {delete.cpu * 1000:.0f} ms of CPU")
    healed = (await site.alive())[:HEALED]
    heal = await costs(_heals(site, healed), len(healed))
    tell(f"a healing: {_words(heal.trips)}, {heal.cpu * 1000:.0f} ms of CPU")
    seen = await _loads(site, load, idle, tell)
    own, shared = fit([(each.rate, each.cores) for each in seen])
    more_idle = more_shared = 0.0
    more = MORE_WORKERS.get(site.case.profile, 1)
    if more > 1:
        await site.slow_down(**{WORKERS: more})
        await site.quiet("network-rpc", "hosts")
        rest = await _at_rest(site)
        wide = await _load(site, load, FULL * bearable(cores(), rest.cpu, seen), rest)
        more_idle = max(0.0, rest.cpu - idle.cpu) / (more - 1)
        more_shared = max(0.0, wide.cores - own * wide.rate - shared) / (more - 1)
        tell(f"{more} RPC processes take {(more - 1) * more_idle:.2f} cores more at rest, and {(more - 1) * more_shared:.2f} more at work")
    part = create.cpu / max(create.cpu + delete.cpu, 1e-9)
    cpu = Cpu(own * part, own * (1 - part), heal.cpu, idle.cpu, shared, more_idle, more_shared)
    tell(f"together a create takes {cpu.create * 1000:.0f} ms of CPU, a delete {cpu.delete * 1000:.0f}; what all share {shared:.2f} cores")
    return Costs(
        trips=_spent(create.trips, delete.trips, heal.trips, [(each.rate, each.trips) for each in seen]),
        # As long a trip as where nothing else is: under load connections are held for locks and cores, too, which is queues and no cost.
        held=_spent(create.held, delete.held, heal.held, [(each.rate, _times(each.trips, create, delete)) for each in seen]),
        cpu=cpu,
        trip_s=trip,
        wait_s=min(waits, default=0.0),
        slowest_s=max(waits, default=0.0),
        heal_requests=heal.trips.get(REST, 0.0),
        words=_measured(site, create.cpu + delete.cpu, seen, cpu, more),
    )


def _times(trips: Trips, create: Reading, delete: Reading) -> Trips:
    """Seconds that connections are held for so many round trips, each for as long as those of work that came one by one."""
    held = {role: create.held[role] + delete.held[role] for role in create.held}
    return {role: trips[role] * held[role] / max(create.trips[role] + delete.trips[role], 1e-9) for role in held}


def _spent(create: Trips, delete: Trips, heal: Trips, loads: Sequence[tuple[float, Trips]]) -> Spent:
    """What loads cost, parted between creates and deletes as those that came one by one."""
    lines = {role: fit([(rate, amounts[role]) for rate, amounts in loads]) for role in create}
    part = {role: create[role] / max(create[role] + delete[role], 1e-9) for role in create}
    return Spent(
        create={role: own * part[role] for role, (own, _) in lines.items()},
        delete={role: own * (1 - part[role]) for role, (own, _) in lines.items()},
        heal=heal,
        shared={role: shared for role, (_, shared) in lines.items()},
    )


def fit(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(Rate, amount a second) → what each one costs, and what is there with any rate: the line through the lightest load and the heaviest,
    neither part below 0."""
    (low, low_y), (high, high_y) = min(points), max(points)
    if high < 1.2 * low:  # nothing can be told apart
        return high_y / max(high, 1e-9), 0.0
    slope = min(max(0.0, (high_y - low_y) / (high - low)), high_y / high)
    return slope, high_y - slope * high


def bearable(cores: float, idle: float, seen: Sequence[Seen]) -> float:
    """Pairs a second that fill the cores, by the loads seen so far; of one, as if nothing were shared."""
    own, shared = fit([(each.rate, each.cores) for each in seen])
    return max(cores - idle - shared, 0.1 * cores) / max(own, 1e-9)


def cores() -> int:
    return os.cpu_count() or 1


async def _at_rest(site: Site) -> Reading:
    """Of each second in which nothing is asked for."""
    meter = await Meter.start(site)
    await asyncio.sleep(IDLE)
    return (await meter.read()).per_second()


async def _loads(site: Site, load: Load, idle: Reading, tell: Callable[[str], None]) -> list[Seen]:
    """A light one, one that the cores can bear, and one that they cannot."""
    found = [await _load(site, load, LIGHT[site.case.profile], idle)]
    for part in (NEARLY, FULL):
        found.append(await _load(site, load, part * bearable(cores(), idle.cpu, found), idle))
    for each in found:
        tell(f"at {each.rate:.1f}/s a create and a delete take {each.cores / each.rate * 1000:.0f} ms of CPU")
    return found


async def _load(site: Site, load: Load, rate: float, idle: Reading) -> Seen:
    meter = await Meter.start(site)
    count = (await load.rung(rate, LOAD_S, whole=True, deletes=rate)).created
    await site.settled()
    spent = await meter.read()
    above = spent.less(idle, spent.seconds)
    return Seen(count / spent.seconds, above.trips, above.held, above.cpu)


def _measured(site: Site, alone: float, seen: Sequence[Seen], cpu: Cpu, more: int) -> str:
    loads = ", ".join(f"{each.cores / each.rate * 1000:.0f} ms at {each.rate:.1f}/s" for each in seen)
    wider = f"; {more} RPC processes were measured at one load of these, too" if more > 1 else ""
    return (
        f"CPU of a create and a delete with the {site.case.profile} profile: {alone * 1000:.0f} ms one by one, {loads}, on a site with "
        f"one RPC process, wide pools and no healing{wider}. The line through it: {(cpu.create + cpu.delete) * 1000:.0f} ms each and "
        f"{cpu.shared:.2f} cores for what all share. How long servers took at these loads was not looked at."
    )


async def statement_seconds(url: str) -> float:
    """How long a statement keeps its connection, client and server and the way between: the median of several long transactions."""
    store = await PostgresStore.open(Database(url=url, max_pool_size=1), role="lab")
    try:
        taken = []
        for _ in range(RUNS):
            begun = time.perf_counter()
            await store.read(_statements, STATEMENTS)
            taken.append((time.perf_counter() - begun) / (STATEMENTS + 1))
        return statistics.median(taken)
    finally:
        await store.close()


def _statements(tx: Tx, count: int) -> None:
    for _ in range(count):
        tx.execute(text("SELECT name FROM compute_hosts WHERE name = :name"), {"name": "lab"}).first()


async def _deletes(site: Site, victims: list[str]) -> None:
    for server_id in victims:
        await site.delete(server_id)
        await asyncio.sleep(1 / RATE)


async def _heals(site: Site, servers: list[str]) -> None:
    """All due now; until none is."""
    now = time.time()
    await site.database.execute(_HEAL, now - 1, servers)
    async with asyncio.timeout(60):
        while await site.database.fetchval(_DUE, now):  # noqa: ASYNC110 - the schedule is in the database
            await asyncio.sleep(0.1)


async def _now(site: Site) -> Reading:
    told = await metrics.read(site)
    held = {role: sample.get(f"{HOLD}_sum", 0.0) for role, sample in told.items() if role in ROLES}
    trips = {role: float(count.trips) for role, count in (await site.counts()).items()}
    return Reading(trips, held, _cpu(site), time.perf_counter())


def _cpu(site: Site) -> float:
    """Of everything: the load generator is on these cores, too."""
    return site.cpu() + site.ground.postgres.cpu() + sum(os.times()[:2])


def _words(trips: Trips) -> str:
    return ", ".join(f"{count:.0f} {role}" for role, count in trips.items() if count >= 0.5) or "nothing"
