"""Agents' questions and reports on the bus, and what reaches compute, whatever is lost, doubled or late."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from pileus.bus import NoAnswer
from pileus.bus.inprocess import InProcessBus
from pileus.clients.compute import Delivery, ExternalEvent
from pileus.clients.network import RequestedNic
from pileus.errors import Unavailable
from pileus.http.face import Limits
from pileus.messages import (
    AGENT,
    DETAILS,
    LEVELS,
    AgentFacts,
    DeviceDetails,
    DeviceDetailsRequest,
    DeviceLevels,
    PortLevel,
    PortWiring,
    Taken,
    from_host,
)
from pileus.network import levels, outbox, tables
from pileus.network.api.face import face
from pileus.network.service import Network
from pileus.settings import Network as NetworkSettings
from pileus.settings import Settings
from pileus.store.sql import Row, rows
from tests.engines.stores import AnyStore
from tests.network.conftest import ALICE, Client, authenticate
from tests.network.test_servers import make_network


class FakeCompute:
    """Keeps what it was told. `code` says what to answer, `failures` how many batches are lost first."""

    def __init__(self) -> None:
        self.batches: list[list[ExternalEvent]] = []
        self.failures = 0
        self.code: Callable[[ExternalEvent], int] = lambda event: 200
        self.tries = 0

    async def send(self, events: Sequence[ExternalEvent]) -> list[Delivery]:
        self.tries += 1
        if self.failures:
            self.failures -= 1
            raise Unavailable("no answer")
        self.batches.append(list(events))
        return [Delivery(event, self.code(event)) for event in events]

    async def close(self) -> None:
        """Nothing is held."""

    @property
    def told(self) -> list[tuple[str, str, str | None]]:
        return [(event.name, event.status, event.tag) for batch in self.batches for event in batch]


class Cloud:
    """A network service with a compute that listens, one network, and an agent's voice."""

    def __init__(self, store: AnyStore, bus: InProcessBus, compute: FakeCompute, **more: Any) -> None:
        self.store = store
        self.bus = bus
        self.compute = compute
        self.service = Network(store, bus, Settings(network=NetworkSettings(send_events_interval=0, **more)), notify=True)
        self.service.notify_by(compute)
        self.network_id = ""

    async def boot(self, server: str, *, host: str = "h1", key: str = "k1") -> PortWiring:
        if not self.network_id:
            network = await self.store.write(lambda tx: make_network(tx, self.service.config))
            self.network_id = network["id"]
        nic = RequestedNic(network_id=self.network_id)
        found = await self.service.client.allocate(ALICE, server, [nic], host=host, key=key, hostname=server, zone="nova")
        return found[0]

    async def say(self, port: PortWiring, level: Any, *, host: str = "h1", generation: int | None = None, cause: str = "") -> Taken:
        report = PortLevel(port.port_id, host, port.generation if generation is None else generation, level, cause)
        return await self.bus.request(from_host(host, LEVELS), DeviceLevels(host, [report]), Taken, timeout=5)

    async def rows(self, table: Any) -> list[Row]:
        return await self.store.read(lambda tx: rows(tx, select(table)))

    async def status(self, port: PortWiring) -> str:
        return next(str(row["status"]) for row in await self.rows(tables.ports) if row["id"] == port.port_id)


@pytest.fixture
def compute() -> FakeCompute:
    return FakeCompute()


@pytest.fixture
async def cloud(store: AnyStore, bus: InProcessBus, compute: FakeCompute) -> AsyncIterator[Cloud]:
    made = Cloud(store, bus, compute)
    await made.service.start()
    yield made
    await made.service.close()
    await bus.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def drained(cloud: Cloud) -> None:
    async with asyncio.timeout(20):
        while await cloud.rows(tables.outbox):
            await asyncio.sleep(0.005)


