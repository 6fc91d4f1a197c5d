"""Hosts that die, and what becomes of their servers: made elsewhere, and never twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import update

from pileus.compute import actions, hosts, reports
from pileus.compute.evacuation import Wish
from pileus.compute.tables import hosts as hosts_table
from pileus.errors import BadRequest, Conflict
from pileus.host.hypervisor import HypervisorError, Images
from pileus.host.hypervisor.simulated import SimulatedGuest, SimulatedHypervisor
from pileus.host.switch import Tap
from pileus.messages import GuestNow, GuestSpec, HostReport
from pileus.settings import Settings
from pileus.store import Tx
from tests.boot.cloudlet import USER, Cloudlet, cloudlet, settings

ADMIN = replace(USER, roles=frozenset({"admin", "member", "reader"}))


def mortal(**compute: Any) -> Settings:
    """Hosts count as down after a second."""
    return settings(compute={"heartbeat_interval": 0.2, "service_down_time": 1.0, "resend_interval": 60.0} | compute)


async def set_host(cloud: Cloudlet, name: str, **values: Any) -> None:
    def change(tx: Tx) -> None:
        tx.execute(update(hosts_table).where(hosts_table.c.name == name).values(**values))

    await cloud.store.write(change)
    await cloud.stop_control()
    await cloud.start_control()  # the worker's picture of the hosts is its own


async def down(cloud: Cloudlet, name: str) -> bool:
    row = await cloud.store.read(hosts.by_name, name)
    assert row is not None
    return not hosts.is_up(row, cloud.settings.compute)


async def force_down(cloud: Cloudlet, name: str, *, forced: bool = True) -> None:
    """By an administrator's word: on a busy machine a host that is only silent may be given the benefit of the doubt in between, and one
    that is not may be taken for dead."""
    row = await cloud.store.read(hosts.by_name, name)
    assert row is not None
    await cloud.store.write(hosts.change, row["service_id"], forced_down=forced)


async def up(cloud: Cloudlet, name: str) -> bool:
    return not await down(cloud, name)


def running(cloud: Cloudlet, server_id: str) -> list[str]:
    return [
        name for name in cloud.names if server_id in cloud.guests[name].guests and cloud.guests[name].guests[server_id].power == "running"
    ]


def hang(cloud: Cloudlet, name: str) -> None:
    """Starts on this host leave a paused guest and never end."""
    found = cloud.hosts[name].parts.hypervisor
    assert isinstance(found, SimulatedHypervisor)
    create = found.create

    async def never(spec: GuestSpec, generation: int, images: Images, taps: Mapping[str, Tap]) -> None:
        await create(spec, generation, images, taps)
        await asyncio.Event().wait()

    found.create = never  # type: ignore[method-assign]


class Held(asyncio.Event):
    waited_for = False


def hold(cloud: Cloudlet, name: str, cause: str) -> Held:
    """The next start on this host waits until it is let go, and then fails."""
    found = cloud.hosts[name].parts.hypervisor
    assert isinstance(found, SimulatedHypervisor)
    create, release = found.create, Held()

    async def late(spec: GuestSpec, generation: int, images: Images, taps: Mapping[str, Tap]) -> None:
        if not release.is_set():
            release.waited_for = True
            await release.wait()
            raise HypervisorError(cause)
        await create(spec, generation, images, taps)

    found.create = late  # type: ignore[method-assign]
    return release


async def half_made(cloud: Cloudlet) -> str:
    """A create that hangs on host-0, which is the only one that takes servers; then host-1 does, too."""
    await set_host(cloud, "host-1", disabled=True)
    hang(cloud, "host-0")
    [server_id] = await cloud.create()
    await cloud.until(lambda: server_id in cloud.guests["host-0"].guests)
    await set_host(cloud, "host-1", disabled=False)
    return server_id


async def test_a_host_dies_in_the_middle_of_a_create(tmp_path: Path) -> None:
    async with cloudlet(tmp_path, mortal()) as cloud:
        server_id = await half_made(cloud)
        await cloud.stop_host("host-0")
        server = await cloud.settled(server_id)
        assert (server["vm_state"], server["host"]) == ("active", "host-1")
        assert cloud.guests["host-0"].guests[server_id].power == "paused"
        await cloud.start_host("host-0")
        await cloud.until(lambda: server_id not in cloud.guests["host-0"].guests)
        assert running(cloud, server_id) == ["host-1"]
        assert (await cloud.server(server_id))["vm_state"] == "active"
        await cloud.compute.act(USER, server_id, "delete")
        await cloud.settled(server_id)
        await cloud.nothing_left()


async def test_forcing_a_host_down_acts_at_once(tmp_path: Path) -> None:
    async with cloudlet(tmp_path, mortal(service_down_time=3600.0)) as cloud:
        server_id = await half_made(cloud)
        row = await cloud.store.read(hosts.by_name, "host-0")
        assert row is not None
        forced = await cloud.store.write(hosts.change, row["service_id"], forced_down=True)
        assert forced is not None
        await cloud.compute.changed(forced)
        server = await cloud.settled(server_id, 5)
        assert (server["vm_state"], server["host"]) == ("active", "host-1")
        await cloud.until(lambda: server_id not in cloud.guests["host-0"].guests)  # it heard the order: it is not dead


@pytest.mark.parametrize("stopped", [False, True])
async def test_evacuate_and_the_return_of_the_old_host(tmp_path: Path, stopped: bool) -> None:
    async with cloudlet(tmp_path, mortal(service_down_time=3600.0)) as cloud:
        [server_id] = await cloud.create()
        before = await cloud.settled(server_id)
        if stopped:
            await cloud.compute.act(USER, server_id, "stop", hard=True)
            await cloud.settled(server_id)
        old = before["host"]
        [new] = set(cloud.names) - {old}
        addresses = await cloud.compute.network.addresses([server_id])
        with pytest.raises(BadRequest, match="still in use"):
            await cloud.compute.evacuate(ADMIN, server_id, Wish())
        await cloud.stop_host(old)
        await force_down(cloud, old)
        for wish, words in ((Wish(host=old), "same one"), (Wish(host="nowhere"), "could not be found")):
            with pytest.raises(BadRequest, match=words):
                await cloud.compute.evacuate(ADMIN, server_id, wish)
        await cloud.compute.evacuate(ADMIN, server_id, Wish())
        with pytest.raises(Conflict):
            await cloud.compute.evacuate(ADMIN, server_id, Wish())
        after = await cloud.settled(server_id)
        wanted = ("stopped", "stopped") if stopped else ("active", "running")
        assert (after["vm_state"], after["power"], after["host"], after["fault"]) == (*wanted, new, None)
        assert after["generation"] > before["generation"]
        assert cloud.guests[new].guests[server_id].power == wanted[1]
        assert await cloud.compute.network.addresses([server_id]) == addresses
        held = {p.name: p.used for p in await cloud.placement.pictures()}
        assert held[old].get("VCPU", 0) == 0 and held[new]["VCPU"] == 1
        await cloud.start_host(old)
        await cloud.until(lambda: server_id not in cloud.guests[old].guests)
        await cloud.until(lambda: not cloud.ports[old].ports and not cloud.ports[old].taps)
        now = await cloud.server(server_id)
        assert {**now, "updated_at": 0} == {**after, "updated_at": 0}
        assert cloud.guests[new].guests[server_id].power == wanted[1]
        await cloud.compute.act(USER, server_id, "delete")
        await cloud.settled(server_id)
        await cloud.nothing_left()


async def test_an_evacuation_that_fails_leaves_the_server_where_it_was(tmp_path: Path) -> None:
    async with cloudlet(tmp_path, mortal(service_down_time=3600.0)) as cloud:
        [server_id] = await cloud.create()
        old = (await cloud.settled(server_id))["host"]
        [new] = set(cloud.names) - {old}
        await cloud.stop_host(old)
        await force_down(cloud, old)
        found = cloud.hosts[new].parts.hypervisor
        assert isinstance(found, SimulatedHypervisor)
        found.fail_next("no memory left")
        await cloud.compute.evacuate(ADMIN, server_id, Wish())
        server = await cloud.settled(server_id)
        assert (server["vm_state"], server["host"]) == ("error", old)
        assert "no memory left" in server["fault"]["message"]
        held = {p.name: p.used for p in await cloud.placement.pictures()}
        assert held[old]["VCPU"] == 1 and held[new].get("VCPU", 0) == 0
        bound = await cloud.store.read(lambda tx: list(tx.exec_driver_sql("SELECT host, level FROM network_ports WHERE host <> ''")))
        assert bound == []
        await cloud.until(lambda: server_id not in cloud.guests[new].guests)
        await cloud.compute.evacuate(ADMIN, server_id, Wish(host=new))
        server = await cloud.settled(server_id)
        assert (server["vm_state"], server["host"], server["fault"]) == ("active", new, None)
        assert [row["name"] for row in await cloud.store.read(actions.of_server, server_id)] == ["evacuate", "evacuate", "create"]


async def test_a_host_that_returns_keeps_its_guest_until_the_evacuation_is_done(tmp_path: Path) -> None:
    """The server's disk is on it: when the evacuation fails there is nothing else."""
    async with cloudlet(tmp_path, mortal(service_down_time=3600.0, report_interval=3600.0)) as cloud:
        [server_id] = await cloud.create()
        before = await cloud.settled(server_id)
        old = before["host"]
        [new] = set(cloud.names) - {old}
        await cloud.stop_host(old)
        await force_down(cloud, old)
        release = hold(cloud, new, "no memory left")
        await cloud.compute.evacuate(ADMIN, server_id, Wish())
        await cloud.until(lambda: release.waited_for)
        assert (await cloud.server(server_id))["host"] == new
        worlds = cloud.guests[old].guests
        nobodys = msgspec.structs.replace(worlds[server_id].spec, server_id="nobody's", ports=[])
        worlds["nobody's"] = SimulatedGuest(nobodys, 1, "running")
        await cloud.start_host(old)
        await cloud.until(lambda: "nobody's" not in worlds)  # by the order that answers the host's list
        assert running(cloud, server_id) == [old]
        release.set()
        server = await cloud.settled(server_id)
        assert (server["vm_state"], server["host"]) == ("error", old)
        assert running(cloud, server_id) == [old] and worlds[server_id].generation == before["generation"]
        await force_down(cloud, old, forced=False)
        await cloud.compute.act(USER, server_id, "reboot_hard")
        server = await cloud.settled(server_id)
        assert (server["vm_state"], server["host"]) == ("active", old)
        assert running(cloud, server_id) == [old] and worlds[server_id].boots == 2
        assert any(port.wired for port in cloud.ports[old].ports.values())
        await force_down(cloud, old)
        await cloud.compute.evacuate(ADMIN, server_id, Wish())
        server = await cloud.settled(server_id)
        assert (server["vm_state"], server["host"]) == ("active", new)
        await cloud.until(lambda: running(cloud, server_id) == [new], 2)  # told at once: its next list is an hour away
        assert not worlds


