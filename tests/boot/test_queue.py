"""Creates that wait: for their turn, for room, for their network; and workers that die while they compute."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from pileus.compute import admission, leaks, leases, outcomes, servers
from pileus.compute.leaks import Leaks
from pileus.compute.scheduler import Scheduler
from pileus.compute.tables import actions as actions_table
from pileus.compute.tables import hosts as hosts_table
from pileus.compute.worker import Worker, _look
from pileus.context import SYSTEM
from pileus.operator_api import _waiting
from pileus.store import Tx
from tests.boot.cloudlet import USER, Cloudlet, cloudlet, settings

ENOUGH = {"instances": -1, "cores": -1, "ram": -1}


async def more_workers(cloud: Cloudlet, count: int) -> list[Worker]:
    """Workers beside the cloudlet's own, each with a picture of its own."""
    made = []
    for _ in range(count):
        worker = Worker(cloud.compute, Scheduler(cloud.store, cloud.placement, cloud.settings.compute), exclusive=False)
        await worker.start()
        made.append(worker)
    return made


def truth(tx: Tx) -> tuple[int, dict[str, tuple[int, int]]]:
    """Builds under way in all; host → what it counts, and what is really sent to it."""
    states = [(row.state, row.build_host) for row in tx.execute(select(actions_table).where(actions_table.c.name == "create"))]
    counted = {row.name: row.building for row in tx.execute(select(hosts_table.c.name, hosts_table.c.building))}
    sent = {name: sum(state == "sent" and host == name for state, host in states) for name in counted}
    return sum(state in ("queued", "sent") for state, _ in states), {name: (counted[name], sent[name]) for name in counted}


def state_of(cloud: Cloudlet, server_id: str, *states: str) -> Callable[[], Any]:
    async def is_it() -> bool:
        return (await cloud.last_action(server_id))["state"] in states

    return is_it


async def test_limits_hold_under_many_workers(tmp_path: Path) -> None:
    chosen = settings(compute={"max_builds": 7, "max_concurrent_builds": 3}, simulated={"start": 0.02}, quota=ENOUGH)
    async with cloudlet(tmp_path, chosen, hosts=4) as cloud:
        workers = await more_workers(cloud, 3)
        ids = await cloud.create(count=60)
        most, building, seen = 0, 0, set()
        while (await cloud.last_action(ids[-1]))["state"] != "done" or building:
            building, hosts = await cloud.store.read(truth)
            most = max(most, building)
            for counted, sent in hosts.values():
                assert counted == sent <= 3
                seen.add(counted)
        assert [(await cloud.settled(server_id))["vm_state"] for server_id in ids] == ["active"] * 60
        assert (most, max(seen)) == (7, 3)
        for worker in workers:
            await worker.close()


async def test_a_build_that_waits_for_its_network_holds_no_place(tmp_path: Path) -> None:
    """The story's first fault: a host whose every slot waits for a slow network builds nothing any more."""
    limits = {"max_builds": 2, "max_concurrent_builds": 2, "vif_plugging_timeout": 60.0}
    async with cloudlet(tmp_path, settings(compute=limits, simulated={"wire": 30.0}), hosts=1) as cloud:
        ids = await cloud.create(count=6)
        for server_id in ids:
            await cloud.until(state_of(cloud, server_id, "parked"), 10.0)
        building, hosts = await cloud.store.read(truth)
        assert (building, hosts) == (0, {"host-0": (0, 0)})
        action = await cloud.last_action(ids[0])
        assert {"accepted", "queued", "claimed", "addressed", "sent", "image", "plugged", "paused"} <= set(action["stamps"])
        assert "its network on host host-0: all else is done, `wired` is not" in str(_waiting(action, "host-0", 0))


async def test_what_is_parked_ends_as_all_others(tmp_path: Path) -> None:
    limits = {"max_builds": 1, "vif_plugging_timeout": 60.0}
    async with cloudlet(tmp_path, settings(compute=limits, simulated={"wire": 1.4}), hosts=1) as cloud:
        ids = await cloud.create(count=3)
        assert [(await cloud.settled(server_id))["vm_state"] for server_id in ids] == ["active"] * 3
        assert "waits_for" in (await cloud.last_action(ids[0]))["details"]


