"""Heartbeats in batches, and silence: what is written, what follows, and how little of it there is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import settings as how
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import create_engine, event

from pileus.compute import beats, hosts, reports
from pileus.compute.hostwatch import HostWatch
from pileus.compute.scheduler import Scheduler
from pileus.compute.service import Compute
from pileus.compute.tables import host_beats
from pileus.hearing import DEAF
from pileus.host.heartbeat import EARLY, Heartbeat, marked
from pileus.messages import BEAT, HEARTBEAT, FactsWanted, GuestNow, HostBeat, HostFacts, HostReport, facts_subject, from_host
from pileus.settings import Compute as Limits
from pileus.store.schema import json_dumps, json_loads, metadata
from pileus.store.sqlite import SqliteStore
from tests.compute import parts


@pytest.fixture
def compute(store: SqliteStore) -> Compute:
    return parts.compute_with(store)


@contextmanager
def statements(tx: Any) -> Iterator[list[str]]:
    """What is executed meanwhile."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    event.listen(tx, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(tx, "before_cursor_execute", note)


@pytest.fixture
def database() -> Iterator[Any]:
    engine = create_engine("sqlite://", json_serializer=json_dumps, json_deserializer=json_loads)
    metadata.create_all(engine)
    with engine.begin() as tx:
        yield tx
    engine.dispose()


def known(tx: Any, *names: str, **changes: Any) -> dict[str, HostFacts]:
    facts = {name: marked(parts.facts(name, started_at=5.0, **changes)) for name in names}
    heard = beats.hear(tx, list(facts.values()), [])
    beats.offered(tx, [each for _, each in heard.offers])
    return facts


def brief(facts: HostFacts, **changes: Any) -> HostBeat:
    values: dict[str, Any] = {"host": facts.host, "mark": facts.mark, "started_at": facts.started_at, "guests": facts.guests}
    return HostBeat(**(values | changes))


def test_two_statements_for_a_hundred_beats_and_no_facts_in_them(database: Any) -> None:
    facts = known(database, *[f"h{n}" for n in range(100)])
    with statements(database) as seen:
        heard = beats.hear(database, [], [brief(each) for each in facts.values()])
    assert heard == beats.Heard()
    assert len(seen) == 2 and not any("compute_hosts" in one for one in seen)


def test_what_a_beat_leads_to(database: Any) -> None:
    one, two = known(database, "one", "two").values()
    other = marked(parts.facts("one", started_at=5.0, vcpus=99))
    assert other.mark != one.mark and marked(parts.facts("one", started_at=6.0, guests=7)).mark == one.mark
    heard = beats.hear(database, [], [brief(one, mark=other.mark), brief(two, started_at=9.0, guests=3), HostBeat("three", 1, 1.0)])
    assert (sorted(heard.ask), heard.anew, heard.offers, heard.back) == (["one", "three"], ["two"], [], [])
    assert hosts.by_name(database, "two")["facts"]["guests"] == 3  # type: ignore[index]
    assert hosts.by_name(database, "three") is None
    late = beats.hear(database, [], [brief(two, started_at=5.0)])
    assert late.anew == [] and hosts.by_name(database, "two")["started_at"] == 9.0  # type: ignore[index]
    told = beats.hear(database, [other], [brief(one, mark=other.mark)])
    assert [(row["name"], row["facts"]["vcpus"]) for row, _ in told.offers] == [("one", 99)] and told.ask == []
    again = beats.hear(database, [], [brief(other)])
    assert again.ask == ["one"], "placement was never told"
    beats.offered(database, [other])
    assert beats.hear(database, [], [brief(other)]).ask == []


async def test_a_hundred_beats_in_a_second_are_two_transactions(compute: Compute) -> None:
    facts = [marked(parts.facts(f"h{n}")) for n in range(100)]
    await compute.store.write(beats.hear, facts, [])
    await compute.store.write(beats.offered, facts)
    watch = HostWatch(compute, Scheduler(compute.store, compute.placement, compute.settings.compute))
    writes = 0
    write = compute.store.write

    async def counted(*given: Any, **named: Any) -> Any:
        nonlocal writes
        writes += 1
        return await write(*given, **named)

    compute.store.write = counted  # type: ignore[method-assign]
    before = time.time()
    await watch.start()
    try:
        for each in facts:
            await compute.bus.publish(from_host(each.host, BEAT), brief(each))
        async with asyncio.timeout(10):
            while any(row["seen_at"] < before for row in await compute.store.read(hosts.all_hosts)):
                await asyncio.sleep(0.01)
        assert writes <= 2
    finally:
        await watch.close()
        compute.store.write = write  # type: ignore[method-assign]


async def test_an_unknown_host_is_asked_and_tells(compute: Compute) -> None:
    """A control plane that lost a host's rows, or a first word that was lost: the next beat makes it good."""
    watch = HostWatch(compute, Scheduler(compute.store, compute.placement, compute.settings.compute))
    await watch.start()
    heartbeat = Heartbeat(compute.bus, 3600.0, lambda: parts.facts("h1"))
    heartbeat._told = marked(parts.facts("h1")).mark

    async def tell(wanted: FactsWanted) -> None:
        assert wanted.part == "compute"
        await heartbeat.tell()

    asked = compute.bus.subscribe(facts_subject("h1"), FactsWanted, tell)
    try:
        await heartbeat.beat()
        await watch.heard(["h1"], 10)
        assert (await compute.store.read(hosts.by_names, ["h1"]))["h1"]["facts"]["vcpus"] == 8
        await heartbeat.beat()
    finally:
        await asked.close()
        await watch.close()


