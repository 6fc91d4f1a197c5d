"""The boot's path: every way it can go, and that nothing is left when it went wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import pytest

from pileus.clients.image import ImageInfo
from pileus.clients.network import RequestedNic
from pileus.compute.creation import NewServer
from pileus.context import Context
from pileus.errors import Conflict, NotFound
from pileus.host.hypervisor.simulated import SimulatedHypervisor
from pileus.host.switch.simulated import SimulatedSwitch
from pileus.messages import PowerState
from tests.boot.cloudlet import FLAVOR, USER, Cloudlet, cloudlet, settings

Signal = Literal["local", "callback"]
both = pytest.mark.parametrize("signal", ["local", "callback"])


def hypervisor(cloud: Cloudlet, name: str) -> SimulatedHypervisor:
    found = cloud.hosts[name].parts.hypervisor
    assert isinstance(found, SimulatedHypervisor)
    return found


def switch(cloud: Cloudlet, name: str) -> SimulatedSwitch:
    found = cloud.hosts[name].parts.switch
    assert isinstance(found, SimulatedSwitch)
    return found


async def delete(cloud: Cloudlet, ids: Sequence[str]) -> None:
    for server_id in ids:
        await cloud.compute.act(USER, server_id, "delete")
    for server_id in ids:
        assert (await cloud.settled(server_id))["vm_state"] == "deleted"
    await cloud.nothing_left()


@both
async def test_a_boot_goes_through_every_step(tmp_path: Path, signal: Signal) -> None:
    async with cloudlet(tmp_path, settings(signal)) as cloud:
        [server_id] = await cloud.create()
        server = await cloud.settled(server_id)
        assert (server["vm_state"], server["task_state"], server["power"], server["fault"]) == ("active", None, "running", None)
        action = await cloud.last_action(server_id)
        steps = [
            "accepted",
            "queued",
            "claimed",
            "addressed",
            "sent",
            "image",
            "plugged",
            "paused",
            "wired",
            "signalled",
            "resumed",
            "reported",
        ]
        assert set(steps) <= set(action["stamps"])
        assert action["stamps"]["accepted"] <= action["stamps"]["sent"] <= action["stamps"]["resumed"] <= action["stamps"]["reported"]
        assert cloud.guests[server["host"]].guests[server_id].power == "running"
        await delete(cloud, [server_id])


@both
async def test_fifty_at_once(tmp_path: Path, signal: Signal) -> None:
    async with cloudlet(tmp_path, settings(signal), hosts=3) as cloud:
        ids = await cloud.create(count=50)
        states = [(await cloud.settled(server_id))["vm_state"] for server_id in ids]
        assert states == ["active"] * 50
        addresses = await cloud.compute.network.addresses(ids)
        assert len({a.address for found in addresses.values() for a in found}) == 50
        await delete(cloud, ids)


async def test_a_failed_start_is_tried_on_another_host(tmp_path: Path) -> None:
    async with cloudlet(tmp_path) as cloud:
        for name in cloud.names:
            hypervisor(cloud, name).fail_next("no memory left")
        hypervisor(cloud, cloud.names[0]).fail_next("no memory left")
        [server_id] = await cloud.create()
        server = await cloud.settled(server_id)
        assert server["vm_state"] == "error"
        assert "paused failed on host host-" in server["fault"]["message"]
        assert "no memory left" in server["fault"]["message"]
        assert server["host"] is None
        assert (await cloud.last_action(server_id))["attempt"] == 2
        await cloud.nothing_left()
        await delete(cloud, [server_id])


async def test_one_bad_host_costs_nothing_but_time(tmp_path: Path) -> None:
    async with cloudlet(tmp_path) as cloud:
        bad = cloud.names[0]
        for _ in range(20):
            switch(cloud, bad).fail_next("wire", "flow table is full")
        ids = await cloud.create(count=10)
        found = [await cloud.settled(server_id) for server_id in ids]
        assert [server["vm_state"] for server in found] == ["active"] * 10
        assert {server["host"] for server in found} == {cloud.names[1]}
        await delete(cloud, ids)


async def test_callback_network_failure_is_nova_s_rule(tmp_path: Path) -> None:
    async with cloudlet(tmp_path, settings("callback")) as cloud:
        for name in cloud.names:
            switch(cloud, name).fail_next("wire", "flow table is full")
        [server_id] = await cloud.create()
        server = await cloud.settled(server_id)
        assert server["vm_state"] == "error"
        assert "network-vif-failed" in server["fault"]["message"]
        assert (await cloud.last_action(server_id))["attempt"] == 1
        await cloud.nothing_left()


@both
async def test_a_network_that_never_comes_ends_in_error_with_step_host_and_cause(tmp_path: Path, signal: Signal) -> None:
    slow = settings(signal, compute={"vif_plugging_timeout": 0.3}, simulated={"wire": 60.0})
    async with cloudlet(tmp_path, slow, hosts=1) as cloud:
        [server_id] = await cloud.create()
        server = await cloud.settled(server_id)
        assert server["vm_state"] == "error"
        assert "wired failed on host host-0" in server["fault"]["message"]
        assert "within 0.3 s" in server["fault"]["message"]
        assert not cloud.guests["host-0"].guests


async def test_callback_not_fatal_starts_without_network(tmp_path: Path) -> None:
    slow = settings("callback", compute={"vif_plugging_timeout": 0.2, "vif_plugging_is_fatal": False}, simulated={"wire": 60.0})
    async with cloudlet(tmp_path, slow, hosts=1) as cloud:
        [server_id] = await cloud.create()
        assert (await cloud.settled(server_id))["vm_state"] == "active"


async def test_callback_timeout_zero_does_not_wait(tmp_path: Path) -> None:
    slow = settings("callback", compute={"vif_plugging_timeout": 0.0}, simulated={"wire": 60.0})
    async with cloudlet(tmp_path, slow, hosts=1) as cloud:
        [server_id] = await cloud.create()
        assert (await cloud.settled(server_id))["vm_state"] == "active"


async def test_a_lost_event_does_not_kill_the_guest(tmp_path: Path) -> None:
    """The level is read again before giving up: the story's second fault."""
    async with cloudlet(tmp_path, settings("callback", compute={"vif_plugging_timeout": 0.5}), hosts=1) as cloud:
        cloud.events.swallow = 1
        [server_id] = await cloud.create()
        assert (await cloud.settled(server_id))["vm_state"] == "active"


