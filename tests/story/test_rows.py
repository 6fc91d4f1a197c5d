"""Each row of the story's table (docs/STORY.md), with `profile = story` and by default: in virtual time, where only waiting takes any."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from pileus.clients.compute import ExternalEvent
from pileus.clients.network import RequestedNic
from pileus.compute.creation import NewServer
from pileus.compute.external_events import Event, deliver
from pileus.compute.info_cache import TOLD_BY
from pileus.messages import DETAILS, LEVELS
from pileus.network.tables import ports
from pileus.operator_api import _waiting
from pileus.store.sql import rows
from tests.boot.cloudlet import FLAVOR, USER, Cloudlet
from tests.story.stage import PROFILES, Rest, Wire, all_active, chosen, play, state_after, steps, took

both = pytest.mark.parametrize("profile", PROFILES)


class Acts:
    """`play` with what a test needs of pytest."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.monkeypatch = monkeypatch
        self.folder = folder

    def play(self, profile: str, work: Any, changes: dict[str, Any] | None = None, hosts: int = 1) -> Any:
        return play(self.monkeypatch, self.folder, chosen(profile, changes), work, hosts)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Acts:
    return Acts(monkeypatch, tmp_path)


async def port_of(cloud: Cloudlet, server_id: str) -> dict[str, Any]:
    found = await cloud.store.read(lambda tx: rows(tx, select(ports).where(ports.c.device_id == server_id)))
    return dict(found[0])


# 1: host selection, then build on that host


@both
def test_1_a_host_is_chosen_then_built_on(stage: Acts, profile: str) -> None:
    async def work(cloud: Cloudlet) -> None:
        ids = await cloud.create(count=12)
        await all_active(cloud, ids, 60)
        for server_id in ids:
            stamps = (await cloud.last_action(server_id))["stamps"]
            assert stamps["claimed"] <= stamps["addressed"] <= stamps["sent"] <= stamps["plugged"] <= stamps["resumed"]
            host = (await cloud.server(server_id))["host"]
            assert [name for name in cloud.names if server_id in cloud.guests[name].guests] == [host]
        assert len({(await cloud.server(server_id))["host"] for server_id in ids}) > 1

    stage.play(profile, work, hosts=3)


@both
def test_1_whoever_needs_a_busy_host_waits_for_it(stage: Acts, profile: str) -> None:
    """Builds end; only what fits nowhere fails at once in the story."""

    async def work(cloud: Cloudlet) -> None:
        made = []
        for name in ("one", "two"):
            wanted = NewServer(name=name, flavor=FLAVOR, nics=[], forced_host="host-0")
            made += await cloud.compute.create(USER, wanted, [RequestedNic(network_id=cloud.net)], count=1)
        one, two = (row["id"] for row in made)
        await asyncio.sleep(2)
        action = await cloud.last_action(two)
        assert action["state"] == "blocked"
        assert "1 building 1 servers already" in str(_waiting(action, "", 0))
        await all_active(cloud, [one, two], 120)
        assert {(await cloud.server(each))["host"] for each in (one, two)} == {"host-0"}

    stage.play(profile, work, {"compute.max_concurrent_builds": 1, "simulated.start": 10.0}, hosts=2)


@both
def test_1_what_fits_nowhere(stage: Acts, profile: str) -> None:
    async def work(cloud: Cloudlet) -> str:
        [first] = await cloud.create()
        await all_active(cloud, [first], 60)
        [second] = await cloud.create()
        state = await state_after(cloud, second, 30)
        if state == "building":
            await cloud.compute.act(USER, first, "delete")
            await all_active(cloud, [second], 60)
        return state

    assert stage.play(profile, work, {"simulated.memory_mb": 700}) == ("error" if profile == "story" else "building")


# 2: QEMU process started, TAP created, guest left paused


@both
def test_2_the_guest_is_paused_until_its_network_is_there(stage: Acts, profile: str) -> None:
    """The network comes after 20 s; where the word goes over the network server, that is what is late."""
    slow = {} if profile == "story" else {"simulated.wire": 20.0}

    async def work(cloud: Cloudlet) -> None:
        wire = Wire(cloud)
        wire.lose = lambda subject: profile == "story" and subject.endswith(".events")
        [server_id] = await cloud.create()
        await asyncio.sleep(15)
        guest = cloud.guests["host-0"].guests[server_id]
        port = await port_of(cloud, server_id)
        assert guest.power == "paused" and not guest.booted
        assert f"tap{port['id']}"[:14] in cloud.ports["host-0"].taps
        assert (await cloud.server(server_id))["task_state"] == "spawning"
        assert "paused" in (await cloud.last_action(server_id))["stamps"]  # done, and known
        if profile == "story":
            wire.lose = lambda subject: False
            await asyncio.sleep(5)
            await deliver(cloud.store, cloud.bus, [Event("network-vif-plugged", server_id, "completed", port["id"])])
        await all_active(cloud, [server_id], 10)
        assert (guest.power, guest.booted) == ("running", True)
        assert 20 <= await took(cloud, server_id) < 21

    stage.play(profile, work, slow)