async def test_an_order_to_remove_an_earlier_guest_is_of_an_earlier_generation(tmp_path: Path) -> None:
    """The host that has it may be the very one that the server is being evacuated to: what it answers must count for nothing."""
    async with cloudlet(tmp_path, mortal(service_down_time=3600.0)) as cloud:
        [server_id] = await cloud.create()
        old = (await cloud.settled(server_id))["host"]
        [new] = set(cloud.names) - {old}
        await cloud.compute.act(USER, server_id, "stop", hard=True)
        await cloud.settled(server_id)
        await cloud.stop_control()
        await force_down(cloud, old)
        await cloud.compute.evacuate(ADMIN, server_id, Wish())
        report = HostReport(new, {server_id: GuestNow(1, "running")}, time.time())
        [(host, whose, generation)] = (await cloud.store.write(reports.reconcile, [report])).remove
        assert (host, whose) == (new, server_id)
        assert 1 < generation < (await cloud.server(server_id))["generation"]
        await cloud.start_control()
        assert (await cloud.settled(server_id))["host"] == new


async def test_a_silent_control_plane_takes_nobody_for_dead(tmp_path: Path) -> None:
    """Whoever heard nobody for longer than hosts may be silent does not begin by calling all of them down."""
    async with cloudlet(tmp_path, mortal()) as cloud:
        await cloud.stop_control()
        for name in cloud.names:
            await cloud.stop_host(name)
        await cloud.until(lambda: down(cloud, "host-0"))

        def long_ago(tx: Tx) -> None:
            tx.exec_driver_sql("UPDATE compute_host_beats SET seen_at = seen_at - 3600, started_at = started_at - 3600")

        await cloud.store.write(long_ago)
        await cloud.start_control()
        await cloud.until(lambda: up(cloud, "host-0"), 5)
        await cloud.until(lambda: down(cloud, "host-0"), 5)
        for name in cloud.names:
            await cloud.start_host(name)
        await cloud.until(lambda: up(cloud, "host-0"), 5)
