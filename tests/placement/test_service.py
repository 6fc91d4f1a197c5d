"""The client seam: what the scheduler and the hosts do with placement."""

from __future__ import annotations

import asyncio

import pytest

from pileus.clients.placement import Inventory, PlacementClient, ProviderPicture
from pileus.errors import BadRequest, Conflict
from pileus.placement.service import Placement

HOST = {"VCPU": Inventory(8, allocation_ratio=2.0), "MEMORY_MB": Inventory(4096, reserved=512), "DISK_GB": Inventory(100)}


async def claim(placement: PlacementClient, consumer: str, provider: str = "p1", **resources: int) -> bool:
    return await placement.claim(consumer, provider, resources, project_id="project", user_id="user")


async def picture_of(placement: PlacementClient, provider: str) -> ProviderPicture | None:
    return next((picture for picture in await placement.pictures() if picture.id == provider), None)


async def test_a_provider_is_pictured_with_its_capacity(placement: Placement) -> None:
    await placement.set_provider("p1", "host1", HOST)
    capacity = {"VCPU": 16, "MEMORY_MB": 3584, "DISK_GB": 100}
    assert await placement.pictures() == [ProviderPicture("p1", "host1", capacity, dict.fromkeys(capacity, 0))]


async def test_a_provider_without_inventory_is_pictured_empty(placement: Placement) -> None:
    await placement.set_provider("p1", "host1", {})
    assert await placement.pictures() == [ProviderPicture("p1", "host1", {}, {})]


async def test_claims_add_up_and_release_gives_back(placement: Placement) -> None:
    await placement.set_provider("p1", "host1", HOST)
    assert await claim(placement, "s1", VCPU=2, MEMORY_MB=1024, DISK_GB=0)
    assert await claim(placement, "s2", VCPU=1, MEMORY_MB=512, DISK_GB=10)
    picture = await picture_of(placement, "p1")
    assert picture and picture.used == {"VCPU": 3, "MEMORY_MB": 1536, "DISK_GB": 10}
    assert await placement.consumers() == {"s1", "s2"}
    assert [await placement.consumers(after=after, most=1) for after in ("", "s1", "s2")] == [{"s1"}, {"s2"}, set()]
    await placement.release("s1")
    await placement.release("s1")
    picture = await picture_of(placement, "p1")
    assert picture and picture.used == {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 10}
    assert await placement.consumers() == {"s2"}


async def test_what_does_not_fit_takes_nothing_at_all(placement: Placement) -> None:
    await placement.set_provider("p1", "host1", HOST)
    assert not await claim(placement, "s1", VCPU=1, MEMORY_MB=4000)
    picture = await picture_of(placement, "p1")
    assert picture and set(picture.used.values()) == {0}
    assert not await claim(placement, "s1", VCPU=1, VGPU=1)
    assert not await claim(placement, "s1", provider="gone", VCPU=1)
    assert await placement.consumers() == set()


async def test_the_same_claim_again_counts_as_won_even_on_a_full_provider(placement: Placement) -> None:
    await placement.set_provider("p1", "host1", {"VCPU": Inventory(2)})
    assert await claim(placement, "s1", VCPU=2)
    assert await claim(placement, "s1", VCPU=2)
    picture = await picture_of(placement, "p1")
    assert picture and picture.used == {"VCPU": 2}


async def test_a_claim_elsewhere_moves_or_stays(placement: Placement) -> None:
    await placement.set_provider("p1", "host1", {"VCPU": Inventory(2)})
    await placement.set_provider("p2", "host2", {"VCPU": Inventory(2)})
    assert await claim(placement, "s1", VCPU=2)
    assert await claim(placement, "s1", provider="p2", VCPU=2)
    assert [p.used["VCPU"] for p in await placement.pictures()] == [0, 2]
    assert await claim(placement, "s2", VCPU=2)
    assert not await claim(placement, "s2", provider="p2", VCPU=2)
    assert [p.used["VCPU"] for p in await placement.pictures()] == [2, 2]


async def test_many_at_once_never_exceed_the_inventory(placement: Placement) -> None:
    await placement.set_provider("p1", "host1", {"VCPU": Inventory(10), "MEMORY_MB": Inventory(64)})
    won = await asyncio.gather(*(claim(placement, f"s{i}", VCPU=1, MEMORY_MB=8) for i in range(40)))
    assert sum(won) == 8
    picture = await picture_of(placement, "p1")
    assert picture and picture.used == {"VCPU": 8, "MEMORY_MB": 64}


async def test_telling_a_host_again_keeps_its_usage(placement: Placement) -> None:
    await placement.set_provider("p1", "host1", HOST)
    assert await claim(placement, "s1", VCPU=2, DISK_GB=10)
    await placement.set_provider("p1", "renamed", {"VCPU": Inventory(1), "DISK_GB": Inventory(5)})
    picture = await picture_of(placement, "p1")
    assert picture == ProviderPicture("p1", "renamed", {"VCPU": 1, "DISK_GB": 5}, {"VCPU": 2, "DISK_GB": 10})
    assert not await claim(placement, "s2", VCPU=1)


async def test_a_class_that_a_host_lost_while_in_use_is_closed_until_given_back(placement: Placement) -> None:
    await placement.set_provider("p1", "host1", HOST)
    assert await claim(placement, "s1", DISK_GB=10)
    await placement.set_provider("p1", "host1", {"VCPU": Inventory(8)})
    picture = await picture_of(placement, "p1")
    assert picture and picture.capacity == {"VCPU": 8, "DISK_GB": 0} and picture.used["DISK_GB"] == 10
    await placement.release("s1")
    await placement.set_provider("p1", "host1", {"VCPU": Inventory(8)})
    picture = await picture_of(placement, "p1")
    assert picture and picture.capacity == {"VCPU": 8}


async def test_telling_the_same_writes_nothing(placement: Placement, monkeypatch: pytest.MonkeyPatch) -> None:
    await placement.set_provider("p1", "host1", HOST)

    async def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a write")

    monkeypatch.setattr(placement.store, "write", refuse)
    await placement.set_provider("p1", "host1", dict(HOST))


async def test_what_a_host_cannot_tell(placement: Placement) -> None:
    await placement.set_provider("p1", "host1", HOST)
    with pytest.raises(Conflict):
        await placement.set_provider("p2", "host1", HOST)
    with pytest.raises(BadRequest, match="reserved"):
        await placement.set_provider("p1", "host1", {"VCPU": Inventory(4, reserved=5)})
    with pytest.raises(BadRequest, match="CUSTOM_UNHEARD"):
        await placement.set_provider("p1", "host1", {"CUSTOM_UNHEARD": Inventory(4)})
