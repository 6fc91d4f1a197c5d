"""Row 12 of the story's table, the end of the story: latency is stable and every server there, at a load that broke the start. In virtual
time, with the network service's database a millisecond away; on processes and real time it is `pileus lab story`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pileus.network.service import Network
from tests.boot.cloudlet import Cloudlet
from tests.boot.virtual import InlineStore
from tests.story.stage import chosen, play, took
from tests.story.test_workers import Process

RATE, SECONDS, HOSTS, TIMEOUT = 15.0, 7.0, 8, 6.0
FOUR = {
    "compute.heal_instance_info_cache_interval": 600.0,
    "network.rpc_workers": 20,
    "database.max_pool_size": 60,
    "network.flow_deletion": "deferred",
}


@pytest.mark.parametrize(
    ("profile", "changes", "limit"),
    [("story", {}, None), ("story", FOUR, 5.0), ("default", {}, 0.5)],
    ids=["start", "four changes", "default"],
)
def test_12_latency_is_stable_and_every_server_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: str, changes: dict[str, Any], limit: float | None
) -> None:
    """`limit`: of all creates (s). None: it is the load that breaks this, the later a create comes the longer it takes, till it is lost."""
    settings = chosen(profile, {"compute.vif_plugging_timeout": TIMEOUT, **changes})

    async def work(cloud: Cloudlet) -> list[tuple[str, float]]:
        shared = cloud.store
        assert isinstance(shared, InlineStore)
        await cloud.network.close()
        servers = []
        for _ in range(settings.network.rpc_workers):
            servers.append(Network(Process(shared, settings.database.max_pool_size), cloud.bus, settings, notify=profile == "story"))
            servers[-1].notify_by(cloud.events)
            await servers[-1].start()
        cloud.network, *others = servers
        ids = []
        for _ in range(int(RATE * SECONDS)):
            ids += await cloud.create()
            await asyncio.sleep(1 / RATE)
        await asyncio.sleep(30)
        for each in others:
            await each.close()
        return [((await cloud.server(server_id))["vm_state"], await took(cloud, server_id)) for server_id in ids]

    found = play(monkeypatch, tmp_path, settings, work, hosts=HOSTS)
    lost = [state for state, _ in found if state != "active"]
    tenth = len(found) // 10
    first, last = (sum(seconds for _, seconds in part) / tenth for part in (found[:tenth], found[-tenth:]))
    if limit is None:
        assert len(lost) > 10
        assert last > first + 2
    else:
        assert not lost
        assert max(seconds for _, seconds in found) < limit
        assert last < first + 1.5