async def test_a_refused_notification_is_sent_again(tmp_path: Path) -> None:
    async with cloudlet(tmp_path, settings("callback"), hosts=1) as cloud:
        cloud.events.refuse = 2
        [server_id] = await cloud.create()
        assert (await cloud.settled(server_id))["vm_state"] == "active"


async def test_no_valid_host(tmp_path: Path) -> None:
    async with cloudlet(tmp_path, settings(compute={"blocked_limit": 0.0}, simulated={"memory_mb": 700})) as cloud:
        ids = await cloud.create(count=3)
        found = [await cloud.settled(server_id) for server_id in ids]
        assert sorted(server["vm_state"] for server in found) == ["active", "active", "error"]
        fault = next(server["fault"] for server in found if server["fault"])
        assert "No valid host was found" in fault["message"]
        await delete(cloud, ids)


async def test_a_server_that_never_had_a_host_is_not_deleted_by_what_needs_one(tmp_path: Path) -> None:
    async with cloudlet(tmp_path, settings(simulated={"memory_mb": 512})) as cloud:
        [server_id] = await cloud.create()
        assert (await cloud.settled(server_id))["vm_state"] == "error"
        for verb in ("stop", "reboot_hard"):
            with pytest.raises(Conflict, match="not ready"):
                await cloud.compute.act(USER, server_id, verb, hard=True)
        assert (await cloud.server(server_id))["vm_state"] == "error"
        await delete(cloud, [server_id])


@both
async def test_delete_in_the_middle_of_a_boot(tmp_path: Path, signal: Signal) -> None:
    async with cloudlet(tmp_path, settings(signal, simulated={"start": 0.05, "wire": 0.05})) as cloud:
        ids = await cloud.create(count=8)
        for turn, server_id in enumerate(ids):
            await asyncio.sleep(0.01 * (turn % 3))
            await cloud.compute.act(USER, server_id, "delete")
        for server_id in ids:
            await cloud.until(partial(_gone, cloud, server_id))
        await cloud.nothing_left()


