"""What every store must hold to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Column, Integer, MetaData, Table, func, insert, select, update
from sqlalchemy import text as sql
from sqlalchemy.exc import IntegrityError

from pileus.settings import Database, Settings
from pileus.store import Store, Tx, one_statement
from pileus.store.opening import open_store
from pileus.store.paging import Page, fetch
from pileus.store.schema import Json, text, uid
from pileus.store.sql import first, insert_new, rows, upsert
from tests.engines.postgresql import PostgresServer

things = Table(
    "test_things",
    MetaData(),
    uid("id", primary_key=True),
    Column("size", Integer, nullable=False),
    text("colour"),
    Column("notes", Json),
)


class Engine:
    """An open store, and a way to stop its transactions in the middle: `hold` waits in one until `release`."""

    def __init__(self, store: Store, hold: Callable[[Tx], object], release: Callable[[], Any]) -> None:
        self.store = store
        self.hold = hold
        self.release = release


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    if request.param == "sqlite":
        opened = await open_store(Settings(state=str(tmp_path)), role="test")
        event = threading.Event()
        engine = Engine(opened, lambda _: event.wait(10), event.set)
        await opened.write(things.create)
        yield engine
        await opened.close()
        return
    postgres: PostgresServer = request.getfixturevalue("postgres")
    url = await postgres.fresh()
    opened = await open_store(Settings(database=Database(url=url)), role="test")
    gate = await asyncpg.connect(url)
    await gate.execute("SELECT pg_advisory_lock(1)")
    engine = Engine(opened, lambda tx: tx.execute(sql("SELECT pg_advisory_xact_lock_shared(1)")), lambda: asyncio.create_task(gate.close()))
    await opened.write(things.create)
    yield engine
    await opened.close()
    await gate.close()


@pytest.fixture
def store(engine: Engine) -> Store:
    return engine.store


def add(tx: Tx, name: str, size: int, colour: str = "red") -> bool:
    return insert_new(tx, things, {"id": name, "size": size, "colour": colour, "notes": {"a": [1, 2]}})


def count(tx: Tx) -> int:
    return int(tx.execute(select(func.count()).select_from(things)).scalar_one())


async def test_what_is_written_is_read(store: Store) -> None:
    assert await store.write(add, "a", 1)
    row = await store.read(lambda tx: first(tx, select(things)))
    assert row == {"id": "a", "size": 1, "colour": "red", "notes": {"a": [1, 2]}}


async def test_a_transaction_that_raises_leaves_nothing_and_its_neighbours_stay(store: Store) -> None:
    def bad(tx: Tx) -> None:
        add(tx, "bad", 1)
        raise ValueError("no")

    outcomes = await asyncio.gather(
        *[store.write(add, f"t{n}", n) for n in range(20)], store.write(bad), store.write(add, "last", 1), return_exceptions=True
    )
    assert isinstance(outcomes[20], ValueError)
    assert await store.read(count) == 21


async def test_writers_do_not_lose_updates(store: Store) -> None:
    await store.write(add, "n", 0)

    def bump(tx: Tx) -> None:
        tx.execute(update(things).where(things.c.id == "n").values(size=things.c.size + 1))

    await asyncio.gather(*[store.write(bump) for _ in range(200)])
    row = await store.read(lambda tx: first(tx, select(things.c.size)))
    assert row == {"size": 200}


async def test_cancelling_the_caller_does_not_cut_a_transaction(store: Store) -> None:
    tasks = [asyncio.create_task(store.write(add, f"c{n}", n)) for n in range(50)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await store.write(count) in range(51)
    assert await store.write(add, "after", 1)


async def test_a_reader_does_not_wait_for_a_writer(engine: Engine) -> None:
    store = engine.store

    def slow(tx: Tx) -> None:
        add(tx, "slow", 1)
        engine.hold(tx)

    writing = asyncio.create_task(store.write(slow))
    assert await store.read(count) == 0
    engine.release()
    await writing
    assert await store.read(count) == 1


async def test_a_reader_sees_one_snapshot(engine: Engine) -> None:
    def twice(tx: Tx) -> tuple[int, int]:
        before = count(tx)
        engine.hold(tx)
        return before, count(tx)

    reading = asyncio.create_task(engine.store.read(twice))
    await asyncio.sleep(0.05)  # should it not be in the middle yet, it sees all or nothing just as well
    await engine.store.write(add, "a", 1)
    engine.release()
    before, after = await reading
    assert before == after


async def test_one_statement_is_a_snapshot_by_itself(store: Store) -> None:
    @one_statement
    def alone(tx: Tx) -> int:
        return count(tx)

    await store.write(add, "a", 1)
    assert await store.read(alone) == 1


async def test_an_error_of_the_database_is_the_callers_and_the_store_goes_on(store: Store) -> None:
    def twice(tx: Tx) -> None:
        for size in (11223344, 55667788):
            tx.execute(insert(things).values(id="a", size=size))

    with pytest.raises(IntegrityError) as error:
        await store.write(twice)
    assert "55667788" not in str(error.value)  # the words of an error stand in logs, what is written may be a secret
    assert await store.read(count) == 0
    assert await store.write(add, "a", 1)


async def test_one_is_inside_at_a_time(store: Store) -> None:
    inside: list[str] = []

    async def enter(name: str, wait: float) -> None:
        async with store.exclusive(name):
            assert name not in inside
            inside.append(name)
            await asyncio.sleep(wait)
            assert await store.write(count) == 0  # a transaction has nothing to do with it
            inside.remove(name)

    await asyncio.gather(*[enter("a", 0.01) for _ in range(5)], enter("b", 0.02))
    with pytest.raises(ValueError, match="out"):
        async with store.exclusive("a"):
            raise ValueError("out")
    async with store.exclusive("a"):
        assert inside == []


async def test_a_closed_store_finishes_what_it_was_asked(store: Store) -> None:
    asked = [asyncio.create_task(store.write(add, f"t{n}", n)) for n in range(30)]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*asked) == [True] * 30


async def test_insert_new_and_upsert(store: Store) -> None:
    assert await store.write(add, "a", 1)
    assert not await store.write(add, "a", 2)
    await store.write(upsert, things, {"id": "a"}, {"size": 3})
    await store.write(upsert, things, {"id": "b"}, {"size": 4})
    found = await store.read(rows, select(things.c.id, things.c.size).order_by(things.c.id))
    assert found == [{"id": "a", "size": 3}, {"id": "b", "size": 4}]


@pytest.mark.parametrize("reverse", [False, True])
async def test_pages_meet(store: Store, reverse: bool) -> None:
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
