"""What every store must hold to. (PostgreSQL joins when it comes.)"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, Table, func, select, update

from pileus.store import Tx
from pileus.store.paging import Page, fetch
from pileus.store.schema import Json, metadata, text, uid
from pileus.store.sql import first, insert_new, rows, upsert
from pileus.store.sqlite import SqliteStore

things = Table(
    "test_things",
    metadata,
    uid("id", primary_key=True),
    Column("size", Integer, nullable=False),
    text("colour"),
    Column("notes", Json),
)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore.open(tmp_path / "pileus.db")
    yield opened
    await opened.close()


def add(tx: Tx, name: str, size: int, colour: str = "red") -> bool:
    return insert_new(tx, things, {"id": name, "size": size, "colour": colour, "notes": {"a": [1, 2]}})


def count(tx: Tx) -> int:
    return int(tx.execute(select(func.count()).select_from(things)).scalar_one())


async def test_what_is_written_is_read(store: SqliteStore) -> None:
    assert await store.write(add, "a", 1)
    row = await store.read(lambda tx: first(tx, select(things)))
    assert row == {"id": "a", "size": 1, "colour": "red", "notes": {"a": [1, 2]}}


async def test_a_transaction_that_raises_leaves_nothing_and_its_neighbours_stay(store: SqliteStore) -> None:
    def bad(tx: Tx) -> None:
        add(tx, "bad", 1)
        raise ValueError("no")

    outcomes = await asyncio.gather(
        *[store.write(add, f"t{n}", n) for n in range(20)], store.write(bad), store.write(add, "last", 1), return_exceptions=True
    )
    assert isinstance(outcomes[20], ValueError)
    assert await store.read(count) == 21


async def test_writers_do_not_lose_updates(store: SqliteStore) -> None:
    await store.write(add, "n", 0)

    def bump(tx: Tx) -> None:
        tx.execute(update(things).where(things.c.id == "n").values(size=things.c.size + 1))

    await asyncio.gather(*[store.write(bump) for _ in range(200)])
    row = await store.read(lambda tx: first(tx, select(things.c.size)))
    assert row == {"size": 200}


async def test_cancelling_the_caller_does_not_cut_a_transaction(store: SqliteStore) -> None:
    tasks = [asyncio.create_task(store.write(add, f"c{n}", n)) for n in range(50)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await store.write(count) in range(51)
    assert await store.write(add, "after", 1)


async def test_a_reader_does_not_wait_for_a_writer(store: SqliteStore) -> None:
    import threading

    release = threading.Event()

    def slow(tx: Tx) -> None:
        add(tx, "slow", 1)
        release.wait(10)

    writing = asyncio.create_task(store.write(slow))
    assert await store.read(count) == 0
    release.set()
    await writing
    assert await store.read(count) == 1


async def test_insert_new_and_upsert(store: SqliteStore) -> None:
    assert await store.write(add, "a", 1)
    assert not await store.write(add, "a", 2)
    await store.write(upsert, things, {"id": "a"}, {"size": 3})
    await store.write(upsert, things, {"id": "b"}, {"size": 4})
    found = await store.read(rows, select(things.c.id, things.c.size).order_by(things.c.id))
    assert found == [{"id": "a", "size": 3}, {"id": "b", "size": 4}]


@pytest.mark.parametrize("reverse", [False, True])
async def test_pages_meet(store: SqliteStore, reverse: bool) -> None:
    def fill(tx: Tx) -> None:
        for n in range(25):
            add(tx, f"{n:02d}", n % 3, "red" if n % 2 else "blue")

    await store.write(fill)
    sortable = {"size": things.c.size, "colour": things.c.colour}

    async def page(marker: str | None) -> list[str]:
        wanted = Page(4, marker, (("size", "desc"), ("colour", "asc")), reverse)
        found = await store.read(fetch, select(things), wanted, id_column=things.c.id, sortable=sortable)
        return [row["id"] for row in found]

    everything = await store.read(
        fetch, select(things), Page(None, None, (("size", "desc"), ("colour", "asc"))), id_column=things.c.id, sortable=sortable
    )
    seen: list[str] = []
    marker: str | None = None
    while part := await page(marker):
        seen = [*part, *seen] if reverse else [*seen, *part]
        marker = part[0] if reverse else part[-1]
    assert seen == [row["id"] for row in everything]
    assert len(seen) == 25
