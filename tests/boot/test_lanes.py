"""Deletes never delay creates, and are not starved by them (law 3): on a virtual clock, where only waiting takes time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pileus import timeline
from tests.boot.cloudlet import USER, Cloudlet, settings
from tests.boot.virtual import run

HOSTS = 4
DELETES = 500
CREATES = 24
SLOW = {"start": 0.05, "plug": 0.005, "wire": 0.01, "stop": 0.2, "unplug": 0.1}
STEPS = ("queued", "claimed", "addressed", "sent", "image", "plugged", "paused", "wired", "signalled", "resumed", "reported")


async def creates(cloud: Cloudlet) -> list[dict[str, float]]:
    """Creates, one every 100 ms: how long each of their steps took."""
    ids = []
    for _ in range(CREATES):
        ids += await cloud.create()
        await asyncio.sleep(0.1)
    for server_id in ids:
        assert (await cloud.settled(server_id, 60.0))["vm_state"] == "active"
    found = []
    for server_id in ids:
        spans = timeline.spans((await cloud.last_action(server_id))["stamps"])
        found.append({span.step: span.seconds for span in spans})
    return found


async def alone(cloud: Cloudlet) -> tuple[list[dict[str, float]], int]:
    return await creates(cloud), 0


async def beside_deletes(cloud: Cloudlet) -> tuple[list[dict[str, float]], int]:
    """The creates' steps, and how many deletes were done from the first create to the last."""
    ids = await cloud.create(count=DELETES)
    for server_id in ids:
        assert (await cloud.settled(server_id, 600.0))["vm_state"] == "active"
    for server_id in ids:
        await cloud.compute.act(USER, server_id, "delete")
    await cloud.until(lambda: _deleted(cloud, ids))  # they flow
    before = await _deleted(cloud, ids)
    found = await creates(cloud)
    done = await _deleted(cloud, ids) - before
    for server_id in ids:
        assert (await cloud.settled(server_id, 600.0))["vm_state"] == "deleted"
    return found, done


async def _deleted(cloud: Cloudlet, ids: list[str]) -> int:
    return sum([(await cloud.server(server_id))["vm_state"] == "deleted" for server_id in ids])


def test_no_step_of_a_create_is_longer_with_five_hundred_deletes_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = {"instances": -1, "cores": -1, "ram": -1, "port": -1}
    chosen = settings(simulated=SLOW, quota=many, host={"start_concurrency": 4, "delete_concurrency": 2})
    quiet, _ = run(monkeypatch, tmp_path / "alone", chosen, HOSTS, alone)
    busy, deleted = run(monkeypatch, tmp_path / "busy", chosen, HOSTS, beside_deletes)
    for step in STEPS:
        without, beside = max(each[step] for each in quiet), max(each[step] for each in busy)
        assert beside == pytest.approx(without, abs=0.001), (step, without, beside)
    assert deleted >= 20 * CREATES * 0.1  # 20 a second went on meanwhile