async def test_details_are_for_the_host_that_has_the_port(cloud: Cloud) -> None:
    port = await cloud.boot("s1")
    for host, ports in (("h1", [port]), ("h2", [])):
        question = DeviceDetailsRequest(host, [port.port_id, "x"])
        assert await cloud.bus.request(from_host(host, DETAILS), question, DeviceDetails, timeout=5) == DeviceDetails(ports)


async def test_levels_become_the_ports_status_and_an_event(cloud: Cloud, compute: FakeCompute) -> None:
    port = await cloud.boot("s1")
    for level, status in (("plugged", "BUILD"), ("wired", "ACTIVE"), ("plugged", "ACTIVE"), ("failed", "ERROR")):
        assert await cloud.say(port, level, cause="no such bridge") == Taken(1)
        assert await cloud.status(port) == status
        await drained(cloud)
    found = (await cloud.service.client.readiness([port.port_id], host="h1"))[0]
    assert (found.wired, found.failed, found.cause) == (0, 1, "no such bridge")
    await cloud.say(port, "wired")
    found = (await cloud.service.client.readiness([port.port_id], host="h1"))[0]
    assert (found.wired, found.failed, found.cause) == (1, 0, "")
    await drained(cloud)
    await cloud.say(port, "gone")
    assert await cloud.status(port) == "DOWN"
    await drained(cloud)
    assert compute.told == [
        ("network-vif-plugged", "completed", port.port_id),
        ("network-vif-plugged", "failed", port.port_id),
        ("network-vif-plugged", "completed", port.port_id),
        ("network-vif-unplugged", "completed", port.port_id),
    ]
    assert {event.server_id for batch in compute.batches for event in batch} == {"s1"}


async def test_stale_doubled_and_foreign_reports_change_nothing(cloud: Cloud, compute: FakeCompute) -> None:
    port = await cloud.boot("s1")
    await cloud.say(port, "wired", generation=0)
    await cloud.say(port, "wired", host="h2")
    await cloud.say(port, "wired", generation=2)
    foreign = DeviceLevels("h2", [PortLevel(port.port_id, "h1", 1, "wired")])
    await cloud.bus.request(from_host("h2", LEVELS), foreign, Taken, timeout=5)
    unknown = DeviceLevels("h1", [PortLevel("nowhere", "h1", 1, "wired")])
    await cloud.bus.request(from_host("h1", LEVELS), unknown, Taken, timeout=5)
    assert await cloud.status(port) == "DOWN"
    for _ in range(3):
        await cloud.say(port, "wired")
    await drained(cloud)
    assert len(compute.told) == 1
    again = await cloud.boot("s1", key="k2")
    assert again.generation == 2
    await cloud.say(port, "wired")
    assert await cloud.status(port) == "DOWN"
    await cloud.say(again, "wired")
    await drained(cloud)
    assert len(compute.told) == 2


async def test_a_batch_is_one_transaction(cloud: Cloud, compute: FakeCompute) -> None:
    ports = [await cloud.boot(f"s{i}") for i in range(20)]
    levels = [PortLevel(port.port_id, "h1", 1, level) for port in ports for level in ("plugged", "wired")]
    assert await cloud.bus.request(from_host("h1", LEVELS), DeviceLevels("h1", levels), Taken, timeout=5) == Taken(40)
    await drained(cloud)
    assert len(compute.batches) == 1
    assert len(compute.told) == 20


async def test_nothing_is_lost_when_compute_does_not_answer(cloud: Cloud, compute: FakeCompute) -> None:
    compute.failures = 3
    port = await cloud.boot("s1")
    await cloud.say(port, "wired")
    await until(lambda: bool(compute.told))
    await drained(cloud)
    assert compute.told == [("network-vif-plugged", "completed", port.port_id)]
    assert compute.tries == 4


