"""Tickets: for one image, for a while, from whichever process of the image service."""

from __future__ import annotations

import os
import time

import httpx
import pytest

from pileus.errors import Unauthorized
from pileus.image import tickets
from pileus.image.service import Images
from pileus.image.tables import ticket_keys
from pileus.image.tickets import HEADER, Tickets
from pileus.store.sql import rows
from pileus.store.sqlite import SqliteStore
from tests.image.conftest import OWNER, chunks
from tests.image.test_api import make

DATA = os.urandom(300_000)


async def fetch(client: httpx.AsyncClient, image_id: str, ticket: str, **headers: str) -> httpx.Response:
    """Without a token."""
    request = httpx.Request("GET", f"http://pileus/v2/images/{image_id}/file", headers={HEADER: ticket, **headers})
    return await client.send(request)


@pytest.fixture
async def image_id(client: httpx.AsyncClient, images: Images) -> str:
    made = await make(client)
    await images.upload(OWNER, made, chunks(DATA), None)
    return made


async def test_a_ticket_lets_exactly_its_image_out(client: httpx.AsyncClient, images: Images, image_id: str) -> None:
    other = await make(client)
    await images.upload(OWNER, other, chunks(b"other"), None)
    ticket = await images.ticket(image_id)
    assert (await fetch(client, image_id, ticket)).content == DATA
    part = await fetch(client, image_id, ticket, Range="bytes=299990-")
    assert (part.status_code, part.content) == (206, DATA[299990:])
    refused = await fetch(client, other, ticket)
    assert refused.status_code == 401 and b"other" not in refused.content
    # It is for the data alone.
    details = await client.send(httpx.Request("GET", f"http://pileus/v2/images/{image_id}", headers={HEADER: ticket}))
    assert details.status_code == 401


@pytest.mark.parametrize("ticket", ["", "x", "1.2", "1.2.3.4", "a.b.c", "1.-2.c", "9" * 300, "1.2.é"])
async def test_what_is_no_ticket(images: Images, image_id: str, ticket: str) -> None:
    with pytest.raises(Unauthorized):
        await images.tickets.check(ticket, image_id)


async def test_no_ticket_can_be_made_from_another(images: Images, image_id: str) -> None:
    number, expires, signature = (await images.ticket(image_id)).split(".")
    for forged in (
        f"{number}.{int(expires) + 1}.{signature}",
        f"{int(number) + 1}.{expires}.{signature}",
        f"{number}.{expires}.",
        f"{number}.{expires}.é",
    ):
        with pytest.raises(Unauthorized):
            await images.tickets.check(forged, image_id)


async def test_processes_share_keys(store: SqliteStore) -> None:
    one, two, three = (Tickets(store, 60.0) for _ in range(3))
    await three.check(await one.issue("image"), "image")
    await one.check(await two.issue("image"), "image")
    assert len(await store.read(rows, ticket_keys.select())) == 1


async def test_it_ends_and_keys_change(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper, now = Tickets(store, 60.0), (time.time() // tickets.PERIOD + 1) * tickets.PERIOD - 1.0
    monkeypatch.setattr("pileus.image.tickets.time.time", lambda: now)
    ticket = await keeper.issue("image")
    now += 30  # of the next period
    fresh = Tickets(store, 60.0)
    assert (await fresh.issue("image")).split(".")[0] != ticket.split(".")[0]
    for each in (keeper, fresh):
        await each.check(ticket, "image")
    now += 31
    with pytest.raises(Unauthorized, match="expired"):
        await fresh.check(ticket, "image")
    now += 2 * tickets.PERIOD
    await fresh.issue("image")
    assert len(await store.read(rows, ticket_keys.select())) == 1  # nobody needs the older ones
    with pytest.raises(Unauthorized):
        await fresh.check(ticket, "image")