# 3: the agent builds the network and reports by RPC; 4: REST to the compute API; 5: RPC to the host


def test_3_4_5_the_story_s_word_goes_agent_server_api_host(stage: Acts) -> None:
    async def work(cloud: Cloudlet) -> None:
        wire, rest = Wire(cloud), Rest(cloud)
        [server_id] = await cloud.create()
        await all_active(cloud, [server_id], 10)
        assert wire.order("desired", DETAILS, LEVELS, "events", "observed") == ["desired", DETAILS, LEVELS, "events", "observed"]
        port = await port_of(cloud, server_id)
        assert rest.batches == [[ExternalEvent("network-vif-plugged", server_id, "completed", port["id"])]]
        assert port["status"] == "ACTIVE"

    stage.play("story", work)


def test_3_4_5_by_default_the_agent_tells_the_host_itself_and_the_server_too(stage: Acts) -> None:
    async def work(cloud: Cloudlet) -> None:
        wire, rest = Wire(cloud), Rest(cloud)
        wire.lose = lambda subject: LEVELS in subject  # what the network server hears is in nobody's way
        [server_id] = await cloud.create()
        await all_active(cloud, [server_id], 10)
        assert LEVELS in wire.order(DETAILS, LEVELS, "events") and "events" not in wire.order("events")
        assert rest.names == []
        assert (await port_of(cloud, server_id))["status"] != "ACTIVE"
        wire.lose = lambda subject: False
        await asyncio.sleep(120)  # the agent reports until it is answered
        assert (await port_of(cloud, server_id))["status"] == "ACTIVE"

    stage.play("default", work)


def test_4_events_go_in_batches(stage: Acts) -> None:
    """The first at once, the others gathered for send_events_interval."""

    async def work(cloud: Cloudlet) -> None:
        rest = Rest(cloud)
        await all_active(cloud, await cloud.create(count=8), 60)
        assert len(rest.names) == 8
        assert len(rest.batches) < 8
        assert all(later - earlier >= 2.0 for earlier, later in pairwise(rest.times))

    stage.play("story", work, {"compute.max_concurrent_builds": 0}, hosts=4)


# 6: the events


@both
@pytest.mark.parametrize(("status", "ends"), [("completed", "active"), ("failed", "error")])
def test_6_network_vif_plugged_and_failed(stage: Acts, profile: str, status: str, ends: str) -> None:
    """An event of the network service's ends the story's wait; by default it is the port's own level that does."""

    async def work(cloud: Cloudlet) -> None:
        wire = Wire(cloud)
        wire.lose = lambda subject: LEVELS in subject
        [server_id] = await cloud.create()
        if profile == "story":
            await asyncio.sleep(4)
            assert (await cloud.server(server_id))["vm_state"] == "building"
            event = Event("network-vif-plugged", server_id, status, (await port_of(cloud, server_id))["id"])
            await deliver(cloud.store, cloud.bus, [event])
        assert await state_after(cloud, server_id, 30) == ends

    fails = {"simulated.fail_wire": 1.0} if profile == "default" and status == "failed" else {}
    stage.play(profile, work, {"compute.vif_plugging_timeout": 60.0, **fails})


@both
@pytest.mark.parametrize("name", ["network-vif-unplugged", "network-vif-deleted", "network-changed"])
def test_6_the_other_events_are_taken_and_resume_nobody(stage: Acts, profile: str, name: str) -> None:
    """They come while a guest waits for its network, which is there after 20 s. Those that say that addresses are others make compute
    read them anew; the others go to the host."""

    async def work(cloud: Cloudlet) -> None:
        wire = Wire(cloud)
        wire.lose = lambda subject: profile == "story" and LEVELS in subject
        [server_id] = await cloud.create()
        await asyncio.sleep(3)
        port, reads = await port_of(cloud, server_id), Reads(cloud)
        wire.said.clear()
        outcomes = await deliver(cloud.store, cloud.bus, [Event(name, server_id, "completed", port["id"])])
        assert [outcome.code for outcome in outcomes] == [200]
        assert (await reads.during(10))[server_id] == (name in TOLD_BY)
        assert ("events" in wire.order("events")) is (name not in TOLD_BY)
        assert (await cloud.server(server_id))["vm_state"] == "building"
        assert cloud.guests["host-0"].guests[server_id].power == "paused"
        if profile == "story":
            await asyncio.sleep(6)
            await deliver(cloud.store, cloud.bus, [Event("network-vif-plugged", server_id, "completed", port["id"])])
        await all_active(cloud, [server_id], 20)
        assert 18 < await took(cloud, server_id) < 21

    slow = {} if profile == "story" else {"simulated.wire": 20.0}
    stage.play(profile, work, {"compute.heal_instance_info_cache_interval": 0.0, **slow})