def _nobody_looks_by_himself(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(admission, "RELOOK_FIRST", 60.0)
    patch.setattr("pileus.compute.scheduler.PICTURE_AGE", 60.0)


async def test_blocked_goes_on_when_a_server_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _nobody_looks_by_himself(monkeypatch)
    async with cloudlet(tmp_path, settings(simulated={"memory_mb": 700}), hosts=1) as cloud:
        [first] = await cloud.create()
        assert (await cloud.settled(first))["vm_state"] == "active"
        [second] = await cloud.create()
        await cloud.until(state_of(cloud, second, "blocked"))
        action = await cloud.last_action(second)
        told = str(_waiting(action, "", 0))
        assert told.startswith("room on a host, since") and "1 out of MEMORY_MB" in told
        server = await cloud.server(second)
        assert (server["vm_state"], server["task_state"], server["host"]) == ("building", "scheduling", None)
        await cloud.compute.act(USER, first, "delete")
        assert (await cloud.settled(second))["vm_state"] == "active"
        stamps = (await cloud.last_action(second))["stamps"]
        assert stamps["queued"] < stamps["blocked"] < stamps["claimed"]


async def test_room_that_comes_while_a_create_is_being_found_blocked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looked before there was room, and was written down as blocked after: nobody would tell it again."""
    _nobody_looks_by_himself(monkeypatch)
    async with cloudlet(tmp_path, settings(simulated={"memory_mb": 700}), hosts=1) as cloud:
        [first] = await cloud.create()
        await cloud.settled(first)
        write, refused, roomy = cloud.store.write, asyncio.Event(), asyncio.Event()

        async def held(work: Any, *given: Any, **named: Any) -> Any:
            if work is outcomes.blocked and not refused.is_set():
                refused.set()
                await roomy.wait()
            return await write(work, *given, **named)

        cloud.store.write = held  # type: ignore[method-assign, assignment]
        [second] = await cloud.create()
        await refused.wait()
        await cloud.compute.act(USER, first, "delete")
        await cloud.settled(first)
        roomy.set()
        assert (await cloud.settled(second, 10.0))["vm_state"] == "active"
        assert (await cloud.last_action(second))["details"]["blocked"]["looks"] == 1


async def test_a_sweep_that_looked_before_a_create_was_blocked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says after is older than what is known: room that comes then is not lost."""
    _nobody_looks_by_himself(monkeypatch)
    async with cloudlet(tmp_path, settings(simulated={"memory_mb": 700}), hosts=1) as cloud:
        [first] = await cloud.create()
        await cloud.settled(first)
        read, looked, go_on = cloud.store.read, asyncio.Event(), asyncio.Event()

        async def held(work: Any, *given: Any, **named: Any) -> Any:
            found = await read(work, *given, **named)
            if work is _look and not looked.is_set():
                looked.set()
                await go_on.wait()
            return found

        cloud.store.read = held  # type: ignore[method-assign, assignment]
        await looked.wait()
        [second] = await cloud.create()
        await cloud.until(state_of(cloud, second, "blocked"))
        monkeypatch.setattr("pileus.compute.worker.SWEEP", 60.0)
        go_on.set()
        await cloud.compute.act(USER, first, "delete")
        assert (await cloud.settled(second, 10.0))["vm_state"] == "active"


async def test_blocked_goes_on_when_a_host_comes(tmp_path: Path) -> None:
    async with cloudlet(tmp_path, settings(simulated={"memory_mb": 700}), hosts=2) as cloud:
        await cloud.store.write(_count, "host-1", forced_down=True)
        cloud.worker._scheduler.forget()
        [first] = await cloud.create()
        await cloud.settled(first)
        [second] = await cloud.create()
        await cloud.until(state_of(cloud, second, "blocked"), 10.0)
        await cloud.store.write(_count, "host-1", forced_down=False)
        assert (await cloud.settled(second, 8.0))["host"] == "host-1"
        assert (await cloud.last_action(second))["details"]["blocked"]["looks"] <= 4


async def test_blocked_fails_at_its_limit_with_the_reason(tmp_path: Path) -> None:
    async with cloudlet(tmp_path, settings(compute={"blocked_limit": 0.3}, simulated={"memory_mb": 700}), hosts=1) as cloud:
        first, second = await cloud.create(count=2)
        found = [await cloud.settled(each) for each in (first, second)]
        assert sorted(server["vm_state"] for server in found) == ["active", "error"]
        fault = next(server["fault"] for server in found if server["fault"])
        assert "No valid host was found" in fault["message"] and "out of MEMORY_MB" in fault["message"]


async def test_what_can_never_fit_fails_at_once(tmp_path: Path) -> None:
    async with cloudlet(tmp_path, settings(simulated={"memory_mb": 600}), hosts=2) as cloud:
        [server_id] = await cloud.create()
        assert (await cloud.settled(server_id, 2.0))["vm_state"] == "error"
        assert "blocked" not in (await cloud.last_action(server_id))["details"]


@pytest.mark.parametrize("state", ["waiting", "blocked"])
async def test_what_waits_is_deleted_at_once(tmp_path: Path, state: str) -> None:
    chosen = settings(compute={"max_builds": 1, "vif_plugging_timeout": 60.0}, simulated={"memory_mb": 700, "start": 5.0})
    async with cloudlet(tmp_path, chosen, hosts=1) as cloud:
        if state == "blocked":
            await cloud.store.write(_fill, cloud)
        _, second = await cloud.create(count=2)
        await cloud.until(state_of(cloud, second, state))
        await cloud.compute.act(USER, second, "delete")
        assert (await cloud.settled(second, 2.0))["vm_state"] == "deleted"


async def test_who_waits_too_long_is_told_what_held_it_up(tmp_path: Path) -> None:
    chosen = settings(compute={"max_builds": 1, "queue_limit": 0.4}, simulated={"start": 5.0})
    async with cloudlet(tmp_path, chosen, hosts=1) as cloud:
        ids = await cloud.create(count=3)
        server = await cloud.settled(ids[2], 5.0)
        assert server["vm_state"] == "error"
        assert server["fault"]["message"].startswith("queued failed: it had no turn within 0.4 s:")
        assert "1 of 1 were being built" in server["fault"]["message"]


async def test_a_create_is_given_its_whole_time_from_its_turn_on(tmp_path: Path) -> None:
    async with cloudlet(tmp_path, settings(compute={"max_builds": 1}, simulated={"start": 0.3}), hosts=1) as cloud:
        ids = await cloud.create(count=3)
        for server_id in ids:
            await cloud.settled(server_id)
        action = await cloud.last_action(ids[2])
        assert action["deadline"] - action["stamps"]["queued"] == pytest.approx(cloud.compute.create_limit, abs=0.2)


async def test_full_hosts_turn_away_and_another_one_takes_it(tmp_path: Path) -> None:
    """A worker whose picture is old sends to a host that others filled: the create waits again and goes elsewhere."""
    chosen = settings(compute={"max_concurrent_builds": 1}, simulated={"start": 0.2})
    async with cloudlet(tmp_path, chosen, hosts=2) as cloud:
        await cloud.worker._scheduler.look()
        await cloud.store.write(_count, "host-0", building=1)
        ids = await cloud.create(count=2)
        await asyncio.sleep(0.3)
        await cloud.store.write(_count, "host-0", building=0)
        assert [(await cloud.settled(server_id))["vm_state"] for server_id in ids] == ["active"] * 2


async def test_a_worker_that_is_killed_leaves_its_work_to_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "ALIVE", 0.8)
    monkeypatch.setattr(leases, "BEAT", 0.1)
    monkeypatch.setattr(admission, "ALIVE", 0.8)
    monkeypatch.setattr(admission, "LOOK", 0.2)
    async with cloudlet(tmp_path, hosts=2) as cloud:
        begun, stuck = asyncio.Event(), asyncio.Event()
        allocate = cloud.compute.network.allocate

        async def hang(*arguments: Any, **named: Any) -> Any:
            if not begun.is_set():
                begun.set()
                await stuck.wait()
            return await allocate(*arguments, **named)

        monkeypatch.setattr(cloud.compute.network, "allocate", hang)
        [server_id] = await cloud.create()
        await begun.wait()
        await cloud.worker._end()  # its row stays, as after kill -9
        [other] = await more_workers(cloud, 1)
        assert (await cloud.settled(server_id, 8.0))["vm_state"] == "active"
        assert (await cloud.store.read(servers.get, SYSTEM, server_id))["lease_owner"] == ""
        await cloud.compute.act(USER, server_id, "delete")
        await cloud.nothing_left()
        await other.close()


