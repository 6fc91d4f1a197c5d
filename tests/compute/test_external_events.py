"""POST /os-server-external-events: each answer code, and who hears of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import select

from pileus.compute.service import Compute
from pileus.compute.tables import servers
from pileus.messages import ACTIONS, ActionHint, HostEvent, event_subject
from pileus.store.sql import rows
from tests.compute import parts
from tests.compute.api.conftest import Api, api, compute
from tests.compute.parts import NOWHERE, PORT

__all__ = ["api", "compute"]

PATH = "/os-server-external-events"


def event(server_id: str, name: str = "network-vif-plugged", **more: Any) -> dict[str, Any]:
    return {"name": name, "server_uuid": server_id, **more}


async def send(api: Api, *events: dict[str, Any], version: str = "2.96", token: str = "service") -> tuple[int, list[dict[str, Any]]]:
    answer = await api.call("POST", PATH, version, {"events": list(events)}, token)
    return answer.status_code, answer.json()["events"]


async def test_the_host_hears_of_it(api: Api, compute: Compute) -> None:
    server_id = await api.make()
    await parts.run(compute, server_id)
    heard: asyncio.Queue[HostEvent] = asyncio.Queue()
    subscription = compute.bus.subscribe(event_subject("host1"), HostEvent, heard.put)
    status, answers = await send(api, event(server_id, tag=PORT), event(server_id, "network-vif-unplugged"))
    assert status == 200
    assert answers == [
        event(server_id, tag=PORT, status="completed", code=200),
        event(server_id, "network-vif-unplugged", status="completed", code=200),
    ]
    found = [await asyncio.wait_for(heard.get(), 5) for _ in range(2)]
    assert found == [
        HostEvent(server_id, "network-vif-plugged", "completed", PORT),
        HostEvent(server_id, "network-vif-unplugged", "completed", ""),
    ]
    await send(api, event(server_id, tag=PORT, status="failed"))
    assert await asyncio.wait_for(heard.get(), 5) == HostEvent(server_id, "network-vif-plugged", "failed", PORT)
    await subscription.close()


async def test_each_code_and_the_good_ones_are_delivered(api: Api, compute: Compute) -> None:
    good, homeless = await api.make(), await api.make()
    await parts.run(compute, good)
    heard: asyncio.Queue[HostEvent] = asyncio.Queue()
    subscription = compute.bus.subscribe(event_subject("host1"), HostEvent, heard.put)
    status, answers = await send(
        api,
        event(NOWHERE, tag=PORT),
        event(homeless, tag=PORT),
        event(good, "volume-extended"),
        event(homeless, "power-update"),
        event(good, "volume-reimaged"),
        event(good, tag=PORT),
    )
    assert status == 207
    assert [(answer["code"], answer["status"]) for answer in answers] == [
        (404, "failed"),
        (422, "failed"),
        (400, "failed"),
        (400, "failed"),
        (200, "completed"),
        (200, "completed"),
    ]
    assert {(await asyncio.wait_for(heard.get(), 5)).name for _ in range(2)} == {"volume-reimaged", "network-vif-plugged"}
    await subscription.close()


@pytest.mark.parametrize("name", ["network-changed", "network-vif-deleted"])
async def test_what_makes_a_cache_stale_is_written_down_for_a_worker_and_the_host_is_left_alone(
    api: Api, compute: Compute, name: str
) -> None:
    lives, builds, other = await api.make(), await api.make(), await api.make()
    await parts.run(compute, lives)
    heard: list[HostEvent] = []

    async def hear(said: HostEvent) -> None:
        heard.append(said)

    hints: asyncio.Queue[ActionHint] = asyncio.Queue()
    subscriptions = [compute.bus.subscribe(event_subject("host1"), HostEvent, hear), compute.bus.subscribe(ACTIONS, ActionHint, hints.put)]
    status, answers = await send(api, event(lives, name, tag=PORT), event(builds, name), event(NOWHERE, name))
    assert (status, [answer["code"] for answer in answers]) == (207, [200, 422, 404])
    assert (await asyncio.wait_for(hints.get(), 5)).stale
    found = {row["id"]: row for row in await compute.store.read(rows, select(servers))}
    asked = {server_id: (row["addresses_asked"], row["refresh_at"] is not None) for server_id, row in found.items()}
    assert asked == {lives: (1, True), builds: (1, True), other: (0, False)}
    await send(api, event(lives, tag=PORT))
    async with asyncio.timeout(5):
        while not heard:
            await asyncio.sleep(0.005)
    assert [said.name for said in heard] == ["network-vif-plugged"]
    for subscription in subscriptions:
        await subscription.close()


async def test_a_deleted_server_is_unknown(api: Api, compute: Compute) -> None:
    server_id = await api.make()
    await parts.run(compute, server_id)
    await parts.set_row(compute, server_id, deleted_at=1.0)
    status, answers = await send(api, event(server_id))
    assert (status, answers[0]["code"]) == (207, 404)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"events": []},
        {"events": None},
        {"events": [{}]},
        {"events": [event(NOWHERE)], "more": 1},
        {"events": [event(NOWHERE, more=1)]},
        {"events": [event("no-uuid")]},
        {"events": [event(NOWHERE, "network-vif-lost")]},
        {"events": [event(NOWHERE, status="perhaps")]},
        {"events": [event(NOWHERE, tag="x" * 256)]},
        {"events": [event(NOWHERE, tag=None)]},
        {"events": [{"name": "network-changed"}]},
    ],
)
async def test_refused_bodies(api: Api, body: Any) -> None:
    await api.refused(400, "POST", PATH, body, token="service")


async def test_who_may(api: Api) -> None:
    body = {"events": [event(NOWHERE)]}
    await api.refused(403, "POST", PATH, body)
    assert (await api.call("POST", PATH, body=body, token="admin")).status_code == 207


@pytest.mark.parametrize(
    ("name", "before", "since"),
    [
        ("volume-extended", "2.50", "2.51"),
        ("power-update", "2.75", "2.76"),
        ("accelerator-request-bound", "2.81", "2.82"),
        ("volume-reimaged", "2.92", "2.93"),
    ],
)
async def test_names_by_microversion(api: Api, name: str, before: str, since: str) -> None:
    body = {"events": [event(NOWHERE, name, tag="x")]}
    await api.refused(400, "POST", PATH, body, before, "service")
    assert (await api.call("POST", PATH, since, body, "service")).status_code == 207
