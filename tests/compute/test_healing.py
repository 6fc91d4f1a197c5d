"""Healing: whose turn it is, evenly, after restarts and outages; and who asks the network service how."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Connection, select, update

from pileus import metrics
from pileus.clients.network import ServerAddress
from pileus.compute import healing, hostwatch, info_cache
from pileus.compute.figures import Figures
from pileus.compute.healing import Healing
from pileus.compute.tables import host_beats, servers
from pileus.errors import Unavailable
from pileus.messages import HostBeat
from pileus.settings import Compute as ComputeSettings
from pileus.settings import Settings
from pileus.store import Store
from pileus.store.sql import rows
from tests.compute import parts
from tests.compute.test_info_cache import add, address, get

assert metrics.CACHE_READS  # so that the registry has them

FAR = 4e9
EVERY = 100.0


def compute_settings(**values: Any) -> ComputeSettings:
    return msgspec.convert({"heal_instance_info_cache_interval": EVERY, "heal_scope": "all", **values}, ComputeSettings)


class Clock:
    """Stands still until it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(info_cache, "time", SimpleNamespace(time=lambda: self.now))
        chance = random.Random(3)
        monkeypatch.setattr(info_cache, "random", SimpleNamespace(random=chance.random, shuffle=chance.shuffle))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def heal(tx: Connection, clock: Clock, settings: ComputeSettings, seconds: float, *, step: float = 1.0) -> list[tuple[float, str, bool]]:
    """Let time pass, and a worker that heals: (when, server, late)."""
    found = []
    end = clock.now + seconds
    while clock.now < end:
        clock.now += step
        while reads := info_cache.begin_in_turn(tx, settings, clock.now + 5, 10):
            info_cache.end(tx, reads, {})
            found += [(clock.now, read.server_id, read.late) for read in reads]
    return found


def population(tx: Connection, settings: ComputeSettings, hosts: dict[str, int]) -> None:
    """Servers that have just booted, and hosts that were just heard of."""
    for host, count in hosts.items():
        tx.execute(host_beats.insert(), {"name": host, "seen_at": 1.0})
        for number in range(count):
            add(tx, f"{host}-{number}", host=host, heal_at=info_cache.heal_next(settings))
    tx.execute(host_beats.insert(), {"name": "", "seen_at": 1.0})