async def _gone(cloud: Cloudlet, server_id: str) -> bool:
    return bool((await cloud.server(server_id))["vm_state"] == "deleted")


@both
async def test_stop_start_reboot_pause(tmp_path: Path, signal: Signal) -> None:
    async with cloudlet(tmp_path, settings(signal), hosts=1) as cloud:
        [server_id] = await cloud.create()
        await cloud.settled(server_id)
        for verb, vm_state, power in (
            ("pause", "paused", "paused"),
            ("unpause", "active", "running"),
            ("stop", "stopped", "stopped"),
            ("start", "active", "running"),
            ("reboot", "active", "running"),
            ("reboot_hard", "active", "running"),
        ):
            await cloud.compute.act(USER, server_id, verb)
            server = await cloud.settled(server_id)
            assert (verb, server["vm_state"], server["power"]) == (verb, vm_state, power)
            assert cloud.guests["host-0"].guests[server_id].power == power
            assert bool(cloud.ports["host-0"].ports) == (vm_state != "stopped")
        await delete(cloud, [server_id])


async def test_a_given_port_stays_when_its_server_goes(tmp_path: Path) -> None:
    async with cloudlet(tmp_path, hosts=1) as cloud:
        from pileus.network import ports, visible

        def make(tx: object) -> str:
            network = visible.network(tx, USER, cloud.net)  # type: ignore[arg-type]
            found = visible.subnets_of(tx, [cloud.net])[cloud.net]  # type: ignore[arg-type]
            new = ports.NewPort(project_id=USER.project)
            return str(ports.create(tx, cloud.network.config, new, network, found)["id"])  # type: ignore[arg-type]

        port_id = await cloud.store.write(make)
        [server_id] = await cloud.create([RequestedNic(port_id=port_id)])
        assert (await cloud.settled(server_id))["vm_state"] == "active"
        await delete(cloud, [server_id])
        port = await cloud.store.read(visible.port, USER, port_id)
        assert (port["device_id"], port["host"] or "") == ("", "")


class HalfMadeImages:
    """An image service with one image to boot, whose kernel nobody has uploaded yet."""

    async def show(self, context: Context, image_id: str) -> ImageInfo:
        if image_id == "kernel":
            return ImageInfo("kernel", "kernel", "queued", "", 0, 0, "")
        return ImageInfo(image_id, "disk", "active", "ami", 512, 512, "00", kernel_id="kernel")

    async def ticket(self, image_id: str) -> str:
        raise NotFound(f"No image {image_id}")


async def test_a_kernel_without_data_fails_the_server_at_once(tmp_path: Path) -> None:
    async with cloudlet(tmp_path) as cloud:
        cloud.compute.image = HalfMadeImages()
        [made] = await cloud.compute.create(USER, NewServer(name="server", flavor=FLAVOR, nics=[], image_id="disk"), "none", count=1)
        server = await cloud.settled(made["id"])
        assert server["vm_state"] == "error"
        assert "image kernel is not active" in server["fault"]["message"]
        await delete(cloud, [made["id"]])


async def test_a_guest_that_does_not_answer_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with cloudlet(tmp_path, hosts=1) as cloud:
        ids = await cloud.create(count=3)
        for server_id in ids:
            await cloud.settled(server_id)
        host = cloud.hosts["host-0"]
        asked: set[str] = set()
        all_asked = asyncio.Event()

        async def power(server_id: str) -> PowerState:
            asked.add(server_id)
            if asked >= set(ids):
                all_asked.set()
            await all_asked.wait()
            return "running"

        monkeypatch.setattr(hypervisor(cloud, "host-0"), "power", power)
        assert host.facts().guests == 3 and not asked
        async with asyncio.timeout(5):
            assert {server_id: now.power for server_id, now in (await host.guests.now()).items()} == dict.fromkeys(ids, "running")
        monkeypatch.undo()
        await delete(cloud, ids)
