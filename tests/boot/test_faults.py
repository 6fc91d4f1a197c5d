"""Messages lost, doubled or late; processes ended in the middle and started again: the same end state (laws 1 and 6)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest
from sqlalchemy import update

from pileus.bus.inprocess import Fate, InProcessBus
from pileus.compute import leases, outcomes
from pileus.compute.tables import actions
from pileus.host.hypervisor.simulated import SimulatedHypervisor
from pileus.host.switch.simulated import SimulatedSwitch
from pileus.messages import ACTIONS, LEVELS, OBSERVED, Desired, GuestSpec, Observed
from pileus.network.servers import ports_of
from pileus.store import Tx
from tests.boot.cloudlet import USER, Cloudlet, cloudlet, settings

Signal = Literal["local", "callback"]
both = pytest.mark.parametrize("signal", ["local", "callback"])


def losing(*parts: str, times: int) -> Fate:
    """The first `times` messages of subjects that contain one of the parts are lost."""
    left = dict.fromkeys(parts, times)

    def fate(subject: str, payload: bytes) -> Sequence[float]:
        for part in parts:
            if part in subject and left[part] > 0:
                left[part] -= 1
                return ()
        return (0.0,)

    return fate


def doubling(subject: str, payload: bytes) -> Sequence[float]:
    return (0.0, 0.0)


def disordering(seed: int) -> Fate:
    dice = random.Random(seed)

    def fate(subject: str, payload: bytes) -> Sequence[float]:
        return [dice.random() * 0.05 for _ in range(dice.choice((0, 1, 1, 1, 1, 2, 2)))]

    return fate


@both
@pytest.mark.parametrize("subject", [ACTIONS, ".desired", OBSERVED, LEVELS, ".events"])
async def test_lost(tmp_path: Path, signal: Signal, subject: str) -> None:
    quick = settings(signal)
    async with cloudlet(tmp_path, quick, hosts=1, fate=losing(subject, times=2)) as cloud:
        [server_id] = await cloud.create()
        assert (await cloud.settled(server_id))["vm_state"] == "active"
        await _delete(cloud, [server_id])


@both
@pytest.mark.parametrize("fate", [doubling, disordering(1), disordering(2)], ids=["doubled", "disordered-1", "disordered-2"])
async def test_doubled_late_and_lost(tmp_path: Path, signal: Signal, fate: Fate) -> None:
    # Each beat is a chance to be known when one word in seven is lost: nothing else is between a host and its being heard of.
    patient = settings(signal, compute={"vif_plugging_timeout": 60.0, "heartbeat_interval": 0.5})
    async with cloudlet(tmp_path, patient, fate=fate) as cloud:
        ids = await cloud.create(count=10)
        assert [(await cloud.settled(server_id, 60))["vm_state"] for server_id in ids] == ["active"] * 10
        running = [server_id for name in cloud.names for server_id in cloud.guests[name].guests]
        assert sorted(running) == sorted(ids)
        await _delete(cloud, ids)


@both
@pytest.mark.parametrize("after", [0.0, 0.02, 0.05, 0.09, 0.15])
async def test_host_restarted_in_the_middle(tmp_path: Path, signal: Signal, after: float) -> None:
    slow = settings(signal, simulated={"start": 0.06, "plug": 0.02, "wire": 0.03})
    async with cloudlet(tmp_path, slow, hosts=1) as cloud:
        ids = await cloud.create(count=4)
        await asyncio.sleep(after)
        await cloud.stop_host("host-0")
        await cloud.start_host("host-0")
        assert [(await cloud.settled(server_id))["vm_state"] for server_id in ids] == ["active"] * 4
        assert {guest.power for guest in cloud.guests["host-0"].guests.values()} == {"running"}
        assert len(cloud.ports["host-0"].ports) == 4
        await _delete(cloud, ids)


@both
async def test_a_host_that_began_anew_is_told_at_once(tmp_path: Path, signal: Signal) -> None:
    """It says so by its first heartbeat: nobody waits for the time at which unanswered messages are sent again."""
    patient = settings(signal, simulated={"start": 0.06}, compute={"resend_interval": 60.0})
    async with cloudlet(tmp_path, patient, hosts=1) as cloud:
        ids = await cloud.create(count=4)
        await cloud.until(lambda: cloud.ports["host-0"].ports)
        await cloud.stop_host("host-0")
        await cloud.start_host("host-0")
        assert [(await cloud.settled(server_id, 10.0))["vm_state"] for server_id in ids] == ["active"] * 4


@both
async def test_a_bus_that_is_there_again_is_asked_at_once(tmp_path: Path, signal: Signal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was asked several times in vain would be asked next after a quarter of an hour."""
    tellers: list[Callable[[], Awaitable[None]]] = []

    def on_reconnect(bus: InProcessBus, tell: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        tellers.append(tell)
        return lambda: tellers.remove(tell)

    monkeypatch.setattr(InProcessBus, "on_reconnect", on_reconnect)
    patient = settings(signal, compute={"resend_interval": 60.0})
    async with cloudlet(tmp_path, patient, hosts=1, fate=losing(".desired", times=1)) as cloud:
        [server_id] = await cloud.create()
        await cloud.until(lambda: _is_sent(cloud, server_id))
        await cloud.store.write(_put_off, time.time() + 960.0)
        for tell in tellers:
            await tell()
        assert (await cloud.settled(server_id, 10.0))["vm_state"] == "active"
    assert tellers == []


async def test_an_answer_that_came_twice_does_not_undo_what_it_brought(tmp_path: Path) -> None:
    """Two workers have it: one loads the server while the other one finishes its create, and finds no action any more."""
    async with cloudlet(tmp_path, hosts=1) as cloud:
        [server_id] = await cloud.create()
        loaded = await cloud.server(server_id)
        assert (await cloud.settled(server_id))["vm_state"] == "active"
        assert await cloud.store.write(outcomes.unasked, loaded, "running", "") == []
        assert (await cloud.server(server_id))["vm_state"] == "active"


async def _is_sent(cloud: Cloudlet, server_id: str) -> bool:
    return bool((await cloud.last_action(server_id))["state"] == "sent")


def _put_off(tx: Tx, until: float) -> None:
    tx.execute(update(actions).values(due_at=until, resends=5))


@both
@pytest.mark.parametrize("after", [0.0, 0.005, 0.02])
async def test_worker_restarted_in_the_middle(tmp_path: Path, signal: Signal, after: float) -> None:
    async with cloudlet(tmp_path, settings(signal), hosts=2) as cloud:
        ids = await cloud.create(count=6)
        await asyncio.sleep(after)
        await cloud.stop_control()
        await cloud.start_control()
        assert [(await cloud.settled(server_id))["vm_state"] for server_id in ids] == ["active"] * 6
        await _delete(cloud, ids)


async def test_a_host_that_answers_nothing_is_given_up(tmp_path: Path) -> None:
    """It is not heard of any more: the create goes elsewhere; when it is back, what it made meanwhile goes."""
    quick = settings(compute={"heartbeat_interval": 0.1, "service_down_time": 0.6, "report_interval": 0.3})
    async with cloudlet(tmp_path, quick, hosts=2) as cloud:
        await cloud.stop_host("host-0")
        ids = await cloud.create(count=6)
        found = [await cloud.settled(server_id) for server_id in ids]
        assert [server["vm_state"] for server in found] == ["active"] * 6
        assert {server["host"] for server in found} == {"host-1"}
        await cloud.start_host("host-0")
        await cloud.until(lambda: not cloud.guests["host-0"].guests)
        await _delete(cloud, ids)


async def test_delete_while_its_host_is_down(tmp_path: Path) -> None:
    quick = settings(compute={"heartbeat_interval": 0.1, "service_down_time": 0.6, "report_interval": 0.3})
    async with cloudlet(tmp_path, quick, hosts=1) as cloud:
        [server_id] = await cloud.create()
        await cloud.settled(server_id)
        await cloud.stop_host("host-0")
        await cloud.compute.act(USER, server_id, "delete")
        assert (await cloud.settled(server_id))["vm_state"] == "deleted"
        assert cloud.guests["host-0"].guests
        await cloud.start_host("host-0")
        await cloud.nothing_left()


async def test_a_guest_that_ends_by_itself_is_shown(tmp_path: Path) -> None:
    async with cloudlet(tmp_path, hosts=1) as cloud:
        [server_id] = await cloud.create()
        await cloud.settled(server_id)
        _hypervisor(cloud).kill(server_id)
        await cloud.until(_shows(cloud, server_id, "stopped"), 2.0)
        server = await cloud.server(server_id)
        assert "died on host host-0" in server["fault"]["message"]
        await cloud.until(lambda: not cloud.ports["host-0"].ports)
        await cloud.compute.act(USER, server_id, "start")
        assert (await cloud.settled(server_id))["vm_state"] == "active"


async def test_a_failure_is_told_before_a_switch_that_hangs_lets_it_be_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pileus.host.guests.UNDO_PATIENCE", 0.2)
    slow = settings(simulated={"unplug": 3.0})
    async with cloudlet(tmp_path, slow, hosts=1) as cloud:
        switch = cloud.hosts["host-0"].parts.switch
        assert isinstance(switch, SimulatedSwitch)
        switch.fail_next("wire", "flow table is full")
        [server_id] = await cloud.create()
        server = await cloud.settled(server_id, 2.0)
        assert server["vm_state"] == "error" and "flow table is full" in server["fault"]["message"]
        assert cloud.ports["host-0"].ports
        await cloud.nothing_left()


async def test_the_lane_of_removals_outlives_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw must not leave a host that never removes a port again."""
    async with cloudlet(tmp_path, hosts=1) as cloud:
        [server_id] = await cloud.create()
        await cloud.settled(server_id)
        dhcp = cloud.dhcp["host-0"]
        release, failures = dhcp.release, [KeyError("a mistake")]

        async def mistaken(ports: Sequence[str]) -> None:
            if failures:
                raise failures.pop()
            await release(ports)

        monkeypatch.setattr(dhcp, "release", mistaken)
        await _delete(cloud, [server_id])
        assert not failures


@both
async def test_started_again_while_its_ports_still_go(tmp_path: Path, signal: Signal) -> None:
    """SHUTOFF is shown at once, its ports take longer: a start waits for them, and its own are not removed under it."""
    slow = settings(signal, simulated={"unplug": 0.3})
    async with cloudlet(tmp_path, slow, hosts=1) as cloud:
        [server_id] = await cloud.create()
        await cloud.settled(server_id)
        _hypervisor(cloud).kill(server_id)
        await cloud.until(_shows(cloud, server_id, "stopped"), 2.0)
        assert cloud.ports["host-0"].ports
        await cloud.compute.act(USER, server_id, "start")
        assert (await cloud.settled(server_id))["vm_state"] == "active"
        [other] = await cloud.create()
        await cloud.settled(other)
        await cloud.compute.act(USER, other, "delete")
        await cloud.settled(other)  # the lane of removals is empty: all that was to go before has gone
        assert len(cloud.ports["host-0"].ports) == len(cloud.ports["host-0"].taps) == 1
        await _delete(cloud, [server_id])


async def test_a_guest_that_ends_the_moment_it_runs_is_shown(tmp_path: Path) -> None:
    """Before the host has said that it runs: it says both, in this order."""
    async with cloudlet(tmp_path, hosts=1) as cloud:
        hypervisor = _hypervisor(cloud)
        resume = hypervisor.resume

        async def and_die(server_id: str) -> None:
            await resume(server_id)
            hypervisor.kill(server_id)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hypervisor, "resume", and_die)
            [server_id] = await cloud.create()
            await cloud.until(_shows(cloud, server_id, "stopped"), 2.0)
        await cloud.until(lambda: not cloud.ports["host-0"].ports)
        await cloud.compute.act(USER, server_id, "start")
        assert (await cloud.settled(server_id))["vm_state"] == "active"
        await cloud.until(_shows(cloud, server_id, "active"))
        await _delete(cloud, [server_id])


async def test_a_guest_that_ended_while_no_host_looked_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the host's second report, for the first comes when what is written down may be newer. Its ports are DOWN."""
    monkeypatch.setattr("pileus.compute.reports.SETTLED", 0.3)
    monkeypatch.setattr("pileus.host.compute_part.REPORT_AGAIN", 0.4)
    async with cloudlet(tmp_path, hosts=1) as cloud:
        [server_id] = await cloud.create()
        await cloud.settled(server_id)
        await cloud.stop_host("host-0")
        cloud.guests["host-0"].guests[server_id].power = "stopped"
        await cloud.start_host("host-0")
        await cloud.until(_shows(cloud, server_id, "stopped"), 2.0)

        async def down() -> bool:
            [port] = await cloud.store.read(ports_of, server_id)
            return bool(port.status == "DOWN")

        await cloud.until(down, 2.0)


async def test_a_lost_word_of_a_dead_guest_is_made_good(tmp_path: Path) -> None:
    quick = settings(compute={"report_interval": 0.2})
    async with cloudlet(tmp_path, quick, hosts=1) as cloud:
        [server_id] = await cloud.create()
        await cloud.settled(server_id)
        cloud.bus.fate = losing(OBSERVED, times=1)
        _hypervisor(cloud).kill(server_id)
        await cloud.until(_shows(cloud, server_id, "stopped"), 15.0)


async def test_a_late_answer_of_an_older_generation_changes_nothing(tmp_path: Path) -> None:
    async with cloudlet(tmp_path, hosts=1) as cloud:
        [server_id] = await cloud.create()
        server = await cloud.settled(server_id)
        await cloud.compute.act(USER, server_id, "stop")
        assert (await cloud.settled(server_id))["vm_state"] == "stopped"
        await cloud.worker.observed(Observed(server_id, "host-0", server["generation"], "running"))
        assert (await cloud.server(server_id))["vm_state"] == "stopped"


async def test_a_stranger_on_a_host_is_removed(tmp_path: Path) -> None:
    """A guest that no server stands for (the database was older, a message was late) goes at the next report."""
    quick = settings(compute={"report_interval": 0.2})
    async with cloudlet(tmp_path, quick, hosts=1) as cloud:
        [server_id] = await cloud.create()
        await cloud.settled(server_id)
        guests = cloud.guests["host-0"].guests
        spec: GuestSpec = guests[server_id].spec
        await cloud.stop_host("host-0")
        stranger = type(guests[server_id])(_renamed(spec), 1, "running")
        guests["stranger"] = stranger
        await cloud.start_host("host-0")
        await cloud.until(lambda: "stranger" not in guests)
        assert server_id in guests


def _renamed(spec: GuestSpec) -> GuestSpec:
    import msgspec

    return msgspec.structs.replace(spec, server_id="stranger", ports=[])


def _hypervisor(cloud: Cloudlet) -> SimulatedHypervisor:
    found = cloud.hosts["host-0"].parts.hypervisor
    assert isinstance(found, SimulatedHypervisor)
    return found


def _shows(cloud: Cloudlet, server_id: str, vm_state: str) -> Callable[[], object]:
    async def shown() -> bool:
        return bool((await cloud.server(server_id))["vm_state"] == vm_state)

    return shown


async def _delete(cloud: Cloudlet, ids: Sequence[str]) -> None:
    for server_id in ids:
        await cloud.compute.act(USER, server_id, "delete")
    for server_id in ids:
        assert (await cloud.settled(server_id))["vm_state"] == "deleted"
    await cloud.nothing_left()


async def test_asking_again_does_not_undo_the_answer_that_comes_meanwhile(tmp_path: Path) -> None:
    """A worker has read a delete that is due to be asked again; the answer is written down; only then the worker does ask."""
    muted = False

    def fate(subject: str, payload: bytes) -> Sequence[float]:
        return () if muted and ".desired" in subject else (0.0,)

    async with cloudlet(tmp_path, settings(compute={"resend_interval": 60.0}), hosts=1, fate=fate) as cloud:
        [server_id] = await cloud.create()
        assert (await cloud.settled(server_id))["vm_state"] == "active"
        muted = True
        await cloud.compute.act(USER, server_id, "delete")

        async def sent() -> bool:
            return str((await cloud.last_action(server_id))["state"]) == "sent"

        await cloud.until(sent)

        def read(tx: Tx) -> leases.Taken | None:
            action_id = tx.execute(update(actions).where(actions.c.state == "sent").values(due_at=1.0).returning(actions.c.id)).scalar_one()
            return leases.take(tx, action_id, cloud.worker.id, cloud.worker._lease)

        taken = await cloud.store.write(read)
        assert taken is not None
        action, server = taken
        await cloud.worker.observed(Observed(server_id, "host-0", server["generation"], "absent"))
        await cloud.worker._computing.send(action, server, Desired(server_id, server["generation"], "absent", "delete"))
        assert (await cloud.settled(server_id, 10.0))["vm_state"] == "deleted"
