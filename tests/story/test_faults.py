"""The faults of that design (docs/STORY.md): `profile = story` has them, the default has not, and one setting makes the difference."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pileus.cli.bars import read, verdict
from pileus.host.agent import Agent
from pileus.messages import LEVELS, PortsChanged
from pileus.operator_api import _action
from tests.boot.cloudlet import USER, Cloudlet
from tests.story.stage import EYES, Rest, Wire, all_active, own, state_after, steps, took
from tests.story.test_rows import Acts, port_of, stage

__all__ = ["stage"]


# 1: the wait holds the slot: slow network → starved builds


@pytest.mark.parametrize(
    ("profile", "changes", "starves"),
    [("story", {}, True), ("story", {"compute.hold_build_slot": False}, False), ("default", {}, False)],
    ids=["story", "story, slot given back", "default"],
)
def test_1_builds_that_wait_for_the_network_starve_others(stage: Acts, profile: str, changes: dict[str, Any], starves: bool) -> None:
    """The word for the first two, as many as the host builds at once, never comes."""

    async def work(cloud: Cloudlet) -> str:
        wire = Wire(cloud)
        wire.lose = lambda subject: subject.endswith(".events")
        await cloud.create(count=2)
        await asyncio.sleep(4)
        wire.lose = lambda subject: False
        [third] = await cloud.create()
        state = await state_after(cloud, third, 200)
        if starves:  # only when the others are given up is there a place
            assert await state_after(cloud, third, 120) == "active"
        return state

    found = stage.play(profile, work, {"compute.max_concurrent_builds": 2, **changes})
    assert found == ("building" if starves else "active")


# 2: at most once over three transports, and nobody reads the port again before killing the guest


@pytest.mark.parametrize(
    ("profile", "changes", "ends"),
    [("story", {}, "error"), ("story", {"compute.vif_plugging_reread": True}, "active"), ("default", {}, "active")],
    ids=["story", "story, read again", "default"],
)
def test_2_one_lost_word_kills_a_guest_whose_port_is_active(stage: Acts, profile: str, changes: dict[str, Any], ends: str) -> None:
    async def work(cloud: Cloudlet) -> str:
        cloud.events.swallow = 1  # behind the API, where "200" means only "sent"
        [server_id] = await cloud.create()
        await asyncio.sleep(290)
        assert (await port_of(cloud, server_id))["status"] == "ACTIVE"
        return await state_after(cloud, server_id, 20)

    assert stage.play(profile, work, changes) == ends


@pytest.mark.parametrize(
    ("profile", "changes", "ends"),
    [("story", {}, "error"), ("story", {"network.notify": "until_delivered"}, "active"), ("default", {}, "active")],
    ids=["story", "story, until delivered", "default"],
)
def test_2_a_compute_api_that_is_away_for_ten_seconds(stage: Acts, profile: str, changes: dict[str, Any], ends: str) -> None:
    async def work(cloud: Cloudlet) -> str:
        cloud.events.refuse = 1000
        [server_id] = await cloud.create()
        await asyncio.sleep(10)
        cloud.events.refuse = 0
        return await state_after(cloud, server_id, 300)

    assert stage.play(profile, work, changes) == ends


# 3: one serial loop: every port behind the slowest, creates behind deletes


@pytest.mark.parametrize(
    ("profile", "changes", "waits"),
    [("story", {}, True), ("story", {"network.agent_loop": "lanes"}, False), ("default", {}, False)],
    ids=["story", "story, lanes", "default"],
)
def test_3_a_port_waits_for_all_that_came_before_it(stage: Acts, profile: str, changes: dict[str, Any], waits: bool) -> None:
    """Eight ports of 3 s each come at once: in lanes they are wired beside one another, in the loop one after the other."""

    async def work(cloud: Cloudlet) -> list[float]:
        ids = await cloud.create(count=8)
        await all_active(cloud, ids, 200)
        return sorted([(await steps(cloud, server_id))["wired"] for server_id in ids])

    found = stage.play(profile, work, {"simulated.wire": 3.0, **changes})
    assert (found[-1] > 20) is waits
    assert (found[-1] < 4) is not waits


@pytest.mark.parametrize(
    ("profile", "changes", "waits"),
    [("story", {}, True), ("story", {"network.flow_deletion": "deferred"}, False), ("default", {}, False)],
    ids=["story", "story, deferred", "default"],
)
def test_3_creates_wait_for_deletes(stage: Acts, profile: str, changes: dict[str, Any], waits: bool) -> None:
    """A stream of deletes, 2 s of flow deletion each, and a create in the middle of it."""
    costs = {"simulated.flows_per_port": 40, "simulated.delete_flow": 0.05, "compute.max_concurrent_builds": 0}

    async def work(cloud: Cloudlet) -> float:
        ids = await cloud.create(count=24)
        await all_active(cloud, ids, 200)
        for server_id in ids:
            await cloud.compute.act(USER, server_id, "delete")
        await asyncio.sleep(3)
        [created] = await cloud.create()
        await all_active(cloud, [created], 200)
        return (await steps(cloud, created))["wired"]

    found = stage.play(profile, work, costs | changes)
    assert (found > 30) is waits
    assert (found < 4) is not waits


# 4: work of one boot that grows with the cloud


async def told_of_a_boot(cloud: Cloudlet) -> list[str]:
    """Subjects of the messages about one boot."""
    wire = Wire(cloud)
    [server_id] = await cloud.create()
    await all_active(cloud, [server_id], 60)
    await asyncio.sleep(1)
    host, port = (await cloud.server(server_id))["host"], await port_of(cloud, server_id)
    about = wire.about(server_id, port["id"], port["mac"], (await cloud.last_action(server_id))["id"])
    # A host's question about its ports' groups names them all now and then, whatever is booted.
    told = [subject for subject in about if not subject.endswith((".progress", ".get_security"))]
    return sorted("agents.ports" if subject.endswith(".ports") else subject.replace(f".{host}.", ".host.") for subject in told)


@pytest.mark.parametrize(
    ("profile", "changes", "grows"),
    [("story", {}, True), ("story", {"network.notify_agents": "concerned"}, False), ("default", {}, False)],
    ids=["story", "story, concerned", "default"],
)
def test_4_every_agent_hears_of_every_boot(
    stage: Acts, monkeypatch: pytest.MonkeyPatch, profile: str, changes: dict[str, Any], grows: bool
) -> None:
    """Three times the hosts: three times the words of each port, and every agent looks at each; or the same few messages."""
    looked: set[str] = set()
    look = Agent.update

    async def seen(agent: Agent, message: PortsChanged) -> None:
        looked.add(agent._host)
        await look(agent, message)

    monkeypatch.setattr(Agent, "update", seen)

    def told(hosts: int) -> list[str]:
        looked.clear()
        return stage.play(profile, told_of_a_boot, {"compute.heal_instance_info_cache_interval": 0.0, **changes}, hosts=hosts)  # type: ignore[no-any-return]

    few, looked_by_few = told(4), len(looked)
    many, looked_by_many = told(12), len(looked)
    fanned = [sum(subject.endswith(".ports") for subject in each) for each in (few, many)]
    assert (fanned, looked_by_few, looked_by_many) == (([4, 12], 4, 12) if grows else ([0, 0], 0, 0))
    rest = [[subject for subject in each if not subject.endswith(".ports")] for each in (few, many)]
    assert rest[0] == rest[1] and len(rest[0]) <= 8


@pytest.mark.parametrize("profile", ["story", "default"])
def test_4_a_boot_is_the_same_messages_among_more_servers(stage: Acts, profile: str) -> None:
    """Who shares a network or group is told in gathered deltas, in either profile: no list of all ports is written anew."""

    async def work(cloud: Cloudlet) -> list[list[str]]:
        found = []
        for others in (8, 40):
            await all_active(cloud, await cloud.create(count=others), 400)
            await asyncio.sleep(30)  # until all hosts have been told who shares the network
            found.append(await told_of_a_boot(cloud))
        return found

    few, many = stage.play(profile, work, {"compute.heal_instance_info_cache_interval": 0.0}, hosts=8)
    assert many == few


# 5: polling and batching in series: seconds spent idle


def test_5_seconds_are_spent_on_constants(stage: Acts) -> None:
    """In a cloud where no work takes any time at all, and one server is made after the other."""

    async def work(cloud: Cloudlet) -> float:
        found = []
        for _ in range(10):
            [server_id] = await cloud.create()
            await all_active(cloud, [server_id], 60)
            found.append(await took(cloud, server_id))
            await asyncio.sleep(0.37)
        return sum(found) / len(found)

    unpolled, ungathered = {"network.agent_loop": "lanes"}, {"network.send_events_interval": 0.0}
    for left in ({}, unpolled, ungathered):
        assert stage.play("story", work, left) > 0.5, left
    assert stage.play("story", work, unpolled | ungathered) < 0.01
    assert stage.play("default", work) < 0.01


# 6: a boot tells nobody where it waits


@pytest.mark.parametrize(
    ("profile", "changes", "lost", "words"),
    [
        ("story", {}, LEVELS, None),
        ("story", {}, "events", None),
        ("story", EYES, LEVELS, "its network on host host-0: all else is done, `signalled` is not"),
        ("story", EYES, "events", "its network on host host-0: all else is done, `signalled` is not"),
        ("default", {}, "", "its network on host host-0: all else is done, `wired` is not"),
    ],
    ids=["story, no report", "story, no event", "story, explained, no report", "story, explained, no event", "default"],
)
def test_6_where_a_boot_waits(stage: Acts, profile: str, changes: dict[str, Any], lost: str, words: str | None) -> None:
    """What `pileus why` is told, and the events of os-instance-actions."""

    async def work(cloud: Cloudlet) -> None:
        wire = Wire(cloud)
        wire.lose = lambda subject: lost in subject.split(".")
        [server_id] = await cloud.create()
        await asyncio.sleep(10)
        row = await cloud.last_action(server_id)
        told = _action(row, await cloud.server(server_id), cloud.settings, 0)
        done = {span["step"] for span in told["spans"]}
        assert "resumed" not in row["stamps"]
        if words is None:
            assert told["explained"] is False
            assert (told["waiting"], done, told["stamps"], told["details"], told["critical"]) == (None, set(), {}, {}, [])
            assert not {"plugged", "paused", "wired"} & set(row["stamps"])  # nor is it written down
            assert "nobody knows" in verdict(read(told))
        else:
            assert words in told["waiting"]
            assert {"accepted", "claimed", "addressed", "sent", "plugged", "paused"} <= done
            assert words in verdict(read(told))

    slow = {} if lost else {"simulated.wire": 60.0}
    stage.play(profile, work, {**own(profile, "compute.explain"), **slow, **changes})


@pytest.mark.parametrize(("profile", "changes", "told"), [("story", {}, False), ("story", EYES, True), ("default", {}, True)])
def test_6_and_afterwards_what_it_waited_for(stage: Acts, profile: str, changes: dict[str, Any], told: bool) -> None:
    async def work(cloud: Cloudlet) -> None:
        [server_id] = await cloud.create()
        await all_active(cloud, [server_id], 60)
        row = await cloud.last_action(server_id)
        shown = _action(row, await cloud.server(server_id), cloud.settings, 0)
        assert ("wired" in {span["step"] for span in shown["spans"]}) is told
        assert ("wired" in row["stamps"]) is told

    stage.play(profile, work, {**own(profile, "compute.explain"), **changes})


def test_6_a_timeout_has_a_cause_in_the_story_too(stage: Acts) -> None:
    async def work(cloud: Cloudlet) -> None:
        rest = Rest(cloud)
        cloud.events.swallow = 1
        [server_id] = await cloud.create()
        await asyncio.sleep(310)
        assert rest.names[0] == "network-vif-plugged"
        action = await cloud.last_action(server_id)
        failure = action["details"]["failure"]
        assert (failure["step"], failure["host"]) == ("signalled", "host-0")
        assert "no network-vif-plugged arrived within 300 s" in failure["cause"]

    stage.play("story", work, own("story", "compute.explain"))