async def test_a_worker_that_slept_for_a_minute_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle of a claim, back when another one has built the server: claim and ports are the other's."""
    async with cloudlet(tmp_path, hosts=2) as cloud:
        asleep, awake = asyncio.Event(), asyncio.Event()
        claim = cloud.placement.claim

        async def sleep(*arguments: Any, **named: Any) -> Any:
            if not asleep.is_set():
                asleep.set()
                await awake.wait()
            return await claim(*arguments, **named)

        monkeypatch.setattr(admission, "LOOK", 0.2)
        monkeypatch.setattr(cloud.placement, "claim", sleep)
        [server_id] = await cloud.create()
        await asleep.wait()
        sleeper = cloud.worker
        [other] = await more_workers(cloud, 1)
        for loop in sleeper._loops:
            loop.cancel()
        await cloud.store.write(leases.leave, sleeper.id)  # others gave it up
        sleeper._beaten_at = 0.0
        server = await cloud.settled(server_id, 10.0)
        assert server["vm_state"] == "active"
        awake.set()
        await cloud.until(lambda: not sleeper._running)
        after = await cloud.server(server_id)
        assert (after["host"], after["generation"], after["vm_state"]) == (server["host"], server["generation"], "active")
        used = {p.name: p.used.get("VCPU", 0) for p in await cloud.placement.pictures()}
        assert used == {name: int(name == server["host"]) for name in cloud.names}
        await cloud.compute.act(USER, server_id, "delete")
        await cloud.nothing_left()
        await other.close()


