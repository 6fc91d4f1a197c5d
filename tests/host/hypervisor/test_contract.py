"""The hypervisor seam's contract, on every implementation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pileus.host.hypervisor import FoundGuest, Hypervisor, HypervisorError
from pileus.messages import PowerState
from tests.host.hypervisor.parts import Harness, QemuHarness, SimulatedHarness, guest, until


@pytest.fixture(params=["qemu", "simulated"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    harness = QemuHarness(tmp_path) if request.param == "qemu" else SimulatedHarness()
    yield harness
    if isinstance(harness, QemuHarness):
        harness.end_all()


@pytest.fixture
async def hypervisor(harness: Harness) -> AsyncIterator[Hypervisor]:
    hypervisor = harness.make()
    await hypervisor.start()
    yield hypervisor
    for server_id in harness.leftovers():
        await hypervisor.destroy(server_id)
    await hypervisor.close()


def exits(hypervisor: Hypervisor) -> list[tuple[str, PowerState, str]]:
    seen: list[tuple[str, PowerState, str]] = []
    hypervisor.on_exit = lambda *told: seen.append(told)
    return seen


async def test_a_guest_starts_paused_and_runs_when_resumed(harness: Harness, hypervisor: Hypervisor) -> None:
    spec = guest()
    assert await hypervisor.power(spec.server_id) == "absent"
    await hypervisor.create(spec, 1, harness.images, {})
    assert await hypervisor.power(spec.server_id) == "paused"
    assert await hypervisor.console(spec.server_id, None) == ""
    await hypervisor.resume(spec.server_id)
    assert await hypervisor.power(spec.server_id) == "running"
    await harness.booted(hypervisor, spec.server_id)
    await hypervisor.pause(spec.server_id)
    assert await hypervisor.power(spec.server_id) == "paused"


async def test_every_call_may_be_repeated(harness: Harness, hypervisor: Hypervisor) -> None:
    spec = guest()
    seen = exits(hypervisor)
    for _ in range(2):
        await hypervisor.create(spec, 1, harness.images, {})
    assert await hypervisor.power(spec.server_id) == "paused"
    for _ in range(2):
        await hypervisor.resume(spec.server_id)
    await hypervisor.create(spec, 1, harness.images, {})
    assert await hypervisor.power(spec.server_id) == "running"
    for _ in range(2):
        await hypervisor.pause(spec.server_id)
    assert await hypervisor.power(spec.server_id) == "paused"
    for _ in range(2):
        await hypervisor.stop(spec.server_id, hard=True)
    assert await hypervisor.power(spec.server_id) == "stopped"
    for _ in range(2):
        await hypervisor.destroy(spec.server_id)
    assert await hypervisor.power(spec.server_id) == "absent"
    assert harness.leftovers() == []
    assert seen == []


async def test_calls_on_a_guest_that_is_not_there(hypervisor: Hypervisor) -> None:
    for call in (hypervisor.resume, hypervisor.pause):
        with pytest.raises(HypervisorError, match="not on this host"):
            await call("gone")
    with pytest.raises(HypervisorError, match="not on this host"):
        await hypervisor.reset("gone", hard=True)
    with pytest.raises(HypervisorError, match="not on this host"):
        await hypervisor.set_generation("gone", 1)
    await hypervisor.stop("gone", hard=False)
    await hypervisor.destroy("gone")
    assert await hypervisor.power("gone") == "absent"
    assert await hypervisor.console("gone", None) == ""
    assert hypervisor.console_socket("gone") is None


async def test_calls_on_a_stopped_guest(harness: Harness, hypervisor: Hypervisor) -> None:
    spec = guest()
    await hypervisor.create(spec, 1, harness.images, {})
    await hypervisor.stop(spec.server_id, hard=True)
    for call in (hypervisor.resume, hypervisor.pause):
        with pytest.raises(HypervisorError, match="not running"):
            await call(spec.server_id)
    for hard in (True, False):
        assert not await hypervisor.reset(spec.server_id, hard=hard), "its process must be made anew"
    assert hypervisor.console_socket(spec.server_id) is None


async def test_a_soft_stop_asks_the_guest_and_it_starts_again(harness: Harness, hypervisor: Hypervisor) -> None:
    spec = guest()
    seen = exits(hypervisor)
    await hypervisor.create(spec, 1, harness.images, {})
    await hypervisor.resume(spec.server_id)
    await harness.booted(hypervisor, spec.server_id)
    await hypervisor.stop(spec.server_id, hard=False)
    assert await hypervisor.power(spec.server_id) == "stopped"
    await hypervisor.create(spec, 2, harness.images, {})
    assert await hypervisor.power(spec.server_id) == "paused"
    await hypervisor.resume(spec.server_id)
    assert await hypervisor.power(spec.server_id) == "running"
    assert seen == []


async def test_a_crash_after_a_soft_reset_is_a_crash(harness: Harness, hypervisor: Hypervisor) -> None:
    spec = guest()
    seen = exits(hypervisor)
    await hypervisor.create(spec, 1, harness.images, {})
    await hypervisor.resume(spec.server_id)
    await harness.booted(hypervisor, spec.server_id)
    assert await hypervisor.reset(spec.server_id, hard=False)
    await harness.kill(hypervisor, spec.server_id)

    async def told() -> bool:
        return bool(seen)

    await until(told)
    assert seen[0][:2] == (spec.server_id, "crashed")


@pytest.mark.parametrize("hard", [True, False])
async def test_a_reset_boots_the_guest_again(harness: Harness, hypervisor: Hypervisor, hard: bool) -> None:
    spec = guest()
    seen = exits(hypervisor)
    await hypervisor.create(spec, 1, harness.images, {})
    await hypervisor.resume(spec.server_id)
    await harness.booted(hypervisor, spec.server_id)
    once = len(await hypervisor.console(spec.server_id, None))
    assert await hypervisor.reset(spec.server_id, hard=hard)
    assert await hypervisor.power(spec.server_id) == "running"

    async def twice() -> bool:
        return len(await hypervisor.console(spec.server_id, None)) >= 2 * once

    await until(twice)
    assert seen == []


async def test_a_paused_guest_runs_after_a_hard_reset_and_refuses_a_soft_one(harness: Harness, hypervisor: Hypervisor) -> None:
    spec = guest()
    await hypervisor.create(spec, 1, harness.images, {})
    assert not await hypervisor.reset(spec.server_id, hard=False)
    assert await hypervisor.power(spec.server_id) == "paused"
    assert await hypervisor.reset(spec.server_id, hard=True)
    assert await hypervisor.power(spec.server_id) == "running"


async def test_a_guest_that_dies_is_told_of(harness: Harness, hypervisor: Hypervisor) -> None:
    spec = guest()
    seen = exits(hypervisor)
    await hypervisor.create(spec, 1, harness.images, {})
    await hypervisor.resume(spec.server_id)
    await harness.kill(hypervisor, spec.server_id)

    async def told() -> bool:
        return bool(seen)

    assert await until(told) < 2
    ((server_id, power, cause),) = seen
    assert (server_id, power) == (spec.server_id, "crashed")
    assert cause
    assert await hypervisor.power(spec.server_id) == "crashed"
    await hypervisor.create(spec, 1, harness.images, {})
    assert await hypervisor.power(spec.server_id) == "paused"


async def test_a_guest_that_shuts_down_is_told_of_as_stopped(harness: Harness, hypervisor: Hypervisor) -> None:
    spec = guest()
    seen = exits(hypervisor)
    await hypervisor.create(spec, 1, harness.images, {})
    await hypervisor.resume(spec.server_id)
    await harness.booted(hypervisor, spec.server_id)
    await harness.shut_down(hypervisor, spec.server_id)

    async def told() -> bool:
        return bool(seen)

    await until(told)
    assert seen == [(spec.server_id, "stopped", "the guest shut itself down")]
    assert await hypervisor.power(spec.server_id) == "stopped"


async def test_the_next_hypervisor_finds_the_guests(harness: Harness, hypervisor: Hypervisor) -> None:
    running, paused, stopped = guest(name="running"), guest(name="paused"), guest(name="stopped")
    for spec in (running, paused, stopped):
        await hypervisor.create(spec, 1, harness.images, {})
    await hypervisor.resume(running.server_id)
    await hypervisor.stop(stopped.server_id, hard=True)
    await hypervisor.set_generation(running.server_id, 7)
    await hypervisor.close()

    again = harness.make()
    await again.start()
    seen = exits(again)
    try:
        found = {guest.spec.name: guest for guest in await again.found()}
        assert found == {
            "running": FoundGuest(running, 7, "running"),
            "paused": FoundGuest(paused, 1, "paused"),
            "stopped": FoundGuest(stopped, 1, "stopped"),
        }
        assert seen == []
        await again.resume(paused.server_id)
        assert await again.power(paused.server_id) == "running"
        await harness.kill(again, running.server_id)

        async def told() -> bool:
            return bool(seen)

        assert await until(told) < 2
        assert seen[0][:2] == (running.server_id, "crashed")
        for spec in (running, paused, stopped):
            await again.destroy(spec.server_id)
        assert harness.leftovers() == []
    finally:
        await again.close()


async def test_a_create_that_is_cancelled_leaves_nothing(harness: Harness, hypervisor: Hypervisor) -> None:
    """Cancelled after each of many spans, so that every step of a start is hit."""
    for milliseconds in range(0, 40, 4):
        spec = guest()
        task = asyncio.create_task(hypervisor.create(spec, 1, harness.images, {}))
        await asyncio.wait([task], timeout=milliseconds / 1000)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
            assert harness.leftovers() == []
            assert await hypervisor.power(spec.server_id) == "absent"
        else:
            await hypervisor.destroy(spec.server_id)
    await hypervisor.create(spec, 1, harness.images, {})
    assert await hypervisor.power(spec.server_id) == "paused"


async def test_a_failed_restart_keeps_the_guest(harness: Harness, hypervisor: Hypervisor) -> None:
    spec = guest()
    await hypervisor.create(spec, 1, harness.images, {})
    await hypervisor.stop(spec.server_id, hard=True)
    task = asyncio.create_task(hypervisor.create(spec, 2, harness.images, {}))
    await asyncio.wait([task], timeout=0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await hypervisor.power(spec.server_id) == "stopped"
    assert harness.leftovers() == [spec.server_id]
    await hypervisor.create(spec, 2, harness.images, {})
    assert await hypervisor.power(spec.server_id) == "paused"


async def test_a_port_without_a_device_fails_the_start(harness: Harness, hypervisor: Hypervisor) -> None:
    from tests.host.hypervisor.test_arguments import port

    with pytest.raises(HypervisorError, match="port port-1 has no network device"):
        await hypervisor.create(guest(ports=[port("port-1")]), 1, harness.images, {})
    assert harness.leftovers() == []


async def test_create_and_destroy_at_once_end_in_order(harness: Harness, hypervisor: Hypervisor) -> None:
    spec = guest()
    for _ in range(2):
        await asyncio.gather(
            hypervisor.create(spec, 1, harness.images, {}),
            hypervisor.destroy(spec.server_id),
            hypervisor.create(spec, 2, harness.images, {}),
        )
        assert await hypervisor.power(spec.server_id) == "paused"
        (found,) = await hypervisor.found()
        assert found.generation == 2
        await hypervisor.destroy(spec.server_id)
    assert harness.leftovers() == []


async def test_the_console_gives_the_last_lines(harness: Harness, hypervisor: Hypervisor) -> None:
    spec = guest()
    await hypervisor.create(spec, 1, harness.images, {})
    await hypervisor.resume(spec.server_id)
    await harness.booted(hypervisor, spec.server_id)
    await hypervisor.pause(spec.server_id)
    text = await hypervisor.console(spec.server_id, None)
    assert await hypervisor.console(spec.server_id, 1) == text.splitlines(keepends=True)[-1]
    assert await hypervisor.console(spec.server_id, 0) == ""
    assert await hypervisor.console(spec.server_id, 10_000) == text
    await hypervisor.stop(spec.server_id, hard=True)
    assert await hypervisor.console(spec.server_id, None) == text


async def test_capacity_and_acceleration_are_told(hypervisor: Hypervisor) -> None:
    capacity = hypervisor.capacity()
    assert min(capacity.vcpus, capacity.memory_mb, capacity.disk_gb, capacity.version) > 0
    assert capacity.cpu_info["model"]
    assert hypervisor.acceleration().reason
