"""`network.notify = once`: what is told is out of the outbox before it is sent, tried for about a second, and then lost and counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from structlog.testing import capture_logs

from pileus import metrics
from pileus.bus.inprocess import InProcessBus
from pileus.clients.compute import Delivery, ExternalEvent
from pileus.network import once, tables
from tests.engines.stores import AnyStore
from tests.network.test_rpc import Cloud, FakeCompute, drained, until


@pytest.fixture
def compute() -> FakeCompute:
    return FakeCompute()


@pytest.fixture
async def cloud(store: AnyStore, compute: FakeCompute, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cloud]:
    monkeypatch.setattr(once, "TRIED_FOR", 0.05)
    monkeypatch.setattr(once, "PAUSE", 0.01)
    bus = InProcessBus()
    made = Cloud(store, bus, compute, notify="once", notify_timeout=0.5)
    await made.service.start()
    yield made
    await made.service.close()
    await bus.close()


def dropped() -> float:
    return float(metrics.NETWORK_EVENTS_DROPPED._value.get())


async def test_what_is_taken_is_told_once(cloud: Cloud, compute: FakeCompute) -> None:
    before = dropped()
    port = await cloud.boot("s1")
    await cloud.say(port, "wired")
    await until(lambda: bool(compute.told))
    assert compute.told == [("network-vif-plugged", "completed", port.port_id)]
    assert await cloud.rows(tables.outbox) == []
    assert dropped() == before


async def test_a_short_fault_is_got_over(cloud: Cloud, compute: FakeCompute) -> None:
    compute.failures = 2
    before = dropped()
    await cloud.say(await cloud.boot("s1"), "wired")
    await until(lambda: bool(compute.told))
    assert compute.tries == 3
    assert dropped() == before


async def test_a_longer_one_loses_the_event_for_good_and_says_so(cloud: Cloud, compute: FakeCompute) -> None:
    compute.failures = 1000
    before = dropped()
    port = await cloud.boot("s1")
    with capture_logs() as logged:
        await cloud.say(port, "wired")
        await until(lambda: dropped() == before + 1)
    assert [(line["lost"], line["of"], line["cause"]) for line in logged if line["log_level"] == "warning"] == [(1, 1, "no answer")]
    compute.failures = 0
    assert await cloud.rows(tables.outbox) == []
    # The port is ACTIVE and nobody will ever hear of it again; the next port's event is told as if nothing had been.
    assert await cloud.status(port) == "ACTIVE"
    other = await cloud.boot("s2")
    await cloud.say(other, "wired")
    await until(lambda: bool(compute.told))
    assert [tag for _, _, tag in compute.told] == [other.port_id]


async def test_what_compute_does_not_know_is_not_tried_again(cloud: Cloud, compute: FakeCompute) -> None:
    before = dropped()
    compute.code = lambda event: 404
    await cloud.say(await cloud.boot("s1"), "wired")
    await until(lambda: dropped() == before + 1)
    await drained(cloud)
    assert compute.tries == 1


async def test_who_dies_while_sending_takes_it_along(store: AnyStore) -> None:
    class Hanging(FakeCompute):
        async def send(self, events: Sequence[ExternalEvent]) -> list[Delivery]:
            self.tries += 1
            await asyncio.Event().wait()
            raise AssertionError

    bus, compute, before = InProcessBus(), Hanging(), dropped()
    cloud = Cloud(store, bus, compute, notify="once")
    await cloud.service.start()
    port = await cloud.boot("s1")
    await cloud.say(port, "wired")
    await until(lambda: compute.tries == 1)
    assert await cloud.rows(tables.outbox) == []
    await cloud.service.close()
    assert dropped() == before + 1
    told = FakeCompute()
    cloud.service.notify_by(told)
    await cloud.service.start()
    other = await cloud.boot("s2")
    await cloud.say(other, "wired")
    await until(lambda: bool(told.told))
    assert [tag for _, _, tag in told.told] == [other.port_id]
    await cloud.service.close()
    await bus.close()


async def test_without_it_the_same_fault_loses_nothing(store: AnyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pileus.network.notifier.FIRST_RETRY", 0.001)
    bus, compute, before = InProcessBus(), FakeCompute(), dropped()
    cloud = Cloud(store, bus, compute)
    await cloud.service.start()
    compute.failures = 8
    port = await cloud.boot("s1")
    await cloud.say(port, "wired")
    await drained(cloud)
    assert [tag for _, _, tag in compute.told] == [port.port_id]
    assert dropped() == before
    await cloud.service.close()
    await bus.close()
