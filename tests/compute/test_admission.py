"""The queue of creates: fair between projects, within its limits, whoever lets in; and the counters of builds are the truth."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import Connection, create_engine, func, select, text, update

from pileus.compute import actions, admission, builds, creation, leases, outcomes, quotas, servers
from pileus.compute.actions import Stale
from pileus.compute.creation import Creation, NewServer
from pileus.compute.lifecycle import Failure
from pileus.compute.tables import actions as actions_table
from pileus.compute.tables import hosts, usage, workers
from pileus.context import SYSTEM, Context
from pileus.errors import TooManyRequests
from pileus.messages import Observed, Progress
from pileus.settings import Quota, Settings
from pileus.store import Tx
from pileus.store.schema import json_dumps, json_loads, metadata
from pileus.store.sqlite import SqliteStore
from tests.engines.stores import AnyStore

FLAVOR = {"id": "1", "name": "nano", "ram": 128, "vcpus": 1, "disk": 0, "ephemeral": 0, "swap": 0, "extra_specs": {}}
NO_LIMIT = Settings(quota=Quota(instances=-1, cores=-1, ram=-1))


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[AnyStore]:
    """For what SQLite's own words are needed."""
    opened_store = SqliteStore.open(tmp_path / "one.db")
    yield opened_store
    await opened_store.close()


def make(tx: Tx, project: str, count: int = 1, settings: Settings = NO_LIMIT) -> list[str]:
    context = Context("user", project_id=project, roles=frozenset({"member"}))
    made = creation.create(tx, settings, Creation(context, NewServer("s", FLAVOR, []), count), limit=60.0)
    return [row["id"] for row in made]


def admit(tx: Tx, /, most: int = 1, limit: int = 0, worker: str = "w1", **more: Any) -> list[tuple[str, str]]:
    """Project and server of those let in."""
    leases.join(tx, worker)
    found = admission.admit(tx, worker, lease=60.0, limit=limit, most=most, deadline=100.0, **more)
    assert found is not None
    return [(action["project_id"], server["id"]) for action, server in found.batch]


async def test_one_projects_thousands_do_not_delay_anothers_first(store: AnyStore) -> None:
    for _ in range(10):
        await store.write(make, "a", 500)
    assert [project for project, _ in await store.write(admit, 100)] == ["a"] * 100
    [first] = await store.write(make, "b")
    assert await store.write(admit) == [("b", first)]


async def test_projects_take_turns(store: AnyStore) -> None:
    await store.write(make, "a", 20)
    await store.write(make, "b", 20)
    await store.write(make, "c", 3)
    order = [project for project, _ in await store.write(admit, 12)]
    assert sorted(order[:9]) == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    assert set(order[9:]) == {"a", "b"}


async def test_within_a_project_the_order_is_that_of_the_requests(store: AnyStore) -> None:
    first = await store.write(make, "a", 3)
    second = await store.write(make, "a", 2)
    assert [server for _, server in await store.write(admit, 5)] == [*first, *second]


async def test_who_deleted_what_waited_does_not_pay_for_it(store: AnyStore) -> None:
    """A project that gave up a thousand creates stands no further behind than one that never asked for them."""
    ids = await store.write(make, "a", 50)

    def give_up(tx: Tx) -> None:
        for server_id in ids:
            servers.act(tx, SYSTEM, server_id, "delete", limit=60.0)

    await store.write(give_up)
    [mine] = await store.write(make, "a")
    await store.write(make, "b", 5)
    assert mine in [server for _, server in await store.write(admit, 2)]


async def test_the_limit_in_all_counts_what_is_being_built(store: AnyStore) -> None:
    await store.write(make, "a", 10)
    assert len(await store.write(admit, 4, limit=3)) == 3
    assert await store.write(admit, 4, limit=3, worker="w2") == []
    assert len(await store.write(admit, 4, limit=5, worker="w2")) == 2