async def test_an_event_outlives_the_service(store: AnyStore, compute: FakeCompute) -> None:
    bus = InProcessBus()
    cloud = Cloud(store, bus, compute)
    compute.failures = 1000
    await cloud.service.start()
    port = await cloud.boot("s1")
    await cloud.say(port, "wired")
    await until(lambda: compute.tries > 0)
    await cloud.service.close()
    assert compute.told == []
    assert len(await cloud.rows(tables.outbox)) == 1
    compute.failures = 0
    await cloud.service.start()
    await drained(cloud)
    await cloud.service.close()
    await bus.close()
    assert compute.told == [("network-vif-plugged", "completed", port.port_id)]


async def test_a_new_binding_and_the_end_overtake(cloud: Cloud, compute: FakeCompute) -> None:
    compute.failures = 1000
    one, two = await cloud.boot("s1"), await cloud.boot("s2")
    await cloud.say(one, "wired")
    await cloud.say(two, "wired")
    assert len(await cloud.rows(tables.outbox)) == 2
    await cloud.boot("s1", key="k2")
    await cloud.service.client.release("s2", keep=[])
    assert await cloud.rows(tables.outbox) == []


@pytest.mark.parametrize("code", [404, 422])
async def test_a_server_that_is_not_there_yet_is_tried_again(cloud: Cloud, compute: FakeCompute, code: int) -> None:
    compute.code = lambda event: code if len(compute.batches) < 3 else 200
    await cloud.say(await cloud.boot("s1"), "wired")
    await drained(cloud)
    assert len(compute.batches) == 3


async def test_a_refused_event_does_not_stop_the_others(cloud: Cloud, compute: FakeCompute) -> None:
    compute.code = lambda event: 400 if event.server_id == "s1" else 200
    ports = [await cloud.boot(f"s{i}") for i in range(3)]
    await cloud.bus.request(
        from_host("h1", LEVELS), DeviceLevels("h1", [PortLevel(p.port_id, "h1", 1, "wired") for p in ports]), Taken, timeout=5
    )
    await drained(cloud)
    assert len(compute.batches) == 1


