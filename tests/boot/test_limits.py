"""Each limit and each retention of the settings, seen at work: the fault names step, host and limit, and nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pileus.compute.hosts import inventories
from pileus.errors import NotFound
from pileus.host.hypervisor.simulated import SimulatedHypervisor
from pileus.host.switch.simulated import SimulatedSwitch
from pileus.messages import HostFacts
from pileus.settings import Compute
from tests.boot.cloudlet import USER, Cloudlet, cloudlet, settings

SHORT = 0.05


async def _slow(*_: Any, **__: Any) -> Any:
    await asyncio.sleep(60)


def _slow_claim(cloud: Cloudlet) -> None:
    cloud.placement.claim = _slow  # type: ignore[method-assign]


def _slow_network(cloud: Cloudlet) -> None:
    cloud.compute.network.allocate = _slow  # type: ignore[method-assign]


def _slow_image(cloud: Cloudlet) -> None:
    cloud.hosts["host-0"].parts.images.prepare = _slow  # type: ignore[method-assign]


def _nothing(cloud: Cloudlet) -> None:
    """The simulated latencies are enough."""


@pytest.mark.parametrize(
    ("limit", "latency", "slow", "step", "where"),
    [
        ("schedule_limit", {}, _slow_claim, "claimed", ""),
        ("network_limit", {}, _slow_network, "addressed", " on host host-0"),
        ("image_limit", {}, _slow_image, "image", " on host host-0"),
        ("start_limit", {"start": 60.0}, _nothing, "paused", " on host host-0"),
        ("plug_limit", {"plug": 60.0}, _nothing, "plugged", " on host host-0"),
    ],
)
async def test_a_create_past_a_limit(
    tmp_path: Path, limit: str, latency: dict[str, float], slow: Callable[[Cloudlet], None], step: str, where: str
) -> None:
    async with cloudlet(tmp_path, settings(compute={limit: SHORT}, simulated=latency), hosts=1) as cloud:
        slow(cloud)
        [server_id] = await cloud.create()
        server = await cloud.settled(server_id)
        assert server["vm_state"] == "error"
        assert server["fault"]["message"].startswith(f"{step} failed{where}: no"), server["fault"]
        assert f"within {SHORT:g} s" in server["fault"]["message"]
        await cloud.nothing_left()


async def test_local_signal_wires_though_nobody_shall_wait_and_never_starts_without(tmp_path: Path) -> None:
    chosen = settings(compute={"vif_plugging_timeout": 0.0, "vif_plugging_is_fatal": False}, simulated={"wire": 0.05})
    async with cloudlet(tmp_path, chosen, hosts=1) as cloud:
        switch = cloud.hosts["host-0"].parts.switch
        assert isinstance(switch, SimulatedSwitch)
        [good] = await cloud.create()
        assert (await cloud.settled(good))["vm_state"] == "active"
        switch.fail_next("wire", "flow table is full")
        [bad] = await cloud.create()
        assert "wired failed on host host-0: flow table is full" in (await cloud.settled(bad))["fault"]["message"]


@pytest.mark.parametrize("signal", ["local", "callback"])
async def test_a_guest_that_dies_while_it_waits_is_not_waited_for(tmp_path: Path, signal: str) -> None:
    chosen = settings(signal, compute={"vif_plugging_timeout": 60.0}, simulated={"wire": 60.0})
    async with cloudlet(tmp_path, chosen, hosts=1) as cloud:
        hypervisor = cloud.hosts["host-0"].parts.hypervisor
        assert isinstance(hypervisor, SimulatedHypervisor)
        [server_id] = await cloud.create()
        await cloud.until(lambda: server_id in hypervisor.world.guests)
        hypervisor.kill(server_id)
        server = await cloud.settled(server_id, 2)
        assert server["fault"]["message"].startswith("paused failed on host host-0: the guest died while it waited: the guest's process")
        await cloud.nothing_left()


async def test_a_stop_past_its_limit_says_so_and_the_server_is_as_before(tmp_path: Path) -> None:
    limits = {"action_limit": SHORT, "shutdown_timeout": 0.0}
    async with cloudlet(tmp_path, settings(compute=limits, simulated={"stop": 0.5}), hosts=1) as cloud:
        [server_id] = await cloud.create()
        await cloud.settled(server_id)
        await cloud.compute.act(USER, server_id, "stop")
        assert (await cloud.settled(server_id))["task_state"] is None
        action = await cloud.last_action(server_id)
        assert (action["state"], action["message"]) == ("failed", f"stopped failed on host host-0: not done within {SHORT:g} s")


async def test_what_is_past_its_retention_is_forgotten(tmp_path: Path) -> None:
    async with cloudlet(tmp_path, settings(compute={"deleted_retention": 0.01}), hosts=1) as cloud:
        kept, gone = await cloud.create(count=2)
        await cloud.settled(kept)
        await cloud.settled(gone)
        await cloud.compute.act(USER, gone, "delete")
        await cloud.settled(gone)
        await asyncio.sleep(0.02)
        await cloud.stop_control()
        await cloud.start_control()

        async def forgotten() -> bool:
            try:
                await cloud.server(gone)
            except NotFound:
                return True
            return False

        await cloud.until(forgotten)
        assert (await cloud.server(kept))["vm_state"] == "active"


@pytest.mark.parametrize(("concurrency", "most"), [(1, 1), (3, 3)])
async def test_as_many_guests_start_at_once_as_are_set(tmp_path: Path, concurrency: int, most: int) -> None:
    chosen = settings(host={"start_concurrency": concurrency}, simulated={"start": 0.03})
    async with cloudlet(tmp_path, chosen, hosts=1) as cloud:
        hypervisor = cloud.hosts["host-0"].parts.hypervisor
        assert isinstance(hypervisor, SimulatedHypervisor)
        create, under_way, seen = hypervisor.create, 0, 0

        async def counted(*arguments: Any) -> None:
            nonlocal under_way, seen
            under_way += 1
            seen = max(seen, under_way)
            try:
                await create(*arguments)
            finally:
                under_way -= 1

        hypervisor.create = counted  # type: ignore[method-assign, assignment]
        for server_id in await cloud.create(count=6):
            assert (await cloud.settled(server_id))["vm_state"] == "active"
        assert seen == most


def test_the_ratios_say_what_a_host_offers() -> None:
    facts = HostFacts("h", "QEMU", 1, 4, 8192, 100, {}, "tcg", "", "127.0.0.1")
    chosen = Compute(cpu_allocation_ratio=8.0, ram_allocation_ratio=1.5, disk_allocation_ratio=3.0, reserved_host_memory_mb=1024)
    offer = inventories(facts, chosen)
    assert {name: (one.total, one.reserved, one.allocation_ratio) for name, one in offer.items()} == {
        "VCPU": (4, 0, 8.0),
        "MEMORY_MB": (8192, 1024, 1.5),
        "DISK_GB": (100, 0, 3.0),
    }
