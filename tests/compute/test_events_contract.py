"""Compute as the network service tells it of ports: one contract, in process and over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from pileus.clients.compute import ComputeEvents, Delivery, ExternalEvent
from pileus.clients.rest import Rest
from pileus.clients.tokens import OwnTokens
from pileus.compute.api.face import face
from pileus.compute.client import InProcessEvents
from pileus.compute.service import Compute
from pileus.http.face import Limits
from pileus.messages import HostEvent, event_subject
from pileus.network.compute_http import HttpComputeEvents
from tests.compute import parts
from tests.compute.api.conftest import Api, api, authenticate, compute
from tests.compute.parts import NOWHERE, PORT

__all__ = ["api", "compute"]


async def service_token() -> str:
    return "service"


@pytest.fixture(params=["in process", "http"])
async def events(request: pytest.FixtureRequest, compute: Compute) -> AsyncIterator[ComputeEvents]:
    made: ComputeEvents = InProcessEvents(compute.store, compute.bus)
    if request.param == "http":
        app = face(compute, authenticate, "http://pileus/identity", "http://pileus", Limits())
        transport = httpx.ASGITransport(app)
        made = HttpComputeEvents(Rest("http://pileus/v2.1", OwnTokens(service_token), name="compute", limit=10, transport=transport))
    yield made
    await made.close()


def plugged(server_id: str, status: str = "completed") -> ExternalEvent:
    return ExternalEvent("network-vif-plugged", server_id, status, PORT)


async def test_each_event_has_its_answer_and_the_good_ones_arrive(events: ComputeEvents, api: Api, compute: Compute) -> None:
    good, homeless = await api.make(), await api.make()
    await parts.run(compute, good)
    heard: asyncio.Queue[HostEvent] = asyncio.Queue()
    subscription = compute.bus.subscribe(event_subject("host1"), HostEvent, heard.put)
    told = [plugged(NOWHERE), plugged(good), plugged(homeless), ExternalEvent("network-changed", good, tag=PORT)]
    assert await events.send(told) == [Delivery(event, code) for event, code in zip(told, (404, 200, 422, 200), strict=True)]
    async with asyncio.timeout(5):
        assert await heard.get() == HostEvent(good, "network-vif-plugged", "completed", PORT)
    await events.send([plugged(good, "failed")])
    async with asyncio.timeout(5):
        assert await heard.get() == HostEvent(good, "network-vif-plugged", "failed", PORT)
    assert await events.send([]) == []
    await subscription.close()
