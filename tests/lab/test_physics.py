"""The model: what is full first, and what a change of a setting does to it. Pure arithmetic."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pileus.lab import cases, physics
from pileus.lab.cases import BY_NAME, Case
from pileus.lab.physics import Costs, Cpu, Spent, World, heals_per_s, past, predict, why_not
from pileus.lab.site import API_WORKERS

COSTS = Costs(
    trips=Spent(
        create={"network-rpc": 150.0, "network-api": 250.0, "worker": 40.0},
        delete={"network-rpc": 50.0, "network-api": 50.0},
        heal={"network-api": 100.0},
        shared={"network-api": 200.0},
    ),
    held=Spent(
        create={"network-rpc": 0.15, "network-api": 0.25, "worker": 0.04},
        delete={"network-rpc": 0.05, "network-api": 0.05},
        heal={"network-api": 0.1},
        shared={"network-api": 0.2},
    ),
    cpu=Cpu(create=0.1, delete=0.025, heal=0.01, idle=0.1, shared=0.2, more_idle=0.002, more_shared=0.003),
    trip_s=0.001,
    wait_s=3.0,
    slowest_s=5.0,
    heal_requests=9.0,
)
WORLD = World(
    hosts=30,
    servers=300,
    cores=4,
    plug_timeout_s=300.0,
    rung_s=300.0,
    flow_s={"blocking": 0.3, "bundled": 0.01, "deferred": 0.01},
    wire_s=0.01,
)


def but(case: Case, **settings: Any) -> Case:
    return Case(case.name, case.words, {**case.settings, **settings}, case.profile, case.changed, case.restarts)


def test_the_first_case_is_limited_by_its_only_connection() -> None:
    told = predict(BY_NAME["start"], COSTS, WORLD)
    assert told.limited_by == "network rpc"
    assert told.full_at == pytest.approx(1 / 0.2)
    assert told.knee == pytest.approx(5 * past(145 / 300, once=False))
    words = "150 round trips a boot and 50 a delete hold a connection for 0.200 s (a trip by itself 1.00 ms); there are 1 × min(1, 64) = 1"
    assert words in told.arithmetic


def test_more_workers_move_the_limit_to_the_api_whose_connections_healing_holds() -> None:
    told = predict(BY_NAME["rpc"], COSTS, WORLD)
    assert told.limited_by == "network API"
    heals = 300 / 60 + 0.1 / 60 * 300
    assert told.full_at == pytest.approx((API_WORKERS - heals * 0.1 - 0.2) / 0.3)
    assert f"of which all that is shared holds 0.20 and healing {heals:.1f} servers a second holds {heals * 0.1:.2f}" in told.arithmetic


def test_with_all_changes_the_cores_are_the_limit() -> None:
    told = predict(BY_NAME["all"], COSTS, WORLD)
    heals = heals_per_s(BY_NAME["all"], WORLD)
    assert told.limited_by == "CPU"
    assert told.full_at == pytest.approx((4 - 0.3 - 19 * 0.005 - heals * 0.01) / 0.125)


def test_fewer_rpc_processes_leave_more_of_the_cores() -> None:
    pool = next(station for station in predict(BY_NAME["pool"], COSTS, WORLD).stations if station.name == "CPU")
    assert pool.held == pytest.approx(0.3 + heals_per_s(BY_NAME["pool"], WORLD) * 0.01)
    assert "0.30 are taken by what all share (turns, batches, 1 RPC process)" in pool.words


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("over", [1.05, 1.2, 1.4, 3.0])
def test_how_far_past_its_full_rate_a_station_is_good_for_a_while(once: bool, over: float) -> None:
    """Against queues that are played: deterministic arrivals, 100 a while; one after the other, or all a little at a time."""
    waits = played(over, once=once)
    assert past(max(waits), once=once) == pytest.approx(over, rel=0.08)
    assert past(0.1, once=once) < past(0.2, once=once) < past(0.2, once=True) + 1e-9


def played(over: float, *, once: bool, count: int = 100) -> list[float]:
    """Waits, in parts of the while that the load is held, where a boot takes 1 / (count / over) of it."""
    service = over / count
    if once:
        ends = 0.0
        found = []
        for number in range(count):
            ends = max(ends, number / count) + service
            found.append(ends - number / count - service)
        return found
    left: dict[int, float] = {}
    found, now, step = [], 0.0, service / 20
    arrived = 0
    while arrived < count or left:
        while arrived < count and arrived / count <= now:
            left[arrived] = service
            arrived += 1
        share = step / max(len(left), 1)
        for number in [number for number, rest in left.items() if rest <= share]:
            found.append(now + step - number / count - service)
            del left[number]
        left = {number: rest - share for number, rest in left.items()}
        now += step
    return found


def test_a_slow_deletion_holds_the_agents_unless_it_is_deferred() -> None:
    few = World(**{**vars(WORLD), "hosts": 1, "flow_s": {"blocking": 10.0, "bundled": 0.5, "deferred": 0.5}})
    start = predict(BY_NAME["start"], COSTS, few)
    assert start.limited_by == "agents"
    assert start.full_at == pytest.approx(1 / (0.16 + 10))
    assert predict(BY_NAME["bundled"], COSTS, few).full_at == pytest.approx(1 / (0.16 + 0.5))
    assert next(s for s in predict(BY_NAME["deletion"], COSTS, few).stations if s.name == "agents").delete_s == 0


def test_slots_are_held_through_the_wait_in_the_story_only() -> None:
    slow = Costs(**{**{name: getattr(COSTS, name) for name in COSTS.__struct_fields__}, "wait_s": 200.0})
    few = World(**{**vars(WORLD), "hosts": 5})
    told = predict(BY_NAME["all"], slow, few)
    assert told.limited_by == "build slots"
    assert told.full_at == pytest.approx(5 * 10 / 200)
    assert "build slots" not in {station.name for station in predict(BY_NAME["default"], slow, few).stations}


def test_nobody_waits_for_rpc_where_the_host_asks_its_own_agent() -> None:
    names = {name: {station.name for station in predict(BY_NAME[name], COSTS, WORLD).stations} for name in ("start", "default")}
    assert "network rpc" in names["start"] - names["default"]


def test_healing_by_restarts_counts_only_where_it_starts_over() -> None:
    over, on = BY_NAME["restarts"], BY_NAME["restarts-resume"]
    assert heals_per_s(over, WORLD) == pytest.approx(300 / 600 + 2 / 60 * 300)
    assert heals_per_s(on, WORLD) == pytest.approx(300 / 600)
    assert heals_per_s(but(on, **{cases.HEAL: 0.0}), WORLD) == 0
    assert heals_per_s(BY_NAME["default"], WORLD) == pytest.approx(30 / 600)  # one of each host


@pytest.mark.parametrize("change", ["heal", "deletion"])
def test_what_does_not_matter_is_said_with_the_reason(change: str) -> None:
    said = why_not(BY_NAME[change], COSTS, WORLD)
    assert "does not matter here: network rpc is the limit" in said
    assert why_not(BY_NAME["rpc"], COSTS, WORLD) == ""


@given(
    workers=st.integers(1, 40),
    pool=st.integers(1, 100),
    heal=st.floats(1, 3600),
    trip=st.floats(1e-4, 0.1),
    timeout=st.floats(2, 600),
    more=st.integers(1, 10),
)
def test_more_of_anything_is_never_worse(workers: int, pool: int, heal: float, trip: float, timeout: float, more: int) -> None:
    world = World(**{**vars(WORLD), "plug_timeout_s": timeout, "rung_s": timeout})
    free = msgspec.structs.replace(COSTS.cpu, more_idle=0.0, more_shared=0.0)  # but RPC processes cost CPU: on few cores more of them are
    times = {name: {role: n * trip for role, n in getattr(COSTS.trips, name).items()} for name in Spent.__struct_fields__}
    costs = msgspec.structs.replace(COSTS, held=Spent(**times), cpu=free)
    case = but(BY_NAME["start"], **{cases.WORKERS: workers, cases.POOL: pool, cases.HEAL: heal})
    before = predict(case, costs, world)
    assert 0 <= before.full_at <= before.knee + 1e-9
    assert before.full_at >= min(station.full_at for station in before.stations)
    for key, value in (
        (cases.WORKERS, workers + more),
        (cases.POOL, pool + more),
        (cases.HEAL, heal * (1 + more)),
        (cases.DELETION, "deferred"),
    ):
        assert predict(but(case, **{key: value}), costs, world).knee >= before.knee - 1e-9


def test_deletes_that_are_not_begun_take_nothing() -> None:
    station = physics.Station("CPU", 2.0, 0.02, 0.04, 0.0, "", most_deletes=20.0)
    assert station.full_at == pytest.approx((2.0 - 20 * 0.04) / 0.02)
    assert physics.Station("CPU", 0.6, 0.02, 0.04, 0.0, "", most_deletes=20.0).full_at == pytest.approx(10.0)


@given(rate=st.floats(0.01, 50), held=st.floats(0, 3), create=st.floats(0.001, 5), delete=st.floats(0, 5))
def test_littles_law(rate: float, held: float, create: float, delete: float) -> None:
    """At the rate at which a station is full, all of it is held on average."""
    station = physics.Station("it", held + rate * (create + delete), create, delete, held, "")
    assert station.full_at == pytest.approx(rate)
