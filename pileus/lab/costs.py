"""What one create, one delete and one healing cost at light load: round trips by role, CPU, and how long a round trip holds its connection.

Measured on a site of its own before any case is: the model (physics.py) is fed by it and predicts what load will do.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import text

from pileus.lab.load import Create, Judge, Load
from pileus.lab.physics import Costs, Trips
from pileus.lab.site import Site
from pileus.settings import Database
from pileus.store import Tx
from pileus.store.postgresql import PostgresStore

PROBED = 12
"""Creates, deletes, and healings."""
RATE = 2.0
BUSY_RATES, BUSY_S = {"story": 4.0, "default": 25.0}, 5.0
"""Creates a second, and as many deletes, that each profile bears with ease; for how long."""
IDLE = 3.0
"""Seconds in which what costs something by itself is looked at."""
STATEMENTS, RUNS = 100, 8
NEVER = 1e7
"""An interval of healing that nothing reaches."""
REST = "network"
"""The proxy's name of the network API's REST."""

_HEAL = "UPDATE compute_servers SET heal_at = $1 WHERE id = ANY($2)"
_DUE = "SELECT count(*) FROM compute_servers WHERE heal_at <= $1 AND deleted_at IS NULL"


class Meter:
    """Round trips and CPU of a site, since it was made."""

    def __init__(self, site: Site, trips: Trips, cpu: float, at: float) -> None:
        self._site = site
        self._trips = trips
        self._cpu = cpu
        self._at = at

    @classmethod
    async def start(cls, site: Site) -> Meter:
        return cls(site, await _trips(site), _cpu(site), time.perf_counter())

    async def read(self) -> tuple[Trips, float, float]:
        """Trips by role, CPU seconds, seconds passed."""
        now = await _trips(self._site)
        passed = time.perf_counter() - self._at
        return {role: now[role] - self._trips[role] for role in now}, _cpu(self._site) - self._cpu, passed


async def measure(site: Site, tell: Callable[[str], None]) -> Costs:
    """On a site at rest. Raises TimeoutError."""
    await site.quiet("worker", "network-api", "network-rpc", "hosts")
    trip = await statement_seconds(f"postgresql://pileus@127.0.0.1:{site.ports['network-rpc']}/{site.name}")
    tell(f"a statement holds its connection for {trip * 1000:.2f} ms")
    meter = await Meter.start(site)
    await asyncio.sleep(IDLE)
    idle, idle_cpu, passed = await meter.read()
    idle = {role: count / passed for role, count in idle.items()}
    idle_cpu /= passed

    async def costs(work: Any) -> tuple[Trips, float]:
        started = await Meter.start(site)
        await work
        await site.settled()
        await asyncio.sleep(2.5)  # what follows, reports and events, belongs to it
        trips, cpu, seconds = await started.read()
        return (
            {role: max(0.0, (count - idle[role] * seconds) / PROBED) for role, count in trips.items()},
            max(0.0, (cpu - idle_cpu * seconds) / PROBED),
        )

    load = Load(site, Judge(3600.0), lambda _: None)
    await load.start()
    waits: list[float] = []

    async def creates() -> None:
        rung = await load.rung(RATE, PROBED / RATE, whole=True, deletes=0.0)
        waits.extend(each for each in (rung.p50_s, rung.p99_s) if each is not None)

    victims = (await site.alive())[:PROBED]
    create, create_cpu = await costs(creates())
    tell(f"a create: {_words(create)}, {create_cpu * 1000:.0f} ms of CPU")
    delete, delete_cpu = await costs(_deletes(site, victims))
    tell(f"a delete: {_words(delete)}, {delete_cpu * 1000:.0f} ms of CPU")
    heal, heal_cpu = await costs(_heals(site, (await site.alive())[:PROBED]))
    tell(f"a healing: {_words(heal)}, {heal_cpu * 1000:.0f} ms of CPU")
    busy = BUSY_RATES[site.case.profile]
    started = await Meter.start(site)
    count = (await load.rung(busy, BUSY_S, whole=True, deletes=busy)).created
    await site.settled()
    _, both, seconds = await started.read()
    cheaper = min(1.0, max(0.0, both - idle_cpu * seconds) / count / max(create_cpu + delete_cpu, 1e-9))
    create_cpu, delete_cpu = create_cpu * cheaper, delete_cpu * cheaper
    tell(f"at {busy:g}/s a create takes {create_cpu * 1000:.0f} ms of CPU, a delete {delete_cpu * 1000:.0f}")
    return Costs(
        create=create,
        delete=delete,
        heal=heal,
        cpu={"create": create_cpu, "delete": delete_cpu, "heal": heal_cpu, "idle": idle_cpu},
        trip_s=trip,
        wait_s=min(waits, default=0.0),
        slowest_s=max(waits, default=0.0),
        heal_requests=heal.get(REST, 0.0),
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


async def _trips(site: Site) -> Trips:
    return {role: float(count.trips) for role, count in (await site.counts()).items()}


def _cpu(site: Site) -> float:
    """Of everything: the load generator is on these cores, too."""
    return site.cpu() + site.ground.postgres.cpu() + sum(os.times()[:2])


def _words(trips: Trips) -> str:
    return ", ".join(f"{count:.0f} {role}" for role, count in trips.items() if count >= 0.5) or "nothing"


__all__ = ["Costs", "Create", "Meter", "measure", "statement_seconds"]
