"""What only simulated guests have: latencies, faults and numbers."""

from __future__ import annotations

import asyncio
import time

import pytest

from pileus import settings
from pileus.host.hypervisor import HypervisorError, Images
from pileus.host.hypervisor.simulated import SimulatedHypervisor
from tests.host.hypervisor.parts import guest


async def timed(hypervisor: SimulatedHypervisor) -> float:
    spec = guest()
    begin = time.monotonic()
    await hypervisor.create(spec, 1, Images(), {})
    return time.monotonic() - begin


async def test_starts_and_stops_take_what_is_set_with_jitter() -> None:
    hypervisor = SimulatedHypervisor(settings.Simulated(start=0.05, stop=0.03, jitter=0.5))
    spans = await asyncio.gather(*(timed(hypervisor) for _ in range(50)))
    assert min(spans) >= 0.025
    assert max(spans) - min(spans) > 0.01
    begin = time.monotonic()
    await hypervisor.destroy(next(iter(hypervisor.world.guests)))
    assert time.monotonic() - begin >= 0.015


async def test_the_same_seed_fails_the_same_starts() -> None:
    async def failures(seed: int) -> list[bool]:
        hypervisor = SimulatedHypervisor(settings.Simulated(fail_start=0.5), seed=seed)
        seen = []
        for _ in range(40):
            try:
                await hypervisor.create(guest(), 1, Images(), {})
                seen.append(False)
            except HypervisorError as error:
                assert "simulated.fail_start" in str(error)
                seen.append(True)
        assert len(hypervisor.world.guests) == seen.count(False)
        return seen

    first = await failures(1)
    assert 5 < first.count(True) < 35
    assert await failures(1) == first
    assert await failures(2) != first


async def test_failures_are_ordered_for_the_next_starts() -> None:
    hypervisor = SimulatedHypervisor(settings.Simulated())
    hypervisor.fail_next("no memory", times=2)
    for _ in range(2):
        with pytest.raises(HypervisorError, match="no memory"):
            await hypervisor.create(guest(), 1, Images(), {})
    await hypervisor.create(guest(), 1, Images(), {})
    assert len(hypervisor.world.guests) == 1


async def test_capacity_is_what_is_set() -> None:
    capacity = SimulatedHypervisor(settings.Simulated(vcpus=3, memory_mb=1000, disk_gb=7)).capacity()
    assert (capacity.type, capacity.vcpus, capacity.memory_mb, capacity.disk_gb) == ("simulated", 3, 1000, 7)


async def test_one_process_holds_thousands() -> None:
    hosts = [SimulatedHypervisor(settings.Simulated()) for _ in range(1000)]
    begin = time.process_time()
    for host in hosts:
        for _ in range(3):
            spec = guest()
            await host.create(spec, 1, Images(), {})
            await host.resume(spec.server_id)
    assert time.process_time() - begin < 3
    assert sum([len(await host.found()) for host in hosts]) == 3000
    assert not any(host._turns for host in hosts)