@both
def test_6_one_bad_event_does_not_stop_the_good_one(stage: Acts, profile: str) -> None:
    async def work(cloud: Cloudlet) -> list[int]:
        [server_id] = await cloud.create()
        await all_active(cloud, [server_id], 30)
        tag = (await port_of(cloud, server_id))["id"]
        events = [Event("network-changed", "nobody", "completed", tag), Event("network-vif-plugged", server_id, "completed", tag)]
        return [outcome.code for outcome in await deliver(cloud.store, cloud.bus, events)]

    assert stage.play(profile, work) == [404, 200]


# 7: the timeout that users see


def test_7_past_the_timeout_the_guest_is_destroyed_and_the_server_in_error(stage: Acts) -> None:
    async def work(cloud: Cloudlet) -> None:
        Wire(cloud).lose = lambda subject: subject.endswith(".events")
        [server_id] = await cloud.create()
        assert await state_after(cloud, server_id, 295) == "building"
        assert await state_after(cloud, server_id, 10) == "error"
        action = await cloud.last_action(server_id)
        assert "signalled" in action["message"] and "within 300 s" in action["message"]
        assert action["attempt"] == 1  # not tried elsewhere, though there is another host
        assert not any(cloud.guests[name].guests or cloud.ports[name].ports for name in cloud.names)

    stage.play("story", work, hosts=2)


def test_7_unless_it_is_not_fatal(stage: Acts) -> None:
    async def work(cloud: Cloudlet) -> None:
        Wire(cloud).lose = lambda subject: subject.endswith(".events")
        [server_id] = await cloud.create()
        assert await state_after(cloud, server_id, 305) == "active"

    stage.play("story", work, {"compute.vif_plugging_is_fatal": False})


def test_7_by_default_a_lost_word_is_nobody_s_timeout(stage: Acts) -> None:
    async def work(cloud: Cloudlet) -> None:
        Wire(cloud).lose = lambda subject: subject.endswith(".events") or LEVELS in subject
        [server_id] = await cloud.create()
        await all_active(cloud, [server_id], 1)

    stage.play("default", work)


def test_7_by_default_a_network_that_never_comes_has_the_same_limit_and_another_host(stage: Acts) -> None:
    async def work(cloud: Cloudlet) -> None:
        [server_id] = await cloud.create()
        await asyncio.sleep(650)
        server, action = await cloud.server(server_id), await cloud.last_action(server_id)
        assert server["vm_state"] == "error"
        assert (action["attempt"], len(action["tried"])) == (2, 1)
        assert "wired" in server["fault"]["message"]

    stage.play("default", work, {"simulated.wire": 1000.0}, hosts=2)


# 8: the network info cache and its healing

SERVERS, HOSTS = 12, 3


class Reads:
    """Servers whose addresses compute reads from the network service, from now on."""

    def __init__(self, cloud: Cloudlet) -> None:
        self.servers: list[str] = []
        self._read = cloud.compute.network.addresses
        cloud.compute.network.addresses = self._noted  # type: ignore[method-assign]

    async def _noted(self, server_ids: Sequence[str]) -> Any:
        self.servers += server_ids
        return await self._read(server_ids)

    async def during(self, seconds: float) -> Counter[str]:
        """How often each was read in that time."""
        self.servers.clear()
        await asyncio.sleep(seconds)
        return Counter(self.servers)


@pytest.mark.parametrize(
    ("profile", "changes", "per_server", "in_all"),
    [
        ("story", {}, (9, 11), (110, 130)),
        ("story", {"compute.heal_instance_info_cache_interval": 600.0}, (0, 2), (11, 13)),
        ("story", {"compute.heal_scope": "one"}, (0, 10), (27, 33)),
        ("story", {"compute.heal_instance_info_cache_interval": 0.0}, (0, 0), (0, 0)),
        ("default", {}, (0, 2), (2, 4)),
        ("default", {"compute.heal_scope": "all"}, (0, 2), (11, 13)),
    ],
    ids=["story, 60 s", "story, 600 s", "as Nova's code", "off", "default", "default, all"],
)
def test_8_healing_of_600_s(
    stage: Acts, profile: str, changes: dict[str, Any], per_server: tuple[int, int], in_all: tuple[int, int]
) -> None:
    async def work(cloud: Cloudlet) -> None:
        ids = await cloud.create(count=SERVERS)
        await all_active(cloud, ids, 120)
        reads = Reads(cloud)
        await asyncio.sleep(cloud.settings.compute.heal_instance_info_cache_interval * 1.1)
        found = await reads.during(600)
        assert in_all[0] <= found.total() <= in_all[1], found
        assert per_server[0] <= min(found[each] for each in ids) <= max(found[each] for each in ids) <= per_server[1], found

    stage.play(profile, work, changes, hosts=HOSTS)