async def test_a_host_whose_first_words_are_lost_is_known_soon(compute: Compute, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its facts and its first beat are: it beats again long before its interval, and is asked."""
    monkeypatch.setattr("pileus.host.heartbeat.EARLY", (0.02, 0.02, 0.02))
    monkeypatch.setattr("pileus.compute.hostwatch.TOGETHER", 0.02)
    lost = [from_host("h1", HEARTBEAT), from_host("h1", BEAT)]

    def fate(subject: str, payload: bytes) -> Sequence[float]:
        if subject in lost:
            lost.remove(subject)
            return ()
        return (0.0,)

    compute.bus.fate = fate  # type: ignore[attr-defined]
    watch = HostWatch(compute, Scheduler(compute.store, compute.placement, compute.settings.compute))
    await watch.start()
    heartbeat = Heartbeat(compute.bus, 3600.0, lambda: parts.facts("h1"))

    async def tell(_wanted: FactsWanted) -> None:
        await heartbeat.tell()

    asked = compute.bus.subscribe(facts_subject("h1"), FactsWanted, tell)
    try:
        await heartbeat.start()
        await watch.heard(["h1"], 10)
        assert lost == []
    finally:
        await heartbeat.close()
        await asked.close()
        await watch.close()


@pytest.mark.parametrize("interval", [1.0, 25.0, 3600.0])
async def test_when_a_host_beats_after_its_start(compute: Compute, monkeypatch: pytest.MonkeyPatch, interval: float) -> None:
    """A few times soon, then at a moment of the interval that is its own, then at the interval."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(pause: float) -> None:
        pauses.append(pause)
        await sleep(3600.0 if len(pauses) == 6 else 0)

    monkeypatch.setattr("pileus.host.heartbeat.asyncio.sleep", noted)
    heartbeat = Heartbeat(compute.bus, interval, lambda: parts.facts("h1"))
    await heartbeat.start()
    async with asyncio.timeout(10):
        while len(pauses) < 6:
            await sleep(0)
    await heartbeat.close()
    for pause, most in zip(pauses, EARLY, strict=False):
        assert min(most, interval) / 2 <= pause <= min(most, interval)
    assert 0 <= pauses[3] <= interval and pauses[4:] == [interval, interval]


def test_ten_thousand_reported_guests_are_one_statement_without_json(database: Any) -> None:
    lists = [HostReport(f"h{n}", {f"s{n}-{m}": GuestNow(1, "running") for m in range(3)}, time.time()) for n in range(20)]
    with statements(database) as seen:
        orders = reports.reconcile(database, lists)
    assert len(orders.remove) == 60 and ("h0", "s0-0", 2) in orders.remove
    assert len(seen) == 2 and not any("flavor" in one or "boot" in one for one in seen)


LIMITS = Limits(service_down_time=60.0)


class Silence(RuleBasedStateMachine):
    """Against a model: a host is down when it was silent for a minute in which the control plane could hear; each silence is acted
    upon once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.real = time.time
        time.time = lambda: self.now
        self.engine = create_engine("sqlite://", json_serializer=json_dumps, json_deserializer=json_loads)
        metadata.create_all(self.engine)
        self.tx = self.engine.connect()
        self.facts = known(self.tx, "a", "b")
        beats.hearing(self.tx)
        self.seen = dict.fromkeys(self.facts, self.now)
        self.since = self.heard_at = self.now
        self.noticed: set[str] = set()

    def teardown(self) -> None:
        time.time = self.real
        self.tx.close()
        self.engine.dispose()

    def silent(self, name: str) -> bool:
        limit = min(self.now, self.heard_at + DEAF) - LIMITS.service_down_time
        return self.since <= limit and self.seen[name] <= limit

    @rule(seconds=st.sampled_from([1.0, 5.0, 19.0, 21.0, 59.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(steps=st.integers(1, 20))
    def listen(self, steps: int) -> None:
        """Time passes while the control plane hears its echo."""
        for _ in range(steps):
            self.now += 5
            self.echo()

    @rule()
    def echo(self) -> None:
        beats.hearing(self.tx)
        if self.heard_at < self.now - DEAF:
            self.since = self.now
        self.heard_at = self.now

    @rule(name=st.sampled_from(["a", "b"]))
    def beat(self, name: str) -> None:
        heard = beats.hear(self.tx, [], [brief(self.facts[name])])
        assert (name in heard.back) == (name in self.noticed)
        self.noticed.discard(name)
        self.seen[name] = self.now

    @rule()
    def look(self) -> None:
        expected = {name for name in self.facts if self.silent(name)} - self.noticed
        assert set(beats.silent(self.tx, LIMITS)) == expected
        assert set(beats.notice(self.tx, LIMITS)) == expected
        assert beats.notice(self.tx, LIMITS) == []
        self.noticed |= expected

    @precondition(lambda self: self.noticed)
    @rule()
    def look_again(self) -> None:
        assert self.noticed.isdisjoint(beats.silent(self.tx, LIMITS))

    @invariant()
    def is_up_says_the_same(self) -> None:
        for row in hosts.all_hosts(self.tx):
            assert hosts.is_up(row, LIMITS, self.now) == (not self.silent(row["name"]))


TestSilence = Silence.TestCase
TestSilence.settings = how(max_examples=25, stateful_step_count=25, deadline=None)


def test_the_table_of_beats_has_no_index_that_a_beat_would_change() -> None:
    assert not host_beats.indexes