def test_all_are_healed_once_an_interval_and_evenly(tx: Connection, clock: Clock) -> None:
    settings = compute_settings()
    population(tx, settings, {"h1": 40, "h2": 60})
    for _ in range(2):
        healed = heal(tx, clock, settings, EVERY)
        assert Counter(name for _, name, _ in healed) == Counter({row["id"]: 1 for row in rows(tx, select(servers))})
        assert max(Counter(when // 10 for when, _, _ in healed).values()) <= 25  # of 10 s; 10 on the average
        assert not any(late for _, _, late in healed)


def test_after_an_outage_all_are_caught_up_and_spread_anew(tx: Connection, clock: Clock) -> None:
    settings = compute_settings()
    population(tx, settings, {"h1": 200})
    clock.now += 3 * EVERY
    first = heal(tx, clock, settings, 1.0)
    assert len({name for _, name, _ in first}) == 200 and all(late for _, _, late in first)
    for _ in range(2):
        begun, healed = clock.now, heal(tx, clock, settings, EVERY)
        assert len({name for _, name, _ in healed}) == 200
        assert max(Counter((when - begun - 1) // 10 for when, _, _ in healed).values()) <= 22  # of 10 s; 20 on the average


def test_late_turns_of_one_batch_are_spread_and_do_not_come_together_from_then_on(tx: Connection, clock: Clock) -> None:
    """Of servers, and of hosts where one server of each is healed."""
    population(tx, compute_settings(), {f"h{number:02}": 1 for number in range(20)})
    for scope, table in (("all", servers), ("one", host_beats)):
        clock.now += 3 * EVERY
        assert len(info_cache.begin_in_turn(tx, compute_settings(heal_scope=scope), FAR, 20)) == 20
        turns = sorted(row["heal_at"] - clock.now for row in rows(tx, select(table)) if row.get("name") != "")
        assert [int(at // (EVERY / 20)) for at in turns] == list(range(20))  # one in each twentieth
        tx.execute(update(servers).values(refresh_at=None))


def test_one_server_of_each_host_an_interval_the_longest_waiting_first(tx: Connection, clock: Clock) -> None:
    settings = compute_settings(heal_scope="one")
    population(tx, settings, {"h1": 3, "h2": 1, "empty": 0})
    add(tx, "stranger", host=None)
    rounds = [[name for _, name, _ in heal(tx, clock, settings, EVERY)] for _ in range(7)]
    ours = [[name for name in names if name.startswith("h1")] for names in rounds]
    assert all(len(names) == 1 for names in ours[1:]), rounds
    assert len({name for names in ours[1:4] for name in names}) == 3
    assert ours[1:4] == ours[4:7]  # in turn
    assert [[name for name in names if name.startswith("h2")] for names in rounds[1:]] == [["h2-0"]] * 6
    assert {name for names in rounds for name in names} == {"h1-0", "h1-1", "h1-2", "h2-0"}


@pytest.mark.parametrize("scope", ["all", "one"])
@pytest.mark.parametrize("resume", [True, False])
def test_a_restart_of_a_hosts_compute_service(tx: Connection, clock: Clock, resume: bool, scope: str) -> None:
    """It goes on where it was; or all of the host's servers are due at once, and nobody else's."""
    settings = compute_settings(heal_scope=scope, heal_resume=resume)
    population(tx, settings, {"h1": 5, "h2": 5})
    heal(tx, clock, settings, 3 * EVERY)
    tx.execute(update(servers).values(heal_at=clock.now + 90))
    tx.execute(update(host_beats).values(heal_at=clock.now + 90, started_at=5.0, mark=7))
    before = {row["id"]: row["heal_at"] for row in rows(tx, select(servers))}
    hostwatch._hear(tx, settings, [], [HostBeat("h1", 7, 5.0), HostBeat("h2", 7, 5.0)], False)
    assert {row["id"]: row["heal_at"] for row in rows(tx, select(servers))} == before
    hostwatch._hear(tx, settings, [], [HostBeat("h1", 7, 6.0), HostBeat("h2", 7, 5.0)], False)
    healed = {name for _, name, _ in heal(tx, clock, settings, 2.0)}
    expected = {"all": {f"h1-{number}" for number in range(5)}, "one": healed & {f"h1-{number}" for number in range(5)}}[scope]
    assert healed == (set() if resume else expected)
    assert resume or len(healed) == {"all": 5, "one": 1}[scope]
    off = msgspec.structs.replace(settings, heal_instance_info_cache_interval=0.0)
    hostwatch._hear(tx, off, [], [HostBeat("h2", 7, 9.0)], False)
    assert heal(tx, clock, settings, 2.0) == []


def test_a_shorter_interval_brings_forward_what_a_longer_one_or_none_has_put_off(tx: Connection, clock: Clock) -> None:
    off, on = compute_settings(heal_instance_info_cache_interval=-1.0), compute_settings()
    population(tx, off, {"h1": 30})
    tx.execute(update(host_beats).values(heal_at=FAR))
    assert {row["heal_at"] for row in rows(tx, select(servers))} == {info_cache.NEVER}
    while info_cache.settle(tx, on, 10):
        pass
    times = {row["heal_at"] for row in rows(tx, select(servers))}
    assert all(clock.now < at <= clock.now + EVERY for at in times) and len(times) == 30
    assert all(row["heal_at"] <= clock.now + EVERY for row in rows(tx, select(host_beats)))


def test_what_is_read_already_is_not_healed_beside(tx: Connection, clock: Clock) -> None:
    add(tx, "s1", heal_at=clock.now - 1)
    info_cache.stale(tx, ["s1"])
    assert info_cache.begin_in_turn(tx, compute_settings(), FAR, 10) == []
    info_cache.end(tx, info_cache.begin_due(tx, FAR, 10), {})
    [read] = info_cache.begin_in_turn(tx, compute_settings(), clock.now - 0.5, 10)
    assert get(tx, "s1")["heal_at"] == clock.now - 1 + EVERY
    assert [each.server_id for each in info_cache.begin_due(tx, FAR, 10)] == [read.server_id]  # who healed it died: nothing is lost


def test_new_hosts_have_turns_of_their_own_and_are_late_for_none(tx: Connection, clock: Clock) -> None:
    """However many come at once, as in a new cloud; what is known of before an upgrade as well."""
    settings = compute_settings(heal_scope="one")
    names = [f"h{number:02}" for number in range(48)]
    hostwatch._hear(tx, settings, [parts.facts(name) for name in names], [], False)
    for name in names:
        add(tx, f"{name}-0", host=name, heal_at=info_cache.heal_next(settings))
    healed = heal(tx, clock, settings, EVERY)
    assert sorted(name for _, name, _ in healed) == [f"{name}-0" for name in names]
    assert not any(late for _, _, late in healed)
    assert max(Counter(when // 10 for when, _, _ in healed).values()) <= 15  # of 10 s; 5 on the average


@pytest.mark.parametrize("scope", ["all", "one"])
def test_what_never_had_a_turn_gets_one_before_healing_begins(tx: Connection, clock: Clock, scope: str) -> None:
    settings = compute_settings(heal_scope=scope)
    for number in range(40):
        tx.execute(host_beats.insert(), {"name": f"h{number}", "seen_at": 1.0})
        add(tx, f"h{number}-0", host=f"h{number}", heal_at=0.0)
    while info_cache.settle(tx, settings, 10):
        pass
    healed = heal(tx, clock, settings, EVERY)
    assert len({name for _, name, _ in healed}) == 40
    assert not any(late for _, _, late in healed)


class Networks(parts.Networks):
    """`addresses` of a network service: `fail` of it, and how many questions were under way at once."""

    def __init__(self, together: int) -> None:
        super().__init__()
        self.addresses_together = together
        self.fail: set[str] = set()
        self.error: Exception = Unavailable("no answer")
        self.calls: list[list[str]] = []
        self.under_way = self.most = 0

    async def addresses(self, server_ids: Sequence[str]) -> dict[str, list[ServerAddress]]:
        self.calls.append(list(server_ids))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.001)
        self.under_way -= 1
        if self.fail & set(server_ids):
            raise self.error
        return {server_id: [address(7)] for server_id in server_ids}


def figure(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"pileus_compute_{name}_total", labels) or 0.0


async def made(store: Store, together: int, count: int, **values: Any) -> tuple[Healing, Networks]:
    compute = parts.compute_with(store, Settings(compute=compute_settings(**values)))
    network = compute.network = Networks(together)

    def fill(tx: Connection) -> None:
        for number in range(count):
            add(tx, f"s{number:03}", heal_at=FAR)

    await store.write(fill)
    return Healing(compute, lambda: True, Figures(True)), network


def known(tx: Connection) -> Counter[str]:
    states = {True: "read", False: "unread"}
    return Counter(states[row["addresses"] is not None and row["refresh_at"] is None] for row in rows(tx, select(servers)))


async def until(store: Store, wanted: dict[str, int]) -> None:
    async with asyncio.timeout(10):
        while await store.read(known) != wanted:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(("together", "most_of_a_call", "at_once"), [(1000, 100, 1), (1, 1, 8)])
async def test_stale_caches_are_read_by_a_worker_in_as_few_questions_as_the_network_service_can(
    store: Store, together: int, most_of_a_call: int, at_once: int
) -> None:
    worker, network = await made(store, together, 130)
    before = figure("cache_reads", why="event", outcome="read")
    loop = asyncio.create_task(worker.told())
    await store.write(info_cache.stale, [f"s{number:03}" for number in range(130)])
    worker.wake()
    await until(store, {"read": 130})
    loop.cancel()
    assert sorted(name for call in network.calls for name in call) == [f"s{number:03}" for number in range(130)]
    assert max(map(len, network.calls)) == most_of_a_call
    assert network.most == at_once
    assert figure("cache_reads", why="event", outcome="read") - before == 130


@pytest.mark.parametrize("error", [Unavailable("no answer"), KeyError("fixed_ips")], ids=["none", "nonsense"])
async def test_a_network_service_that_does_not_answer_is_asked_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """An answer about one server that nobody understands is as none; the others' caches are read."""
    monkeypatch.setattr(healing, "AGAIN", 0.0)
    worker, network = await made(store, 1, 3)
    network.error = error
    before = figure("cache_reads", why="event", outcome="failed")
    network.fail = {"s001"}
    loop = asyncio.create_task(worker.told())
    await store.write(info_cache.stale, ["s000", "s001", "s002"])
    worker.wake()
    await until(store, {"read": 2, "unread": 1})
    network.fail = set()
    worker.wake()
    await until(store, {"read": 3})
    loop.cancel()
    assert figure("cache_reads", why="event", outcome="failed") - before >= 1


async def test_lost_events_are_made_good_by_healing_and_by_nothing_where_it_is_off(store: Store) -> None:
    """`heal_instance_info_cache_interval`: what nobody said is found within it; 0: never."""
    off, _ = await made(store, 1000, 20, heal_instance_info_cache_interval=0.0)
    await asyncio.wait_for(off.in_turn(), 5)  # there is nothing to do for ever
    assert await store.read(known) == {"unread": 20}
    compute = parts.compute_with(store, Settings(compute=compute_settings(heal_instance_info_cache_interval=0.2)))
    compute.network = network = Networks(1000)
    before, began = figure("cache_reads", why="healing", outcome="read"), time.monotonic()
    loop = asyncio.create_task(Healing(compute, lambda: True, Figures(True)).in_turn())
    await until(store, {"read": 20})
    loop.cancel()
    assert network.calls and time.monotonic() - began < 5
    assert figure("cache_reads", why="healing", outcome="read") - before >= 20


async def test_a_worker_that_others_take_for_dead_reads_nothing(store: Store) -> None:
    worker, network = await made(store, 1000, 1)
    worker._alive = lambda: False
    await store.write(info_cache.stale, ["s000"])
    await worker._while_full("event", worker._due)
    assert network.calls == []