async def test_a_server_that_never_comes_is_given_up(cloud: Cloud, compute: FakeCompute, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pileus.network.notifier.LAST_RETRY", 0.01)
    monkeypatch.setattr("pileus.network.notifier.FIRST_RETRY", 0.001)
    compute.code = lambda event: 404
    await cloud.say(await cloud.boot("s1"), "wired")
    await drained(cloud)
    assert len(compute.batches) == 20


async def test_events_are_gathered_after_the_first(store: AnyStore, compute: FakeCompute) -> None:
    bus = InProcessBus()
    settings = Settings(network=NetworkSettings(send_events_interval=0.3))
    cloud = Cloud(store, bus, compute)
    cloud.service = Network(store, bus, settings, notify=True)
    cloud.service.notify_by(compute)
    await cloud.service.start()
    ports = [await cloud.boot(f"s{i}") for i in range(6)]
    await cloud.say(ports[0], "wired")
    await until(lambda: len(compute.batches) == 1)
    for port in ports[1:]:
        await cloud.say(port, "wired")
    await drained(cloud)
    assert [len(batch) for batch in compute.batches] == [1, 5]
    await cloud.service.close()
    await bus.close()


async def test_a_slow_compute_is_cut_off(store: AnyStore) -> None:
    class Slow(FakeCompute):
        async def send(self, events: Sequence[ExternalEvent]) -> list[Delivery]:
            if self.tries == 0:
                self.tries += 1
                await asyncio.sleep(60)
            return await super().send(events)

    bus, compute = InProcessBus(), Slow()
    cloud = Cloud(store, bus, compute, notify_timeout=0.05)
    await cloud.service.start()
    await cloud.say(await cloud.boot("s1"), "wired")
    await drained(cloud)
    assert len(compute.told) == 1
    await cloud.service.close()
    await bus.close()


async def test_lost_doubled_and_late_messages_end_the_same(store: AnyStore, compute: FakeCompute) -> None:
    """Ten ports, each reported until taken; the bus loses a third and doubles a third, and the first answers of compute are lost."""
    chance = random.Random(7)
    bus = InProcessBus(fate=lambda subject, payload: chance.choice([(), (0.0,), (0.0, 0.01), (0.02,)]))
    cloud = Cloud(store, bus, compute)
    await cloud.service.start()
    real_send = compute.send
    calls = itertools.count()

    async def unreliable(events: Sequence[ExternalEvent]) -> list[Delivery]:
        answers = await real_send(events)
        if next(calls) < 8:
            raise Unavailable("taken, but the answer was lost")
        return answers

    compute.send = unreliable  # type: ignore[method-assign]

    async def report(port: PortWiring, level: Any) -> None:
        message = DeviceLevels("h1", [PortLevel(port.port_id, "h1", port.generation, level)])
        while True:
            try:
                await bus.request(from_host("h1", LEVELS), message, Taken, timeout=0.05)
                return
            except NoAnswer:
                continue

    ports = [await cloud.boot(f"s{i}") for i in range(10)]
    for level in ("plugged", "wired"):
        await asyncio.gather(*[report(port, level) for port in ports])
    await drained(cloud)
    assert {row["status"] for row in await cloud.rows(tables.ports)} == {"ACTIVE"}
    assert set(compute.told) == {("network-vif-plugged", "completed", port.port_id) for port in ports}
    await cloud.service.close()
    await bus.close()


async def test_a_port_that_another_compute_uses(cloud: Cloud, compute: FakeCompute) -> None:
    """Bound and deleted through the API, as a Nova of its own does: it is told of the end of what was wired, and of the deletion."""
    app = face(cloud.service, authenticate, "http://pileus/identity", "http://pileus", Limits())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pileus") as session:
        client = Client(session)
        network, _ = await client.network()
        made = await client.port(network, device_id="s9", device_owner="compute:nova", **{"binding:host_id": "h1"})
        path, port_id = f"/v2.0/ports/{made['id']}", made["id"]
        wired = DeviceLevels("h1", [PortLevel(port_id, "h1", 1, "wired")])
        await cloud.bus.request(from_host("h1", LEVELS), wired, Taken, timeout=5)
        assert (await client.get(path))["port"]["status"] == "ACTIVE"
        await drained(cloud)
        await client.put(path, {"port": {"admin_state_up": False}})
        assert (await client.get(path))["port"]["status"] == "DOWN"
        await client.put(path, {"port": {"binding:host_id": ""}})
        await drained(cloud)
        await client.put(path, {"port": {"binding:host_id": "h2", "admin_state_up": True}})
        await client.delete(path)
        await drained(cloud)
    assert [name for name, _, tag in compute.told if tag == port_id] == [
        "network-vif-plugged",
        "network-vif-unplugged",
        "network-vif-deleted",
    ]


@pytest.mark.parametrize("notify", [True, False])
async def test_changes_of_a_servers_port_are_told_whatever_the_plug_signal(
    store: AnyStore, bus: InProcessBus, compute: FakeCompute, notify: bool
) -> None:
    """Once each, and only what is another than before; a boot, a rebinding and a release are compute's own doing."""
    cloud = Cloud(store, bus, compute)
    cloud.service = Network(store, bus, Settings(network=NetworkSettings(send_events_interval=0)), notify=notify)
    cloud.service.notify_by(compute)
    await cloud.service.start()
    app = face(cloud.service, authenticate, "http://pileus/identity", "http://pileus", Limits())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pileus") as session:
        client = Client(session)
        port = await cloud.boot("s1")
        await cloud.boot("s1", key="k2")
        assert await cloud.rows(tables.outbox) == []
        path, before = f"/v2.0/ports/{port.port_id}", [{"subnet_id": ip.subnet_id, "ip_address": ip.address} for ip in port.fixed_ips]
        for change in ({"name": "n"}, {"fixed_ips": before}, {"admin_state_up": False}, {"description": "d"}):
            await client.put(path, {"port": change})
            assert await cloud.rows(tables.outbox) == []
        await client.put(path, {"port": {"fixed_ips": [{"subnet_id": before[0]["subnet_id"], "ip_address": "10.0.0.77"}]}})
        await drained(cloud)
        assert compute.told == [("network-changed", "completed", port.port_id)]
        assert compute.batches[0][0].server_id == "s1"
        await cloud.service.client.release("s1", keep=[])
        assert await cloud.rows(tables.outbox) == []
        network, _ = await client.network(cidr="10.7.0.0/24")
        theirs = await client.port(network, device_id="s2", device_owner="compute:nova")
        nobodys = await client.port(network)
        await client.put(f"/v2.0/ports/{nobodys['id']}", {"port": {"fixed_ips": []}})
        await client.delete(f"/v2.0/ports/{nobodys['id']}")
        await client.delete(f"/v2.0/ports/{theirs['id']}")
        await drained(cloud)
        assert compute.told[1:] == [("network-vif-deleted", "completed", theirs["id"])]
    await cloud.service.close()


async def test_a_change_and_a_level_of_one_port_do_not_overtake_each_other(store: AnyStore, bus: InProcessBus) -> None:
    cloud, compute = Cloud(store, bus, FakeCompute()), FakeCompute()
    (port,) = await noted(cloud, 1)
    row = next(row for row in await cloud.rows(tables.ports) if row["id"] == port.port_id)
    assert await store.write(outbox.put_change, row, outbox.CHANGED)
    assert await store.write(outbox.put_change, row, outbox.CHANGED)
    now = time.time()
    both = await taken(cloud, now, until=now + 50)
    assert sorted((row["kind"], row["name"]) for row in both) == [("change", "network-changed"), ("level", "network-vif-plugged")]
    level, change = sorted(both, key=lambda row: str(row["kind"]), reverse=True)
    await store.write(outbox.settle, [change], [(level, now)])  # of one lease, and each for itself
    assert [row["kind"] for row in await cloud.rows(tables.outbox)] == ["level"]
    await cloud.boot("s0", key="k2")  # bound anew: what was to be told of the first binding is overtaken
    assert await store.write(outbox.put_change, row, outbox.CHANGED)
    await cloud.boot("s0", key="k3")
    assert [row["kind"] for row in await cloud.rows(tables.outbox)] == ["change"]
    compute.code = lambda event: 404
    cloud.service.notify_by(compute)
    await cloud.service.start()
    await drained(cloud)
    assert compute.told == [("network-changed", "completed", port.port_id)]  # once: of a server that is gone nobody keeps anything
    await cloud.service.close()


async def test_with_the_local_signal_nothing_is_noted(store: AnyStore, bus: InProcessBus, compute: FakeCompute) -> None:
    cloud = Cloud(store, bus, compute)
    cloud.service = Network(store, bus, Settings(), notify=False)
    await cloud.service.start()
    port = await cloud.boot("s1")
    await cloud.say(port, "wired")
    assert await cloud.status(port) == "ACTIVE"
    assert await cloud.rows(tables.outbox) == []
    await cloud.service.close()
    await bus.close()


async def test_notifying_needs_somebody_to_notify(store: AnyStore, bus: InProcessBus) -> None:
    with pytest.raises(RuntimeError):
        await Network(store, bus, Settings(), notify=True).start()


async def test_heartbeats_keep_two_agents_a_host(cloud: Cloud) -> None:
    facts = AgentFacts("h1", network_types=["local"], started_at=5.0)
    for _ in range(3):
        await cloud.bus.publish(from_host(facts.host, AGENT), facts)
    async with asyncio.timeout(10):
        while len(found := await cloud.rows(tables.agents)) < 2:
            await asyncio.sleep(0.005)
    assert {row["agent_type"] for row in found} == {"Open vSwitch agent", "DHCP agent"}
    assert all(row["configurations"]["network_types"] == ["local"] for row in found)


async def taken(cloud: Cloud, now: float, *, until: float, most: int = 10) -> list[Row]:
    return await cloud.store.write(outbox.take, now, until, most)


async def noted(cloud: Cloud, count: int) -> list[PortWiring]:
    """Events of so many servers stand in the outbox. (The service does not run: nobody sends them.)"""
    ports = [await cloud.boot(f"s{i}") for i in range(count)]
    said = [PortLevel(port.port_id, "h1", 1, "wired") for port in ports]
    assert await cloud.store.write(levels.take, cloud.service.config, said)
    return ports


async def test_what_one_notifier_has_taken_the_others_leave_until_its_lease_is_over(store: AnyStore, bus: InProcessBus) -> None:
    cloud = Cloud(store, bus, FakeCompute())
    await noted(cloud, 5)
    now = time.time()
    one, two = await taken(cloud, now, until=now + 5, most=3), await taken(cloud, now, until=now + 5)
    assert (len(one), len(two)) == (3, 2)
    assert {row["port_id"] for row in one}.isdisjoint(row["port_id"] for row in two)
    assert await taken(cloud, now + 4, until=now + 9) == []
    assert await store.read(outbox.next_due) == pytest.approx(now + 5)
    again = await taken(cloud, now + 6, until=now + 11)  # both were killed
    assert len(again) == 5
    await store.write(outbox.settle, one, [(row, now) for row in two])  # and come back: it is theirs no more
    assert await taken(cloud, now + 6, until=now + 11) == []
    await store.write(outbox.settle, again, [])
    assert await cloud.rows(tables.outbox) == []


async def test_a_later_event_waits_until_the_earlier_one_was_sent(store: AnyStore, bus: InProcessBus) -> None:
    cloud = Cloud(store, bus, FakeCompute())
    (port,) = await noted(cloud, 1)
    now = time.time()
    sending = await taken(cloud, now, until=now + 50)
    await store.write(levels.take, cloud.service.config, [PortLevel(port.port_id, "h1", 1, "failed", "gone")])
    assert await taken(cloud, now + 1, until=now + 50) == []
    await store.write(outbox.settle, sending, [])
    later = await taken(cloud, time.time(), until=now + 50)
    assert [(row["name"], row["attempts"]) for row in later] == [("network-vif-failed", 0)]


async def test_two_notifiers_send_each_event_once(store: AnyStore, bus: InProcessBus, compute: FakeCompute) -> None:
    clouds = [Cloud(store, bus, compute), Cloud(store, bus, compute)]
    for cloud in clouds:
        await cloud.service.start()
    real_send = compute.send

    async def slow(events: Sequence[ExternalEvent]) -> list[Delivery]:
        await asyncio.sleep(0.01)
        return await real_send(events)

    compute.send = slow  # type: ignore[method-assign]
    ports = [await clouds[0].boot(f"s{i}") for i in range(30)]
    await asyncio.gather(*[clouds[0].say(port, "wired") for port in ports])
    await drained(clouds[0])
    assert sorted(compute.told) == sorted(("network-vif-plugged", "completed", port.port_id) for port in ports)
    for cloud in clouds:
        await cloud.service.close()


async def test_who_has_no_notifier_wakes_one_elsewhere(store: AnyStore, bus: InProcessBus, compute: FakeCompute) -> None:
    cloud, api = Cloud(store, bus, compute), Network(store, bus, Settings(), notify=True)
    await cloud.service.start()
    await drained(cloud)
    while cloud.service._notifier is None or cloud.service._notifier._some.is_set():
        await asyncio.sleep(0.005)
    ports = await noted(cloud, 1)
    await api.wake()
    await drained(cloud)  # in a moment, not when the notifier looks by itself (30 s)
    assert compute.told == [("network-vif-plugged", "completed", ports[0].port_id)]
    await cloud.service.close()