async def test_many_workers_at_once_let_in_no_more_than_the_limit_and_nobody_twice(store: AnyStore) -> None:
    await store.write(make, "a", 30)

    async def worker(name: str) -> list[str]:
        mine: list[str] = []
        await store.write(leases.join, name)
        while True:
            found = await store.write(admission.admit, name, lease=60.0, limit=12, most=3, deadline=100.0)
            if found is not None and not found.batch:
                return mine
            mine += [server["id"] for _, server in found.batch] if found else []

    found = await asyncio.gather(*(worker(f"w{n}") for n in range(6)))
    ids = [server_id for each in found for server_id in each]
    assert len(ids) == len(set(ids)) == 12
    assert await store.read(admission.counts) == {"queued": 12, "waiting": 18}


async def test_who_is_let_in_is_leased_and_looked_at_again_when_the_worker_dies(store: AnyStore) -> None:
    await store.write(make, "a")
    await store.write(admit)
    [action] = await store.read(_all)
    assert (action["state"], action["deadline"] - time.time()) == ("queued", pytest.approx(100, abs=5))
    assert await store.write(_take_due, "w2", time.time() + admission.LOOK) == []
    [(taken, server)] = await store.write(_take_due, "w2", time.time() + leases.ALIVE + 1)
    assert (taken["id"], server["lease_owner"]) == (action["id"], "w2")


async def test_a_worker_that_ended_in_order_leaves_its_leases_at_once(store: AnyStore) -> None:
    await store.write(make, "a")
    await store.write(admit)
    await store.write(leases.leave, "w1")
    assert len(await store.write(_take_due, "w2", time.time() + admission.LOOK + 1)) == 1


async def test_two_sweeps_get_different_actions(store: AnyStore) -> None:
    ids = await store.write(make, "a", 8)
    await store.write(lambda tx: [servers.act(tx, SYSTEM, i, "delete", limit=60.0) for i in ids])

    def sweep(tx: Tx, worker: str) -> set[str]:
        leases.join(tx, worker)
        return {str(action["id"]) for action, _ in leases.take_due(tx, worker, 60.0, deletes=True, most=5)}

    one, two = await store.write(sweep, "w1"), await store.write(sweep, "w2")
    assert (len(one), len(two), one & two) == (5, 3, set())


async def test_a_lease_that_was_lost_changes_nothing(store: AnyStore) -> None:
    [server_id] = await store.write(make, "a")

    def let_in(tx: Tx) -> leases.Taken:
        leases.join(tx, "w1")
        found = admission.admit(tx, "w1", lease=60.0, limit=0, most=1, deadline=100.0)
        assert found is not None
        return found.batch[0]

    action, server = await store.write(let_in)
    await store.write(leases.leave, "w1")
    [(again, theirs)] = await store.write(_take_due, "w2", time.time() + admission.LOOK + 1)
    mine = {**server, "host": "h1"}
    for write in (
        lambda tx: outcomes.sent(tx, action, mine, {"state": "sent"}),
        lambda tx: outcomes.blocked(tx, action, mine, "full", 60.0),
        lambda tx: outcomes.to_queue(tx, action, mine, 60.0),
        lambda tx: outcomes.failed(tx, action, Failure("claimed", "", "no"), "local", mine),
        lambda tx: outcomes.deleted(tx, action, mine),
    ):
        with pytest.raises(Stale):
            await store.write(write)
    assert await store.write(leases.free, server, but="") == []
    now = await store.read(servers.get, SYSTEM, server_id)
    assert (now["lease_owner"], now["host"], now["vm_state"]) == ("w2", None, "building")
    await store.write(lambda tx: outcomes.sent(tx, again, {**theirs, "host": "h2"}, {"state": "sent"}))
    assert (await store.read(servers.get, SYSTEM, server_id))["host"] == "h2"


