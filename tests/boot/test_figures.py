"""What workers count of actions: each turn, end and failure once, and nothing where nobody can read it."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from pileus import metrics
from pileus.compute import worker
from pileus.host.switch.simulated import SimulatedSwitch
from tests.boot.cloudlet import USER, cloudlet, settings

assert metrics.COMPUTE_FAILED  # so that the registry has them


def figure(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"pileus_compute_{name}", labels) or 0.0


def counted() -> dict[str, float]:
    return {
        "turns": figure("queue_seconds_count"),
        "created": figure("service_seconds_count", action="create"),
        "deleted": figure("service_seconds_count", action="delete"),
        "failed": figure("failed_total", action="create", step="wired"),
    }


async def test_turns_ends_and_failures_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "COUNTED", 0.0)
    before = counted()
    async with cloudlet(tmp_path, settings(metrics={"listen": "127.0.0.1:0"})) as cloud:
        ids = await cloud.create(count=3)
        for server_id in ids:
            assert (await cloud.settled(server_id))["vm_state"] == "active"
        await cloud.compute.act(USER, ids[0], "delete")
        await cloud.settled(ids[0])
        for switch in (host.parts.switch for host in cloud.hosts.values()):
            assert isinstance(switch, SimulatedSwitch)
            switch.fail_next("wire", "flow table is full")
        [bad] = await cloud.create()
        assert (await cloud.settled(bad))["vm_state"] == "error"
        await cloud.until(lambda: figure("creates", state="running") == 0.0)
    after = counted()
    assert {name: after[name] - before[name] for name in after} == {"turns": 5, "created": 3, "deleted": 1, "failed": 2}


async def test_nothing_is_counted_where_nobody_reads_it(tmp_path: Path) -> None:
    before = counted()
    async with cloudlet(tmp_path, settings()) as cloud:
        [server_id] = await cloud.create()
        await cloud.settled(server_id)
    assert counted() == before