@pytest.mark.parametrize(
    ("profile", "changes", "at_once"),
    [("story", {}, True), ("story", {"compute.heal_resume": True}, False), ("default", {}, False)],
    ids=["story", "story, resumed", "default"],
)
def test_8_a_restart_of_the_compute_service_begins_healing_anew(stage: Acts, profile: str, changes: dict[str, Any], at_once: bool) -> None:
    async def work(cloud: Cloudlet) -> None:
        ids = await cloud.create(count=SERVERS)
        await all_active(cloud, ids, 120)
        await asyncio.sleep(700)
        host = str((await cloud.server(ids[0]))["host"])
        mine = [each for each in ids if (await cloud.server(each))["host"] == host]
        reads = Reads(cloud)
        await cloud.stop_host(host)
        await cloud.start_host(host)
        found = await reads.during(20)
        assert all(found[each] for each in mine) is at_once

    stage.play(profile, work, {"compute.heal_instance_info_cache_interval": 600.0, "compute.heal_scope": "all", **changes}, hosts=HOSTS)


@both
def test_8_addresses_are_served_from_the_cache_and_follow_what_changes(stage: Acts, profile: str) -> None:
    async def work(cloud: Cloudlet) -> None:
        [server_id] = await cloud.create()
        await all_active(cloud, [server_id], 60)
        port = await port_of(cloud, server_id)
        await asyncio.sleep(20)
        kept = (await cloud.server(server_id))["addresses"]
        assert [each["mac"] for each in kept] == [port["mac"]]
        await deliver(cloud.store, cloud.bus, [Event("network-changed", server_id, "completed", port["id"])])
        reads = Reads(cloud)
        assert (await reads.during(10))[server_id] == 1

    stage.play(profile, work, {"compute.heal_instance_info_cache_interval": 0.0})


# 11: deletion of flows

DELETION = {"simulated.flows_per_port": 40, "simulated.delete_flow": 0.05, "simulated.delete_flow_bundled": 0.0005}


@pytest.mark.parametrize(
    ("profile", "deletion", "least", "most"),
    [
        ("story", "blocking", 15.0, 21.0),
        ("story", "bundled", 0.0, 4.0),
        ("story", "deferred", 0.0, 4.0),
        ("default", "blocking", 15.0, 20.0),
        ("default", "bundled", 0.0, 0.5),
        ("default", "deferred", 0.0, 0.01),
    ],
)
def test_11_flow_deletion(stage: Acts, profile: str, deletion: str, least: float, most: float) -> None:
    """Ten servers go, 400 flows of 50 ms: one call a flow keeps the agent from a create for what is left of 20 s; a bundle, and another
    lane, do not. In the story's loop turn and batch come on top."""

    async def work(cloud: Cloudlet) -> float:
        ids = await cloud.create(count=10)
        await all_active(cloud, ids, 120)
        for server_id in ids:
            await cloud.compute.act(USER, server_id, "delete")
        await asyncio.sleep(4.5)  # the removals have begun
        [created] = await cloud.create()
        await all_active(cloud, [created], 120)
        return (await steps(cloud, created))["wired"]

    wired = stage.play(profile, work, {**DELETION, "network.flow_deletion": deletion})
    assert least <= wired <= most, wired


@pytest.mark.parametrize(("deletion", "least", "most"), [("bundled", 10.0, 21.0), ("deferred", 0.0, 0.01)])
def test_11_a_lane_of_its_own_keeps_nobody_waiting_however_long_it_takes(stage: Acts, deletion: str, least: float, most: float) -> None:
    """A bundle that takes 20 s: in the agent's own time a create waits for it, beside it not."""

    async def work(cloud: Cloudlet) -> float:
        ids = await cloud.create(count=10)
        await all_active(cloud, ids, 120)
        for server_id in ids:
            await cloud.compute.act(USER, server_id, "delete")
        await asyncio.sleep(4.5)
        [created] = await cloud.create()
        await all_active(cloud, [created], 120)
        return (await steps(cloud, created))["wired"]

    costs = DELETION | {"simulated.delete_flow_bundled": 0.05, "network.flow_deletion": deletion}
    wired = stage.play("default", work, costs)
    assert least <= wired <= most, wired