async def test_unblocking_is_bounded_and_goes_round(store: AnyStore) -> None:
    await store.write(make, "a", 40)
    await store.write(lambda tx: tx.execute(actions_table.update().values(state="blocked")))
    seen: set[int] = set()
    after = -1
    for _ in range(5):
        count, after = await store.write(admission.unblock, most=8, after=after, limit=60.0)
        assert count == 8
        tags = set(await store.read(_tags, "waiting"))
        assert min(tags) == 0
        seen |= tags
        await store.write(lambda tx: tx.execute(actions_table.update().values(state="blocked")))
    assert len(seen) > 16  # the first four each time, and others in turn
    assert await store.write(lambda tx: admission.unblock(tx, most=1, after=-1, limit=0.0)) == (1, -1)


async def test_too_many_queued_is_429_with_a_time_by_the_projects_own_rate(store: AnyStore) -> None:
    few = Settings(quota=Quota(queued_creates=3))
    await store.write(make, "a", 2, few)
    with pytest.raises(TooManyRequests, match="2 wait, 2 more were asked for, 3 may wait") as refused:
        await store.write(make, "a", 2, few)
    assert refused.value.headers == {"Retry-After": "60"}  # nothing of it was ever let in
    assert (await store.read(quotas.used, "a"))["instances"] == 2
    await store.write(make, "b", 3, few)
    await store.write(admit, 3, rates=True)
    await store.write(make, "a", 1, few)
    await store.write(lambda tx: tx.execute(usage.update().values(admit_rate=0.5, admitted_at=time.time() - 0.5)))
    waiting = (await store.read(admission.counts))["waiting"]
    with pytest.raises(TooManyRequests) as refused:
        await store.write(make, "a", 4, few)
    mine = await store.read(admission.queued, "a", 10)
    assert waiting and refused.value.headers == {"Retry-After": str(math.ceil((mine + 4 - 3) / 0.5))}


@pytest.mark.parametrize(("creates", "rate", "seconds"), [(1, 100.0, 1), (10, 2.0, 5), (1000, 1.0, 60), (1, 0.0, 60)])
def test_the_time_is_bounded(creates: int, rate: float, seconds: int) -> None:
    assert admission.retry_after(creates, rate) == seconds


async def test_the_rate_is_noted_only_where_it_is_asked_for(store: AnyStore) -> None:
    await store.write(make, "a", 4)
    await store.write(admit, 2)
    assert await store.read(admission.rate, "a") == 0
    await store.write(admit, 2, rates=True)
    assert await store.read(admission.rate, "a") > 0


HOT: dict[str, tuple[Any, dict[str, Any]]] = {
    "next": (admission._NEXT, {"most": 5, "now": 1.0, "alive_since": 0.0}),
    "running": (admission._RUNNING, {"most": 5}),
    "blocked": (admission._BLOCKED, {"most": 5, "after": 0}),
    "any": (admission._ANY, {}),
    "before": (admission._BEFORE, {"state": "waiting", "tag": 5}),
    "queued": (admission._QUEUED, {"project": "a", "most": 5}),
    "due": (leases._DUE_LANES[False], {"now": 1.0, "alive_since": 0.0, "most": 5}),
    "due deletes": (leases._DUE_LANES[True], {"now": 1.0, "alive_since": 0.0, "most": 5}),
    "any due": (leases._ANY_DUE, {"now": 1.0}),
    "due of": (leases._DUE_OF, {"server": "s", "now": 1.0, "but": ""}),
    "host's": (actions._WAIT_FOR_HOST, {"host": "h"}),
}


@pytest.mark.parametrize("name", HOT)
async def test_hot_statements_are_served_by_indexes(sqlite: AnyStore, name: str) -> None:
    statement, values = HOT[name]

    def explain(tx: Tx) -> list[str]:
        compiled = statement.params(**values).compile(tx.engine, compile_kwargs={"literal_binds": True})
        return [row[3] for row in tx.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}")]

    plan = await sqlite.read(explain)
    scans = [line for line in plan if line.startswith("SCAN") and "INDEX" not in line and "CONSTANT" not in line]
    assert [line for line in scans if "compute_workers" not in line and "(subquery" not in line and "anon" not in line] == [], plan