async def test_what_gone_servers_hold_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with cloudlet(tmp_path, hosts=1) as cloud:
        [server_id] = await cloud.create()
        await cloud.settled(server_id)
        await cloud.compute.act(USER, server_id, "delete")
        await cloud.settled(server_id)
        [picture] = await cloud.placement.pictures()
        mine = {"project_id": USER.project, "user_id": "user"}
        assert await cloud.placement.claim(server_id, picture.id, {"VCPU": 1}, **mine)
        assert await cloud.placement.claim("somebody-elses", picture.id, {"VCPU": 1}, **mine)
        monkeypatch.setattr(leaks, "PAGE", 1)
        assert await Leaks(cloud.compute).round() == 1
        assert await cloud.placement.consumers() == {"somebody-elses"}


async def test_a_restart_forgets_no_place_in_the_queue(tmp_path: Path) -> None:
    async with cloudlet(tmp_path, settings(compute={"max_builds": 2}, simulated={"start": 0.05}), hosts=1) as cloud:
        ids = await cloud.create(count=10)
        await asyncio.sleep(0.1)
        await cloud.stop_control()
        before = await cloud.store.read(truth)
        await cloud.start_control()
        assert before[1]["host-0"][0] == before[1]["host-0"][1]
        assert [(await cloud.settled(server_id))["vm_state"] for server_id in ids] == ["active"] * 10


def _fill(tx: Tx, cloud: Cloudlet) -> None:
    """No memory is left, though there would be some."""
    from pileus.placement.tables import inventories

    tx.execute(update(inventories).where(inventories.c.resource_class == "MEMORY_MB").values(used=inventories.c.capacity))


def _count(tx: Tx, /, host: str, **values: Any) -> None:
    tx.execute(update(hosts_table).where(hosts_table.c.name == host).values(**values))
