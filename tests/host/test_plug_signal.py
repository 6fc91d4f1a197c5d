"""One contract for both plug signals: ready exactly when every port is wired at its generation, and never without a reason."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Protocol

import pytest

from pileus import settings
from pileus.bus.inprocess import InProcessBus
from pileus.host import plug_signal
from pileus.host.agent import Agent
from pileus.host.dhcp import SimulatedDhcp
from pileus.host.network_side import Beside
from pileus.host.plug_signal import CallbackSignal, LocalSignal, PlugFailed, PlugSignal
from pileus.host.switch.simulated import SimulatedSwitch
from pileus.messages import READINESS, HostEvent, PortWiring, Readiness, ReadinessRequest, from_hosts

SERVER = "server"


def port(name: str, generation: int = 1) -> PortWiring:
    return PortWiring(name, generation, "net", "local", None, None, 1500, "fa:16:3e:00:00:01", [], [])


class Bench(Protocol):
    """A signal, and the means to make its ports ready or not."""

    signal: PlugSignal

    async def wired(self, port: PortWiring) -> None: ...

    async def fails(self, port: PortWiring) -> None: ...

    def delay(self) -> None:
        """Let the ports take for ever from now on."""


class Local:
    def __init__(self, bus: InProcessBus) -> None:
        self.switch = SimulatedSwitch(settings.Simulated())
        self.agent = Agent("host", self.switch, SimulatedDhcp(), bus, settings.Network(), notices=False)
        self.signal: PlugSignal = LocalSignal(Beside(self.agent, self.switch))

    async def wired(self, port: PortWiring) -> None:
        await self.switch.open_tap(port.port_id, port.mtu)
        await self.switch.plug(port)

    async def fails(self, port: PortWiring) -> None:
        await self.wired(port)
        self.switch.fail_next("wire", "flow table is full")

    def delay(self) -> None:
        self.switch._settings = settings.Simulated(wire=60.0)


class Callback:
    reread = True

    def __init__(self, bus: InProcessBus) -> None:
        self.callback = CallbackSignal("h1", bus, question_limit=1.0, reread=self.reread)
        self.signal: PlugSignal = self.callback

    async def wired(self, port: PortWiring) -> None:
        await self.callback.event(HostEvent(SERVER, "network-vif-plugged", "completed", port.port_id))

    async def fails(self, port: PortWiring) -> None:
        await self.callback.event(HostEvent(SERVER, "network-vif-failed", "failed", port.port_id))

    def delay(self) -> None:
        pass


class Story(Callback):
    """As Nova: events alone."""

    reread = False


@pytest.fixture
async def bus() -> AsyncIterator[InProcessBus]:
    made = InProcessBus()
    yield made
    await made.close()


@pytest.fixture(params=[Local, Callback, Story])
def bench(request: pytest.FixtureRequest, bus: InProcessBus) -> Bench:
    made: Bench = request.param(bus)
    return made


async def test_ready_when_all_are_wired(bench: Bench) -> None:
    ports = [port("a"), port("b")]
    before = time.time()
    bench.signal.expect(SERVER, ports)
    for each in ports:
        await bench.wired(each)
    stamps = await bench.signal.ready(SERVER, ports, 5)
    assert before <= stamps["signalled"] <= time.time()


async def test_no_ports_are_ready(bench: Bench) -> None:
    bench.signal.expect(SERVER, [])
    assert await bench.signal.ready(SERVER, [], 5) == {}


async def test_a_failure_is_told_at_once(bench: Bench) -> None:
    bench.signal.expect(SERVER, [port("a")])
    await bench.fails(port("a"))
    with pytest.raises(PlugFailed) as caught:
        await bench.signal.ready(SERVER, [port("a")], 5)
    assert caught.value.step in ("wired", "signalled")
    assert caught.value.cause


async def test_the_limit(bench: Bench) -> None:
    bench.delay()
    bench.signal.expect(SERVER, [port("a")])
    if isinstance(bench, Local):
        await bench.wired(port("a"))
    with pytest.raises(TimeoutError):
        await bench.signal.ready(SERVER, [port("a")], 0.05)


async def test_cancelling_the_wait_is_clean(bench: Bench) -> None:
    bench.delay()
    bench.signal.expect(SERVER, [port("a")])
    if isinstance(bench, Local):
        await bench.wired(port("a"))
    waiting = asyncio.create_task(bench.signal.ready(SERVER, [port("a")], 60))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    bench.signal.forget(SERVER)


async def test_callback_reads_the_level_again_before_giving_up(bus: InProcessBus) -> None:
    asked: list[list[str]] = []

    async def answer(request: ReadinessRequest) -> Readiness:
        asked.append(request.port_ids)
        return Readiness({"a": 3}, {})

    bus.serve(from_hosts(READINESS), ReadinessRequest, answer)
    signal = CallbackSignal("h1", bus, question_limit=1.0)
    signal.expect(SERVER, [port("a", 3)])
    assert "signalled" in await signal.ready(SERVER, [port("a", 3)], 0.05)
    assert asked == [["a"]]
    signal.expect(SERVER, [port("a", 4)])
    with pytest.raises(TimeoutError):
        await signal.ready(SERVER, [port("a", 4)], 0.05)


async def test_callback_finds_a_failure_whose_event_was_lost(bus: InProcessBus, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(request: ReadinessRequest) -> Readiness:
        return Readiness({}, {"a": 3})

    monkeypatch.setattr(plug_signal, "FIRST_LOOK", 0.02)
    bus.serve(from_hosts(READINESS), ReadinessRequest, answer)
    signal = CallbackSignal("h1", bus, question_limit=1.0)
    with pytest.raises(PlugFailed, match="port a could not be wired"):
        await signal.ready(SERVER, [port("a", 3)], 60)
    with pytest.raises(TimeoutError):
        await signal.ready(SERVER, [port("a", 4)], 0.05)  # that failure is an older binding's


async def test_callback_events_of_others_are_not_taken() -> None:
    signal = CallbackSignal("h1", InProcessBus(), question_limit=0.1)
    signal.expect(SERVER, [port("a")])
    for event in (
        HostEvent("other", "network-vif-plugged", "completed", "a"),
        HostEvent(SERVER, "network-vif-plugged", "completed", "other"),
        HostEvent(SERVER, "network-changed", "completed", "a"),
    ):
        await signal.event(event)
    with pytest.raises(TimeoutError):
        await signal.ready(SERVER, [port("a")], 0.05)


@pytest.mark.parametrize("word", [("network-vif-plugged", "completed"), ("network-vif-failed", "failed")])
async def test_callback_a_word_about_an_older_binding_is_not_believed(bus: InProcessBus, word: tuple[str, str]) -> None:
    wired = {"a": 1}

    async def answer(request: ReadinessRequest) -> Readiness:
        return Readiness(dict(wired), {"a": 1})

    bus.serve(from_hosts(READINESS), ReadinessRequest, answer)
    signal = CallbackSignal("h1", bus, question_limit=1.0)
    signal.expect(SERVER, [port("a", 2)])
    await signal.event(HostEvent(SERVER, word[0], word[1], "a"))
    waiting = asyncio.create_task(signal.ready(SERVER, [port("a", 2)], 5))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    wired["a"] = 2
    await signal.event(HostEvent(SERVER, "network-vif-plugged", "completed", "a"))
    assert "signalled" in await waiting


async def test_callback_looks_again_when_words_may_have_been_lost(bus: InProcessBus) -> None:
    wired: dict[str, int] = {}

    async def answer(request: ReadinessRequest) -> Readiness:
        return Readiness(dict(wired), {})

    bus.serve(from_hosts(READINESS), ReadinessRequest, answer)
    signal = CallbackSignal("h1", bus, question_limit=1.0)
    signal.expect(SERVER, [port("a")])
    waiting = asyncio.create_task(signal.ready(SERVER, [port("a")], 60))
    await asyncio.sleep(0)
    signal.look_again()
    await asyncio.sleep(0.01)
    assert not waiting.done()
    wired["a"] = 1
    signal.look_again()
    async with asyncio.timeout(plug_signal.FIRST_LOOK / 2):
        assert "signalled" in await waiting


async def test_callback_without_reading_again_believes_events_alone(bus: InProcessBus, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    async def answer(request: ReadinessRequest) -> Readiness:
        asked.append(request.port_ids)
        return Readiness({"a": 1}, {})

    monkeypatch.setattr(plug_signal, "FIRST_LOOK", 0.01)
    bus.serve(from_hosts(READINESS), ReadinessRequest, answer)
    signal = CallbackSignal("h1", bus, question_limit=1.0, reread=False)
    signal.expect(SERVER, [port("a")])
    waiting = asyncio.create_task(signal.ready(SERVER, [port("a")], 0.1))
    await asyncio.sleep(0)
    signal.look_again()  # words may have been lost: nobody cares
    with pytest.raises(TimeoutError):
        await waiting  # though the port is ready
    signal.expect(SERVER, [port("a", 7)])
    await signal.event(HostEvent(SERVER, "network-vif-plugged", "completed", "a"))  # of an older binding, perhaps: it is believed
    assert "signalled" in await signal.ready(SERVER, [port("a", 7)], 5)
    signal.expect(SERVER, [port("a")])
    await signal.event(HostEvent(SERVER, "network-vif-plugged", "failed", "a"))
    with pytest.raises(PlugFailed, match="port a could not be wired"):
        await signal.ready(SERVER, [port("a")], 5)
    assert asked == []