def _all(tx: Tx) -> list[Any]:
    return [dict(row) for row in tx.execute(select(actions_table)).mappings()]


def _tags(tx: Tx, state: str) -> list[int]:
    return list(tx.execute(select(actions_table.c.tag).where(actions_table.c.state == state)).scalars())


def _take_due(tx: Tx, worker: str, at: float) -> list[leases.Taken]:
    """What a worker finds due at another time than now."""
    real, time.time = time.time, lambda: at
    try:
        leases.join(tx, worker)
        return leases.take_due(tx, worker, 60.0, deletes=False, most=5)
    finally:
        time.time = real


class Builds(RuleBasedStateMachine):
    """Whatever happens to creates in whatever order, a host counts just those that are `sent` to it, and never more than it may."""

    MOST = 2

    def __init__(self) -> None:
        super().__init__()
        engine = create_engine("sqlite://", json_serializer=json_dumps, json_deserializer=json_loads)
        metadata.create_all(engine)
        self.tx: Connection = engine.connect()
        self.tx.execute(text("PRAGMA foreign_keys = OFF"))
        for n, name in enumerate(("h1", "h2")):
            row = {"name": name, "id": name, "service_id": name, "facts": {}, "zone": "nova", "created_at": float(n), "updated_at": 0.0}
            self.tx.execute(hosts.insert(), row)
        self.ids: list[str] = []

    def attempt(self, work: Any) -> Any:
        """As the store does it: what raises is undone."""
        point = self.tx.begin_nested()
        try:
            found = work(self.tx)
        except (Stale, outcomes.HostFull):
            point.rollback()
            return None
        point.commit()
        return found

    def of(self, server_id: str) -> tuple[Any, Any]:
        return actions.open_of(self.tx, server_id), servers.by_id(self.tx, server_id)

    @rule()
    def create(self) -> None:
        self.ids += make(self.tx, "a")

    @rule(most=st.integers(1, 3))
    def admit(self, most: int) -> None:
        admit(self.tx, most)

    def leased(self, data: st.DataObject) -> tuple[Any, Any]:
        return self.of(data.draw(st.sampled_from(self.ids)))

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), host=st.sampled_from(["h1", "h2"]))
    def send(self, data: st.DataObject, host: str) -> None:
        action, server = self.leased(data)
        if action is None or action["name"] != "create" or action["state"] not in ("queued", "sent", "parked"):
            return
        told = action["state"] in actions.ANSWERED
        server = {**server, "host": server["host"] if told else host}
        values = {"state": action["state"] if told else "sent"}
        self.attempt(lambda tx: outcomes.sent(tx, action, server, values, builds_limit=self.MOST))

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), failed=st.booleans(), retry=st.booleans())
    def observe(self, data: st.DataObject, failed: bool, retry: bool) -> None:
        action, server = self.leased(data)
        if action is None or server["host"] is None:
            return
        step = "paused" if failed else ""
        message = Observed(server["id"], server["host"], server["generation"], "running", step, "no", retry)
        taken = self.attempt(lambda tx: outcomes.take(tx, message))
        if taken is not None and taken.failure is not None:
            self.attempt(lambda tx: outcomes.unwinding(tx, taken.action, taken.failure))

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def park(self, data: st.DataObject) -> None:
        action, server = self.leased(data)
        if action is not None and server["host"] is not None:
            message = Progress(server["id"], server["host"], server["generation"], {}, "wired")
            self.attempt(lambda tx: outcomes.progress(tx, message))

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), retry=st.booleans())
    def give_up(self, data: st.DataObject, retry: bool) -> None:
        action, server = self.leased(data)
        if action is not None and action["name"] == "create":
            failure = Failure("sent", server["host"] or "", "silence", retry)
            self.attempt(lambda tx: outcomes.unwinding(tx, action, failure))

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), retry=st.booleans())
    def unwound(self, data: st.DataObject, retry: bool) -> None:
        action, _ = self.leased(data)
        if action is not None and action["state"] == "unwinding":
            failure = Failure("sent", "h1", "silence", retry)
            self.attempt(lambda tx: outcomes.failed(tx, action, failure, "local", queue_limit=60.0))

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), back=st.booleans())
    def no_room(self, data: st.DataObject, back: bool) -> None:
        action, server = self.leased(data)
        if action is not None and action["state"] == "queued" and action["name"] == "create":
            if back:
                self.attempt(lambda tx: outcomes.to_queue(tx, action, server, 60.0))
            else:
                self.attempt(lambda tx: outcomes.blocked(tx, action, server, "full", 60.0))

    @rule()
    def room(self) -> None:
        self.attempt(lambda tx: admission.unblock(tx, most=2, after=-1, limit=60.0))

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        server_id = data.draw(st.sampled_from(self.ids))
        if servers.by_id(self.tx, server_id)["vm_state"] != "deleted":  # type: ignore[index]
            self.attempt(lambda tx: servers.act(tx, SYSTEM, server_id, "delete", limit=60.0))

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def deleted(self, data: st.DataObject) -> None:
        action, server = self.leased(data)
        if action is not None and action["name"] == "delete":
            self.attempt(lambda tx: outcomes.deleted(tx, action, server))

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        server_id = data.draw(st.sampled_from(self.ids))
        if servers.by_id(self.tx, server_id)["vm_state"] != "deleted":  # type: ignore[index]
            self.attempt(lambda tx: servers.reset_state(tx, SYSTEM, server_id, "error"))

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def stale(self, data: st.DataObject) -> None:
        """An answer and an order cross: both loaded the same."""
        action, server = self.leased(data)
        if action is None or action["name"] != "create" or server["host"] is None:
            return
        self.attempt(lambda tx: servers.act(tx, SYSTEM, server["id"], "delete", limit=60.0))
        assert not actions.change(self.tx, action, state="done")

    @invariant()
    def the_counters_are_the_truth(self) -> None:
        for name, building in self.tx.execute(select(hosts.c.name, hosts.c.building)).all():
            mine = select(func.count()).where(
                actions_table.c.name == "create", actions_table.c.state == "sent", actions_table.c.build_host == name
            )
            assert building == self.tx.execute(mine).scalar_one()
            assert building <= self.MOST

    def teardown(self) -> None:
        self.tx.close()


