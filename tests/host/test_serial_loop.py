"""The serial loop (`network.agent_loop` serial): its order, its polling, and who waits behind whom. In virtual time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pileus import metrics
from pileus.host import serial_loop
from pileus.host.ports import WireError
from pileus.host.switch.simulated import World
from pileus.messages import PortsChanged
from tests.boot.virtual import in_virtual_time
from tests.host.agents import PING, SSH, Rig, port, rig

SERIAL: dict[str, Any] = {"agent_loop": "serial", "polling_interval": 2.0, "rpc_timeout": 60.0, "flow_deletion": "bundled"}
LAST_TURN = 10.0


@pytest.fixture
def virtual(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]:
    """Turns begin at every even second."""
    monkeypatch.setattr(serial_loop, "first_pause", lambda interval: interval)
    return lambda work: in_virtual_time(monkeypatch, work)


Virtual = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


def turns() -> tuple[float, float]:
    """How many there were in this process, and the seconds of all."""
    found = {sample.name.rpartition("_")[2]: sample.value for sample in next(iter(metrics.AGENT_TURN.collect())).samples}
    return found["count"], found["sum"]


def log(made: Rig) -> list[tuple[str, Any, float]]:
    return [(what, of, round(at, 3)) for (what, of), at in zip(made.switch.calls, made.switch.at, strict=True)]


async def at(moment: float) -> None:
    await asyncio.sleep(moment - time.monotonic())


def test_a_turn_goes_from_removals_over_updates_details_and_wires_to_the_report(virtual: Virtual) -> None:
    async def work() -> None:
        async with rig(notices=True, simulated={"wire": 0.1, "unplug": 0.3}, **SERIAL) as made:
            made.control.allow("web", SSH)
            made.agent.expect([port("changed"), port("grouped", "web"), port("old")])
            await made.plugged(port("changed"), port("grouped", "web"), port("old"))
            await at(3.0)  # the turn at 2 s has wired these
            made.done()
            await made.plugged(port("new-2"), port("new-1"))
            await made.control.hint(made.control.allow("web", PING))
            await made.agent.update(PortsChanged([port("changed", admin_up=False)]))
            removing = asyncio.create_task(made.agent.remove([port("old")]))
            await at(3.9)
            assert made.switch.calls == []
            await at(5.9)
            assert removing.done()
            assert log(made) == [
                ("unplug", ["old"], 4.3),
                ("wire", "changed", 4.4),
                ("wire", "grouped", 4.5),
                ("details", ["new-1", "new-2"], 4.5),
                ("wire", "new-1", 4.6),
                ("wire", "new-2", 4.7),
                ("report", [("changed", "wired"), ("new-1", "wired"), ("new-2", "wired"), ("old", "gone")], 4.7),
            ]

    virtual(work)


def test_what_comes_during_a_turn_waits_for_the_next_and_a_long_turn_delays_it(virtual: Virtual) -> None:
    async def work() -> None:
        async with rig(notices=True, simulated={"wire": 1.0}, **SERIAL) as made:
            await at(1.0)
            await made.plugged(*(port(f"early-{n}") for n in range(5)))
            await at(2.5)
            await made.plugged(port("late"))
            before = turns()
            await at(9.5)
            assert log(made) == [
                ("details", [f"early-{n}" for n in range(5)], 2.0),
                *(("wire", f"early-{n}", 3.0 + n) for n in range(5)),
                ("report", [(f"early-{n}", "wired") for n in range(5)], 7.0),
                ("details", ["late"], 7.0),
                ("wire", "late", 8.0),
                ("report", [("late", "wired")], 8.0),
            ]
            count, seconds = turns()
            assert count - before[0] == 3  # and an empty one at 9 s
            assert seconds - before[1] == pytest.approx(6.0)

    virtual(work)


def test_with_the_local_signal_too_a_port_waits_for_its_turn(virtual: Virtual) -> None:
    async def work() -> None:
        async with rig(simulated={"wire": 0.5}, **SERIAL) as made:
            await at(0.5)
            await made.plugged(port("a"), port("b"))

            async def wired(name: str) -> float:
                level = await made.agent.wire(port(name))
                assert level.generation == 1
                return time.monotonic()

            assert list(await asyncio.gather(wired("a"), wired("b"))) == [2.5, 3.0]
            assert await wired("a") == 3.0  # it is already
            assert [call for call in made.switch.calls if call[0] == "details"] == []

    virtual(work)


def test_removals_of_others_come_before_every_wire(virtual: Virtual) -> None:
    """The story's fault: a create waits behind all deletes."""

    async def work() -> None:
        costs = {"delete_flow": 0.05, "flows_per_port": 43}
        async with rig(simulated=costs, **{**SERIAL, "flow_deletion": "blocking"}) as made:
            old = [port(f"old-{n}") for n in range(20)]
            await made.wired(*old)
            await made.plugged(port("new"))
            removing = asyncio.create_task(made.agent.remove(old))
            await asyncio.sleep(0)
            began = 2.0 * (1 + time.monotonic() // 2.0)
            await made.agent.wire(port("new"))
            assert time.monotonic() - began == pytest.approx(20 * 43 * 0.05)
            await removing

    virtual(work)


def test_nothing_goes_on_before_details_are_answered_and_each_try_waits_twice_as_long(virtual: Virtual) -> None:
    async def work() -> None:
        async with rig(notices=True, **SERIAL) as made:
            await made.wired(port("old"))
            await at(LAST_TURN + 1)
            made.done()
            made.control.details_answer.clear()
            await made.plugged(port("new"))
            await at(LAST_TURN + 3)  # the question is asked
            removing = asyncio.create_task(made.agent.remove([port("old")]))
            await made.plugged(port("newer"))
            await at(LAST_TURN + 600)
            asked = [moment for what, _, moment in log(made) if what == "details"]
            assert asked == [12.0, 72.1, 192.2, 432.3]
            assert not removing.done() and {what for what, _, _ in log(made)} == {"details"}
            made.switch.calls.clear()
            made.switch.at.clear()
            made.control.details_answer.set()
            await at(LAST_TURN + 603)
            kinds = [what for what, of, _ in log(made)]
            assert kinds == ["wire", "report", "unplug", "details", "wire", "report"]

    virtual(work)


def test_a_report_that_is_not_taken_holds_up_the_next_turn(virtual: Virtual) -> None:
    async def work() -> None:
        async with rig(notices=True, **SERIAL) as made:
            made.control.levels_answer.clear()
            await made.plugged(port("a"))
            await at(3.0)
            await made.plugged(port("b"))
            await at(50.0)
            assert [call for call in made.switch.calls if call[0] == "wire"] == [("wire", "a")]
            made.control.levels_answer.set()
            await at(53.0)
            assert ("wire", "b") in made.switch.calls

    virtual(work)


def test_a_report_names_twenty_ports(virtual: Virtual) -> None:
    async def work() -> None:
        async with rig(notices=True, **SERIAL) as made:
            await at(1.0)
            await made.plugged(*(port(f"p{n:02d}") for n in range(45)))
            await at(3.0)
            assert [len(of) for what, of, _ in log(made) if what == "report"] == [20, 20, 5]

    virtual(work)


def test_a_port_that_cannot_be_wired_is_told_and_holds_up_no_other(virtual: Virtual) -> None:
    async def work() -> None:
        async with rig(**SERIAL) as made:
            await at(1.0)
            await made.plugged(port("a"), port("b"))
            made.switch.fail_next("wire", "the table is full")
            failed, wired = await asyncio.gather(made.agent.wire(port("a")), made.agent.wire(port("b")), return_exceptions=True)
            assert isinstance(failed, WireError) and str(failed) == "the table is full"
            assert not isinstance(wired, BaseException)
            await at(3.0)
            assert log(made)[-1][1] == [("a", "failed"), ("b", "wired")]

    virtual(work)


def test_a_port_that_goes_before_its_turn_is_not_wired(virtual: Virtual) -> None:
    async def work() -> None:
        async with rig(**SERIAL) as made:
            await at(0.5)
            await made.plugged(port("a"), port("b"))
            wiring = [asyncio.create_task(made.agent.wire(port(name))) for name in "ab"]
            await at(1.0)
            removing = asyncio.create_task(made.agent.remove([port("a")]))
            wiring[1].cancel()  # whoever waited for b gave up
            await at(1.5)
            assert isinstance(wiring[0].exception(), WireError)
            await removing
            await at(3.0)
            assert [call for call in made.switch.calls if call[0] == "wire"] == []
            assert list(made.switch.world.ports) == ["b"]

    virtual(work)


def test_a_port_removed_while_it_is_wired_goes_in_the_next_turn(virtual: Virtual) -> None:
    async def work() -> None:
        async with rig(simulated={"wire": 1.0}, **SERIAL) as made:
            await made.plugged(port("a"))
            wiring = asyncio.create_task(made.agent.wire(port("a")))
            await at(2.5)
            await made.agent.remove([port("a")])
            assert isinstance(wiring.exception(), WireError)
            await at(LAST_TURN)
            assert made.switch.world.ports == {} and made.switch.world.flows == 0

    virtual(work)


def test_a_switch_that_lost_its_flows_is_wired_in_the_next_turn_until_it_works(virtual: Virtual) -> None:
    async def work() -> None:
        async with rig(**SERIAL) as made:
            await made.wired(port("a"), port("b"))
            await at(LAST_TURN + 1)
            made.switch.fail_next("wire", "not yet")
            made.switch.reset()
            await at(LAST_TURN + 3)
            assert sorted(one.wired for one in made.switch.world.ports.values()) == [0, 1]
            await at(LAST_TURN + 5)
            assert [one.wired for one in made.switch.world.ports.values()] == [1, 1]

    virtual(work)


@pytest.mark.parametrize("notices", [True, False])
def test_an_agent_that_starts_anew_wires_all_in_its_first_turns(notices: bool, virtual: Virtual) -> None:
    async def work() -> None:
        async with rig(notices=notices, **SERIAL) as made:
            await made.wired(port("a"), port("b"))
            await at(LAST_TURN + 1)
            await made.plugged(port("c"))
            waiting = asyncio.create_task(made.agent.wire(port("c")))
            removing = asyncio.create_task(made.agent.remove([port("b")]))
            await asyncio.sleep(0)
            made.done()
            await made.agent.restart()
            await at(LAST_TURN + 4)
            assert (await waiting).generation == 1
            await removing
            assert sorted(of for what, of, _ in log(made) if what == "wire") == ["a", "c"]
            assert {name: one.wired for name, one in made.switch.world.ports.items()} == {"a": 1, "c": 1}
            assert set(made.agent.levels) == {"a", "c"}

    virtual(work)


def test_at_its_start_it_wires_what_is_its_own_at_once(virtual: Virtual) -> None:
    async def work() -> None:
        world = World()
        async with rig(world=world, **SERIAL) as made:
            await made.wired(port("a"), port("b"), port("stranger"))
            await at(LAST_TURN)
        began = time.monotonic()
        async with rig(world=world, owned={name: port(name) for name in "ab"}, **SERIAL) as made:
            assert set(made.agent.levels) == {"a", "b"}
            assert time.monotonic() - began <= 2.0  # the stranger went in the first turn or the second
            assert set(world.ports) == {"a", "b"}

    virtual(work)


def test_turns_of_agents_that_start_together_begin_at_times_of_their_own() -> None:
    pauses = [serial_loop.first_pause(2.0) for _ in range(200)]
    assert min(pauses) < 0.2 and 1.8 < max(pauses) <= 2.0
