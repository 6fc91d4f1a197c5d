"""The story's knees by arithmetic, before anything is measured: what a boot asks of each station, and how much each has to give.

A station is a number of servers in the sense of queues: connections, build slots, agents' loops, cores. A create, and the delete that
keeps the population as it is, each hold one of them for some seconds; healing and restarts hold some all the time. By Little's law
(held on average = rate × seconds held) a station is full at the rate at which all of it is held; the smallest of these rates is the knee.
Costs are counted, statements and CPU, at two loads on a cloud whose waiting parts are wide: what grows with the load is a boot's own, what
does not (turns of loops, batches, looks) is shared by all that comes. A statement takes as long as here with the round trip that is added.

Past that rate queues grow as long as the load is held. How far past it a load is still good depends on how a queue is stood in: see `past`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from pileus.lab import cases
from pileus.lab.cases import Case, value
from pileus.lab.site import API_WORKERS

Trips = dict[str, float]
"""Role → round trips to the database, or seconds."""


class Spent(msgspec.Struct, frozen=True):
    """By role: of one create, one delete, one healing; `shared`: a second, whatever the rate, where there is work at all."""

    create: Trips
    delete: Trips
    heal: Trips
    shared: Trips


class Cpu(msgspec.Struct, frozen=True):
    """CPU of all processes, the load generator's with them. `create`, `delete`, `heal`: seconds of one. Cores: `idle` at rest, `shared` by
    all work that there is, however much, both with one RPC process; `more_idle`, `more_shared`: of each further one."""

    create: float
    delete: float
    heal: float
    idle: float
    shared: float = 0.0
    more_idle: float = 0.0
    more_shared: float = 0.0

    def taken(self, workers: int) -> float:
        """Cores that are taken whatever the rate, with so many RPC processes."""
        return self.idle + self.shared + (workers - 1) * (self.more_idle + self.more_shared)


class Costs(msgspec.Struct, frozen=True):
    """What things cost with a profile. `trips`: round trips to the database; `held`: seconds for which connections to it are held.
    `words`: how that was measured, in a sentence."""

    trips: Spent
    held: Spent
    cpu: Cpu
    trip_s: float
    """One round trip by itself, as who holds the connection waits for it."""
    wait_s: float
    """From POST to ACTIVE at light load, the median."""
    slowest_s: float
    """The slowest of them: where a turn of a loop and a batch are waited for, each boot waits for another part of them."""
    heal_requests: float
    """REST requests of healing one server."""
    words: str = ""


@dataclass(frozen=True)
class World:
    """What is the same in all cases. `flow_s`: seconds of deleting the flows of one port, by `network.flow_deletion`, `rung_s`: for how
    long a load is held, `wire_s`: plugging and wiring one port."""

    hosts: int
    servers: int
    cores: int
    plug_timeout_s: float
    rung_s: float
    flow_s: Mapping[str, float]
    wire_s: float


@dataclass(frozen=True)
class Station:
    """`servers`: how many there are; `held`: how many of them something else holds all the time; `create_s`, `delete_s`: seconds that one
    is held. `words`: how it comes to that. `once`: a boot stands in its queue once, first come first served; else again and again."""

    name: str
    servers: float
    create_s: float
    delete_s: float
    held: float
    words: str
    once: bool = False
    most_deletes: float = math.inf
    """A second, while creates are under way."""

    @property
    def full_at(self) -> float:
        """Creates, and as many deletes (if so many are begun), a second."""
        free = max(0.0, self.servers - self.held)
        rate = free / max(self.create_s + self.delete_s, 1e-9)
        if rate <= self.most_deletes:
            return rate
        return (free - self.most_deletes * self.delete_s) / max(self.create_s, 1e-9)

    def knee(self, room_s: float, rung_s: float) -> float:
        """The rate at which its queue, within the seconds of a rung, makes a boot wait for `room_s` and no longer."""
        return self.full_at * past(room_s / rung_s, once=self.once)


def past(wait: float, *, once: bool) -> float:
    """Times its full rate that a station may be loaded for a while, until somebody waits for the part `wait` of that while.

    First come, first served: what is too much stands behind, so after the time T with ρ times the full rate a wait is (ρ - 1) T. Where
    all that is under way is served in turns (a boot comes back to the queue, or shares the cores), work is spent on what is not finished
    in time, and nearly twice as much is under way: of those in the system y = ρ (1 - e^-y) times the full rate, a second, grow, and a
    wait is y/ρ of T. So ρ = -ln(1 - w) / w. Waits longer than half of T end after the load has, and grow with it as the others'.
    """
    if wait <= 0:
        return 1.0
    if once:
        return 1.0 + wait
    share = min(wait, 0.5)
    return -math.log1p(-share) / share + wait - share


@dataclass(frozen=True)
class Prediction:
    """`full_at`: the rate that the limiting station can bear for ever; `knee`: the highest at which a rung is still good, because within
    its seconds no queue grows longer than half the plug timeout."""

    knee: float
    full_at: float
    limited_by: str
    arithmetic: str
    stations: tuple[Station, ...]


def heals_per_s(case: Case, world: World) -> float:
    """Servers healed a second: by the interval, and because restarts begin it again."""
    interval = case.heal_interval
    if interval <= 0:
        return 0.0
    every = (world.servers if value(case, "compute.heal_scope") == "all" else world.hosts) / interval
    again = 0.0 if value(case, cases.RESUME) else case.restarts / 60 * world.servers
    return float(every + again)


def stations(case: Case, costs: Costs, world: World) -> tuple[Station, ...]:
    heals = heals_per_s(case, world)
    found = []
    workers, pool = int(value(case, cases.WORKERS)), int(value(case, cases.POOL))
    threads = int(value(case, "network.executor_thread_pool_size"))
    rpc = workers * min(pool, threads)
    if value(case, "compute.plug_signal") == "callback":  # else nobody waits for what the agents tell their server
        found.append(_connections("network rpc", "network-rpc", costs, rpc, f"{workers} × min({pool}, {threads}) = {rpc}", 0.0))
    if costs.held.create.get("network-api"):
        every = API_WORKERS * pool
        found.append(_connections("network API", "network-api", costs, every, f"{API_WORKERS} × {pool} = {every}", heals))
    slots = world.hosts * int(value(case, "compute.max_concurrent_builds"))
    if value(case, "compute.hold_build_slot") and slots:
        found.append(
            Station(
                "build slots",
                slots,
                costs.wait_s,
                0.0,
                0.0,
                f"{world.hosts} hosts × {slots // world.hosts} slots, each held for {costs.wait_s:.2f} s",
                once=True,
            )
        )
    if value(case, "network.agent_loop") == "serial":
        found.append(_agents(case, costs, world))
    cpu = costs.cpu
    taken, healing = cpu.taken(workers), heals * cpu.heal
    found.append(
        Station(
            "CPU",
            world.cores,
            cpu.create,
            cpu.delete,
            taken + healing,
            f"{cpu.create * 1000:.0f} ms of CPU a boot and {cpu.delete * 1000:.0f} a delete, on {world.cores} cores of which "
            f"{taken:.2f} are taken by what all share (turns, batches, {workers} RPC process{'es' if workers > 1 else ''}) and "
            f"{healing:.2f} by healing",
            bool(value(case, "compute.max_builds")),  # builds are limited in all: the others wait once, for their turn
            float(value(case, "compute.deletes_beside_creates")) or math.inf,
        )
    )
    return tuple(found)


def _connections(name: str, role: str, costs: Costs, servers: int, made: str, heals: float) -> Station:
    """The database connections of a role. `made`: how there are so many; `heals`: servers a second whose healing holds some."""
    create, delete = costs.held.create.get(role, 0.0), costs.held.delete.get(role, 0.0)
    shared, healing = costs.held.shared.get(role, 0.0), heals * costs.held.heal.get(role, 0.0)
    trips = costs.trips.create.get(role, 0.0), costs.trips.delete.get(role, 0.0)
    others = f", of which all that is shared holds {shared:.2f}" if shared >= 0.005 else ""
    others += f"{' and' if others else ', of which'} healing {heals:.1f} servers a second holds {healing:.2f}" if healing >= 0.005 else ""
    return Station(
        name,
        servers,
        create,
        delete,
        shared + healing,
        f"{trips[0]:.0f} round trips a boot and {trips[1]:.0f} a delete hold a connection for {create + delete:.3f} s (a trip by itself "
        f"{costs.trip_s * 1000:.2f} ms); there are {made}{others}",
    )


def _agents(case: Case, costs: Costs, world: World) -> Station:
    """One loop a host: it asks, wires and reports port after port; unless deferred, it removes flows first."""
    deletion = str(value(case, cases.DELETION))
    asks = costs.held.create.get("network-rpc", 0.0)
    flows = world.flow_s.get(deletion, 0.0)
    beside = " beside the loop" if deletion == "deferred" else ""
    return Station(
        "agents",
        world.hosts,
        asks + world.wire_s,
        0.0 if deletion == "deferred" else flows,
        0.0,
        f"a port keeps an agent's loop for {asks + world.wire_s:.3f} s, its removal ({deletion}){beside} for {flows:.4f} s; there are "
        f"{world.hosts} loops",
        once=True,
    )


def predict(case: Case, costs: Costs, world: World) -> Prediction:
    found = stations(case, costs, world)
    room = max(0.0, world.plug_timeout_s / 2 - costs.slowest_s)
    limit = min(found, key=lambda station: station.knee(room, world.rung_s))
    knee = limit.knee(room, world.rung_s)
    how = "first come, first served" if limit.once else "all served in turns"
    arithmetic = (
        f"{limit.words}: full at {limit.full_at:.2f}/s. Held for {world.rung_s:g} s, {knee / max(limit.full_at, 1e-9):.2f} times that "
        f"({how}) makes a boot wait {room:.1f} s more, and p99 is {world.plug_timeout_s / 2:g} s: {knee:.2f}/s"
    )
    return Prediction(knee, limit.full_at, limit.name, arithmetic, found)


def why_not(case: Case, costs: Costs, world: World) -> str:
    """Of a case with changes: those of its changes without which its knee would be the same, and why. Empty: each matters."""
    whole = predict(case, costs, world)
    words = []
    for change in cases.CHANGES:
        if change.name not in case.changed:
            continue
        without = Case(case.name, case.words, {**case.settings, change.key: change.was}, case.profile, restarts=case.restarts)
        other = predict(without, costs, world)
        if abs(other.knee - whole.knee) < 0.03 * whole.knee:
            words.append(f"{change.words} does not matter here: {whole.limited_by} is the limit, {_station_words(change.name, whole)}")
    return "; ".join(words)


TOUCHES = {"heal": "network API", "rpc": "network rpc", "pool": "network rpc", "deletion": "agents"}
"""Change → the station that it makes wider."""


def _station_words(change: str, whole: Prediction) -> str:
    touched = next((station for station in whole.stations if station.name == TOUCHES[change]), None)
    if touched is None or touched.name == whole.limited_by:
        return "and it is as wide without it"
    return f"{touched.name} would do for {touched.full_at:.0f}/s"