TestBuilds = Builds.TestCase
TestBuilds.settings = hypothesis_settings(max_examples=40, stateful_step_count=40, deadline=None)


async def test_a_host_is_not_given_more_than_it_may(store: AnyStore) -> None:
    row = {"name": "h1", "id": "h1", "service_id": "h1", "facts": {}, "zone": "nova", "created_at": 0.0, "updated_at": 0.0}
    await store.write(lambda tx: tx.execute(hosts.insert(), row))
    assert [await store.write(builds.enter, "h1", 2) for _ in range(3)] == [True, True, False]
    assert await store.write(builds.enter, "h1", 0)
    await store.write(builds.leave, "h1")
    assert not await store.write(builds.enter, "h1", 2)


async def test_a_worker_that_was_silent_for_an_hour_is_forgotten_and_may_come_back(store: AnyStore) -> None:
    def silent(tx: Tx, name: str, seconds: float) -> None:
        leases.join(tx, name)
        tx.execute(update(workers).where(workers.c.id == name).values(seen_at=time.time() - seconds))

    def living(tx: Tx) -> list[str]:
        return sorted(tx.execute(select(workers.c.id)).scalars())

    await store.write(silent, "alive", leases.FORGOTTEN - 60)
    await store.write(silent, "dead", leases.FORGOTTEN + 1)
    await store.write(leases.forget_dead)
    assert await store.read(living) == ["alive"]
    await store.write(leases.beat, "dead")
    assert await store.read(living) == ["alive", "dead"]
