"""The simulated switch's own knobs: latencies, jitter, faults; and that it is cheap."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from pileus.host.switch import Filter, SwitchError
from pileus.host.switch.simulated import SimulatedSwitch, Step, World
from pileus.messages import SecurityRule
from pileus.settings import Simulated
from tests.host.switch.rigs import network, wiring


async def plug_and_wire(switch: SimulatedSwitch, number: int = 1) -> str:
    port = wiring(number, network())
    await switch.open_tap(port.port_id, 1400)
    await switch.plug(port)
    await switch.wire(port)
    return port.port_id


async def taken(call: Awaitable[None]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    await call
    return time.perf_counter() - started


@pytest.mark.parametrize("step", ["plug", "wire", "unplug"])
async def test_each_step_takes_its_latency(step: str) -> None:
    switch = SimulatedSwitch(msgspec.structs.replace(Simulated(), **{step: 0.2}))
    port = wiring(1, network())
    await switch.open_tap(port.port_id, 1400)
    calls: dict[str, Callable[[], Awaitable[None]]] = {
        "plug": lambda: switch.plug(port),
        "wire": lambda: switch.wire(port),
        "unplug": lambda: switch.unplug([port.port_id, "another"]),
    }
    for name, call in calls.items():
        seconds = await taken(call())
        assert (seconds > 0.19) == (name == step), name


async def test_jitter_spreads_latencies_and_a_seed_repeats_them() -> None:
    def latencies(seed: int) -> list[float]:
        switch = SimulatedSwitch(Simulated(plug=1.0, jitter=0.5), seed=seed)
        return [switch._latency(1.0) for _ in range(200)]

    first = latencies(1)
    assert min(first) >= 0.5 and max(first) <= 1.5
    assert min(first) < 0.6 and max(first) > 1.4
    assert first == latencies(1) != latencies(2)


async def test_wiring_fails_as_often_as_it_is_told_to() -> None:
    switch = SimulatedSwitch(Simulated(fail_wire=0.25), seed=3)
    failed = 0
    for number in range(200):
        try:
            await plug_and_wire(switch, number)
        except SwitchError as error:
            assert "fail_wire" in str(error)
            failed += 1
    assert 30 <= failed <= 70


@pytest.mark.parametrize("step", ["open_tap", "plug", "wire", "unplug", "dhcp_device"])
async def test_a_fault_asked_for_happens_once_at_its_step(step: Step) -> None:
    switch = SimulatedSwitch(Simulated())
    switch.fail_next(step, "the first")
    switch.fail_next(step, "the second")
    port, network_id = wiring(1, network()), network()

    async def all_steps() -> None:
        await switch.open_tap(port.port_id, 1400)
        await switch.plug(port)
        await switch.wire(port)
        await switch.dhcp_device(network_id, "namespace", "fa:16:3e:00:00:01", 1400)
        await switch.unplug([port.port_id])

    for cause in ("the first", "the second"):
        with pytest.raises(SwitchError, match=cause):
            await all_steps()
    await all_steps()


async def test_a_thousand_switches_in_one_process_are_cheap() -> None:
    started = time.perf_counter()
    worlds = [World() for _ in range(1000)]
    switches = [SimulatedSwitch(Simulated(), seed=number, world=world) for number, world in enumerate(worlds)]
    await asyncio.gather(*(plug_and_wire(switch) for switch in switches))
    assert sum(world.tags for world in worlds) == 1000
    assert time.perf_counter() - started < 2


async def test_a_switch_with_all_its_tags_taken_says_so() -> None:
    world = World(networks={str(number): str(number) for number in range(4094)})
    switch = SimulatedSwitch(Simulated(), world=world)
    with pytest.raises(SwitchError, match="no local tag is left"):
        await plug_and_wire(switch)


async def test_worlds_do_not_touch_one_another() -> None:
    switches = [SimulatedSwitch(Simulated()) for _ in range(2)]
    await plug_and_wire(switches[0])
    assert [len(await switch.ports()) for switch in switches] == [1, 0]
    assert [switch.world.flows > 0 for switch in switches] == [True, False]


async def test_each_address_that_comes_to_a_set_or_leaves_it_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(round(seconds, 6))

    monkeypatch.setattr(asyncio, "sleep", sleep)
    switch = SimulatedSwitch(Simulated(add_member=0.01))
    for addresses in (["a", "b", "c"], ["a", "b", "c"], ["b", "c", "d", "e"]):
        await switch.address_set("web", addresses)
    await switch.drop_sets(["web", "unknown"])
    assert slept == [0.03, 0.03, 0.04]
    assert switch.world.sets == {}


async def test_flows_of_a_port_before_any_rule_are_as_many_as_one_likes() -> None:
    ssh = SecurityRule("ingress", 4, protocol=1)
    for base in (0, 43):
        switch, port = SimulatedSwitch(Simulated(flows_per_port=base)), wiring(1, network())
        await switch.open_tap(port.port_id, 1400)
        await switch.plug(port)
        assert switch.world.port_flows == {}
        for rules, expected in ((None, base), (Filter(), base), (Filter(rules=(ssh,)), base + 1)):
            await switch.wire(port, rules)
            assert switch.world.port_flows == {port.port_id: expected}
        await switch.unplug([port.port_id])
        assert switch.world.port_flows == {} and switch.world.flows == 0
