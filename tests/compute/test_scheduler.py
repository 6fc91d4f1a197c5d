"""Choosing hosts: every reason not to, the atomic claim under contention, the exact search at the end."""

from __future__ import annotations

import asyncio
import random

import pytest

from pileus.compute import beats, hosts
from pileus.compute.scheduler import HostPicture, NoValidHost, Request, Scheduler, objection, room
from pileus.messages import HostFacts
from pileus.placement.service import Placement
from pileus.settings import Compute
from pileus.store.sqlite import SqliteStore

SETTINGS = Compute(reserved_host_memory_mb=0, cpu_allocation_ratio=1.0)


def facts(name: str, *, vcpus: int = 4, memory_mb: int = 1024, zone: str = "nova", physical: list[str] | None = None) -> HostFacts:
    return HostFacts(name, "simulated", 1, vcpus, memory_mb, 100, {}, "simulated", "", "127.0.0.1", zone, physical or [])


async def scheduler(store: SqliteStore, *found: HostFacts) -> Scheduler:
    placement = Placement(store)
    for each in found:
        heard = await store.write(beats.hear, [each], [])
        [(row, _)] = heard.offers
        await placement.set_provider(row["id"], each.host, hosts.inventories(each, SETTINGS))
    return Scheduler(store, placement, SETTINGS, random.Random(1))


async def claim(chooser: Scheduler, consumer: str, **wanted: object) -> str:
    request = Request(resources={"VCPU": 1, "MEMORY_MB": 128}, **wanted)  # type: ignore[arg-type]
    return await chooser.claim(consumer, request, project_id="p", user_id="u")


async def test_a_storm_fills_every_host_and_never_more(store: SqliteStore) -> None:
    chooser = await scheduler(store, *[facts(f"h{n}") for n in range(5)])
    outcomes = await asyncio.gather(*[claim(chooser, f"c{n}") for n in range(30)], return_exceptions=True)
    won = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert len(won) == 20
    assert all(won.count(f"h{n}") == 4 for n in range(5))
    assert all(isinstance(outcome, NoValidHost) for outcome in outcomes if not isinstance(outcome, str))


async def test_the_reasons_are_counted(store: SqliteStore) -> None:
    chooser = await scheduler(store, facts("small", memory_mb=64), facts("elsewhere", zone="west"))
    with pytest.raises(NoValidHost) as caught:
        await claim(chooser, "c", zone="nova")
    assert "No valid host was found." in str(caught.value)
    assert "1 out of MEMORY_MB" in str(caught.value)
    assert "1 in another availability zone" in str(caught.value)


async def test_a_host_that_has_not_said_yet_what_it_has_may_do_later(store: SqliteStore) -> None:
    """A worker that is killed when it has just heard of a new host leaves it without inventory until the host is asked again."""
    chooser = await scheduler(store, facts("small", memory_mb=64))
    with pytest.raises(NoValidHost) as never:
        await claim(chooser, "c")
    await store.write(lambda tx: beats.hear(tx, [facts("new")], []))
    with pytest.raises(NoValidHost) as caught:
        await claim(chooser, "c")
    assert (never.value.never, caught.value.never) == (True, False)


async def test_a_network_that_lives_on_one_host(store: SqliteStore) -> None:
    chooser = await scheduler(store, *[facts(f"h{n}") for n in range(6)])
    assert {await claim(chooser, f"c{n}", host="h3") for n in range(4)} == {"h3"}
    with pytest.raises(NoValidHost):
        await claim(chooser, "c9", host="h3")


async def test_the_same_consumer_again_is_the_same_claim(store: SqliteStore) -> None:
    chooser = await scheduler(store, facts("h0"))
    for _ in range(3):
        assert await claim(chooser, "c") == "h0"
    [picture] = await chooser.placement.pictures()
    assert picture.used["VCPU"] == 1


async def test_what_is_given_back_can_be_had_again(store: SqliteStore) -> None:
    chooser = await scheduler(store, facts("h0", vcpus=1))
    await claim(chooser, "a")
    with pytest.raises(NoValidHost):
        await claim(chooser, "b")
    await chooser.placement.release("a")
    assert await claim(chooser, "b") == "h0"


def picture(**changes: object) -> HostPicture:
    values = {
        "name": "h",
        "provider_id": "p",
        "zone": "nova",
        "enabled": True,
        "up": True,
        "physical_networks": frozenset({"phys"}),
        "network_types": frozenset({"geneve"}),
        "capacity": {"VCPU": 4},
        "used": {"VCPU": 2},
    }
    return HostPicture(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "request_", "why"),
    [
        (picture(), Request({"VCPU": 2}), None),
        (picture(), Request({"VCPU": 3}), "out of VCPU"),
        (picture(up=False), Request({"VCPU": 1}), "down"),
        (picture(enabled=False), Request({"VCPU": 1}), "disabled"),
        (picture(enabled=False), Request({"VCPU": 1}, host="h", forced=True), None),
        (picture(), Request({"VCPU": 1}, zone="west"), "in another availability zone"),
        (picture(), Request({"VCPU": 1}, host="other"), "other than the one needed"),
        (picture(), Request({"VCPU": 1}, tried={"h"}), "tried before"),
        (picture(), Request({"VCPU": 1}, physical_networks=frozenset({"x"})), "without the physical network"),
        (picture(), Request({"VCPU": 1}, network_types=frozenset({"geneve"})), None),
        (picture(), Request({"VCPU": 1}, network_types=frozenset({"vxlan"})), "without tunnels (vxlan)"),
    ],
)
def test_objections(host: HostPicture, request_: Request, why: str | None) -> None:
    assert objection(host, request_) == why


def test_room_is_what_is_left_of_the_scarcest() -> None:
    assert room(
        picture(capacity={"VCPU": 4, "MEMORY_MB": 100}, used={"VCPU": 0, "MEMORY_MB": 80}), {"VCPU": 1, "MEMORY_MB": 10}
    ) == pytest.approx(0.1)
