"""What waits while flows are deleted, and how long: `network.flow_deletion`, with lanes and in the serial loop, in virtual time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from pileus import metrics
from pileus.host import serial_loop
from tests.boot.virtual import in_virtual_time
from tests.host.agents import PING, port, rig

# 4 ports of 43 flows, and a rule each: 176 flows.
COSTS = {"flows_per_port": 43, "delete_flow": 0.01, "delete_flow_bundled": 0.001, "unplug": 0.1}
BLOCKING, BUNDLED = 0.1 + 176 * 0.01, 0.1 + 176 * 0.001

# How removals of old ports were asked, at once a new one is wired: when are the old ones gone, and when is the new one wired?
EXPECTED: dict[tuple[str, str], tuple[float, float]] = {
    ("lanes", "deferred"): (BUNDLED, 0.0),
    ("lanes", "bundled"): (BUNDLED, BUNDLED),
    ("lanes", "blocking"): (BLOCKING, BLOCKING),
    ("serial", "deferred"): (BUNDLED, 0.0),
    ("serial", "bundled"): (BUNDLED, BUNDLED),
    ("serial", "blocking"): (BLOCKING, BLOCKING),
}


@pytest.fixture(autouse=True)
def in_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns begin at whole intervals."""
    monkeypatch.setattr(serial_loop, "first_pause", lambda interval: interval)


def blocked() -> float:
    return float(metrics.AGENT_BLOCKED._value.get())


@pytest.mark.parametrize(("loop", "deletion"), EXPECTED)
def test_who_waits_for_whom(loop: str, deletion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> tuple[float, float, float]:
        async with rig(simulated=COSTS, agent_loop=loop, flow_deletion=deletion, polling_interval=100.0) as made:
            made.control.allow("web", PING)
            old, new = [port(f"old-{n}", "web") for n in range(4)], port("new", "web")
            await made.wired(*old)
            await made.plugged(new)
            before, began = blocked(), time.monotonic()
            if loop == "serial":  # to the beginning of a turn
                began = 100.0 * (1 + began // 100.0)

            async def when(done: asyncio.Task[object]) -> float:
                await done
                return time.monotonic() - began

            removing = asyncio.create_task(made.agent.remove(old))
            if loop == "serial" and deletion == "deferred":
                began = time.monotonic()
                removed = await when(removing)
                began = 100.0 * (1 + began // 100.0)
                return removed, await when(asyncio.create_task(made.agent.wire(new))), blocked() - before
            await asyncio.sleep(0)
            wired, removed = await asyncio.gather(when(asyncio.create_task(made.agent.wire(new))), when(removing))
            return removed, wired, blocked() - before

    removed, wired, lost = in_virtual_time(monkeypatch, work)
    assert (removed, wired) == pytest.approx(EXPECTED[loop, deletion], abs=0.01)
    assert lost == pytest.approx(0.0 if deletion == "deferred" else removed, abs=0.01)


def test_a_removal_beside_the_serial_loop_delays_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> float:
        async with rig(simulated={"unplug": 30.0}, agent_loop="serial", flow_deletion="deferred") as made:
            await made.wired(port("old"))
            await made.plugged(port("new"))
            removing = asyncio.create_task(made.agent.remove([port("old")]))
            await asyncio.sleep(0)
            began = time.monotonic()
            await made.agent.wire(port("new"))
            took = time.monotonic() - began
            assert not removing.done()
            await removing
            return took

    assert in_virtual_time(monkeypatch, work) <= 2.0


@pytest.mark.parametrize("deletion", ["bundled", "blocking"])
def test_wires_under_way_end_first_and_all_goes_on_afterwards(deletion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many come and go at once, some are removed while they are being wired: nobody waits for ever, and nothing is left."""

    async def work() -> dict[str, int]:
        costs = {"wire": 0.05, "unplug": 0.2, "delete_flow": 0.001, "jitter": 0.5}
        async with rig(simulated=costs, flow_deletion=deletion) as made:
            ports = [port(f"p{n}", "web") for n in range(60)]
            await made.plugged(*ports)

            async def live(n: int) -> None:
                wiring = asyncio.create_task(made.agent.wire(ports[n]))
                if n % 3 == 0:
                    await asyncio.sleep(0.01 * n)
                    await made.agent.remove([ports[n]])
                    await asyncio.wait([wiring])
                    wiring.exception()
                    return
                await wiring
                if n % 3 == 1:
                    await made.agent.remove([ports[n]])

            await asyncio.gather(*(live(n) for n in range(60)))
            return {name: one.wired for name, one in made.switch.world.ports.items()}

    assert in_virtual_time(monkeypatch, work) == {f"p{n}": 1 for n in range(60) if n % 3 == 2}


@pytest.mark.parametrize("loop", ["lanes", "serial"])
@pytest.mark.parametrize("deletion", ["deferred", "bundled", "blocking"])
def test_a_removal_that_fails_is_tried_again_and_lets_others_by(loop: str, deletion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> tuple[float, float]:
        async with rig(agent_loop=loop, flow_deletion=deletion) as made:
            await made.wired(port("old"))
            await made.plugged(port("new"))
            for _ in range(3):
                made.switch.fail_next("unplug", "the database is away")
            began = time.monotonic()
            removing = asyncio.create_task(made.agent.remove([port("old")]))
            await asyncio.sleep(0)
            await made.agent.wire(port("new"))
            wired = time.monotonic() - began
            await removing
            return wired, time.monotonic() - began

    wired, removed = in_virtual_time(monkeypatch, work)
    assert wired <= 2.0 and 3.0 <= removed <= 8.0


@pytest.mark.parametrize("deletion", ["bundled", "blocking"])
def test_an_agent_that_starts_anew_in_the_middle_of_a_removal_ends_it(deletion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> list[str]:
        async with rig(simulated={"unplug": 1.0}, flow_deletion=deletion) as made:
            await made.wired(port("old"), port("stays"))
            removing = asyncio.create_task(made.agent.remove([port("old")]))
            await asyncio.sleep(0.5)
            await made.agent.restart()
            async with asyncio.timeout(10):
                await removing
                await made.agent.wire(port("stays"))
            return list(made.switch.world.ports)

    assert in_virtual_time(monkeypatch, work) == ["stays"]


def all_of(costs: dict[str, float], deletion: str) -> Callable[[pytest.MonkeyPatch], float]:
    async def work() -> float:
        async with rig(simulated=costs, flow_deletion=deletion) as made:
            made.control.allow("web", PING)
            await made.wired(port("a", "web"), port("b"))
            await made.plugged(port("never wired"))
            began = time.monotonic()
            await made.agent.remove([port("a"), port("b"), port("never wired")])
            return time.monotonic() - began

    return lambda monkeypatch: in_virtual_time(monkeypatch, work)


def test_each_flow_of_a_port_and_of_its_rules_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {"unplug": 1.0, "delete_flow": 0.1, "delete_flow_bundled": 0.01, "flows_per_port": 43}
    assert all_of(costs, "blocking")(monkeypatch) == pytest.approx(1.0 + 87 * 0.1)
    assert all_of(costs, "bundled")(monkeypatch) == pytest.approx(1.0 + 87 * 0.01)
    assert all_of(costs, "deferred")(monkeypatch) == pytest.approx(1.0 + 87 * 0.01)
    assert all_of({**costs, "flows_per_port": 0}, "blocking")(monkeypatch) == pytest.approx(1.0 + 1 * 0.1)
