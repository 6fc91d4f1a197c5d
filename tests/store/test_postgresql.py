"""What PostgreSQL's store alone must hold to: connections, cancellation, retries, a server that dies, and the checks at start."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count as count_from
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from pileus.errors import BadRequest, StartupError, Unavailable
from pileus.settings import Database
from pileus.store import Tx, postgresql, postgresql_check
from pileus.store.postgresql import PostgresStore
from pileus.store.sql import first
from tests.engines.postgresql import PostgresServer

things = Table("test_things", MetaData(), Column("id", Integer, primary_key=True), Column("size", BigInteger), Column("name", Text))
Open = Callable[..., Awaitable[PostgresStore]]


@pytest.fixture
async def open_store(postgres_url: str) -> AsyncIterator[Open]:
    async with contextlib.AsyncExitStack() as stack:

        async def make(**settings: Any) -> PostgresStore:
            store = await PostgresStore.open(Database(**{"url": postgres_url, **settings}), role="test")
            stack.push_async_callback(store.close)
            return store

        first_store = await make()
        await first_store.write(things.create)
        await first_store.close()
        yield make


@pytest.fixture
async def gate(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Transactions that call `wait` wait until this connection is closed."""
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("SELECT pg_advisory_lock(1)")
    yield connection
    await connection.close()


def wait(tx: Tx) -> None:
    tx.execute(text("SELECT pg_advisory_xact_lock_shared(1)"))


def add(tx: Tx, *numbers: int) -> None:
    for number in numbers:
        tx.execute(insert(things).values(id=number, size=0))


def count(tx: Tx) -> int:
    return int(tx.execute(select(func.count()).select_from(things)).scalar_one())


def sessions(tx: Tx, state: str = "%") -> int:
    found = tx.execute(
        text(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE 'pileus test%' AND state LIKE :s"
        ),
        {"s": state},
    )
    return int(found.scalar_one())


def sample(name: str, **labels: str) -> float:
    from prometheus_client import REGISTRY

    return REGISTRY.get_sample_value(name, labels) or 0.0


async def in_use(number: int) -> None:
    async with asyncio.timeout(5):
        while sample("pileus_db_connections_in_use") != number:
            await asyncio.sleep(0.002)


async def test_connections_are_opened_when_needed_and_never_too_many(open_store: Open) -> None:
    store = await open_store(max_pool_size=3)
    for _ in range(5):
        assert await store.read(sessions) == 1
    await asyncio.gather(*[store.write(add, n) for n in range(60)])
    assert await store.read(sessions) == 3
    assert await store.read(count) == 60
    assert sample("pileus_db_pool_size") == 3


async def test_cancelled_callers_leave_whole_transactions_and_free_connections(open_store: Open) -> None:
    store = await open_store(max_pool_size=4)
    rolls = random.Random(7)

    async def ask(n: int) -> None:
        if n % 3:
            await store.write(add, 2 * n, 2 * n + 1)
        else:
            await store.read(lambda tx: (count(tx), count(tx)))

    done = 0
    for start in range(0, 400, 40):
        tasks = [asyncio.create_task(ask(n)) for n in range(start, start + 40)]
        for task in tasks:
            asyncio.get_running_loop().call_later(rolls.uniform(0, 0.06), task.cancel)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(one) for one in outcomes} <= {type(None), asyncio.CancelledError}
        done += sum(one is None and n % 3 > 0 for n, one in enumerate(outcomes, start))
    together = await store.read(lambda tx: list(tx.execute(select(things.c.id).order_by(things.c.id)).scalars()))
    assert together[::2] == [n - 1 for n in together[1::2]], "a transaction was cut in half"
    assert len(together) >= 2 * done
    assert await store.write(sessions, "idle in transaction%") == 0
    assert await store.read(sessions) <= 4
    await in_use(0)
    assert sample("pileus_db_waiting") == 0


async def test_the_wait_for_a_connection_is_limited_named_and_counted(open_store: Open, gate: asyncpg.Connection) -> None:
    store = await open_store(max_pool_size=2, pool_timeout=0.1)
    held = [asyncio.create_task(store.write(wait)) for _ in range(2)]
    await in_use(2)
    before = sample("pileus_db_wait_timeouts_total"), sample("pileus_db_wait_seconds_count")
    with pytest.raises(
        Unavailable, match=r"no database connection was free within 0\.1 s \(database\.pool_timeout\): all 2 .*max_pool_size"
    ):
        await store.write(add, 1)
    assert (sample("pileus_db_wait_timeouts_total"), sample("pileus_db_wait_seconds_count")) >= (before[0] + 1, before[1] + 1)
    late = asyncio.create_task(store.write(add, 2))
    await gate.close()
    await asyncio.gather(*held, late)
    assert await store.read(lambda tx: list(tx.execute(select(things.c.id)).scalars())) == [2]


async def test_deadlocks_are_tried_again(open_store: Open, postgres: PostgresServer, postgres_url: str) -> None:
    await postgres.execute(f"ALTER DATABASE {postgres_url.rpartition('/')[2]} SET deadlock_timeout = '5ms'")
    store = await open_store()
    await store.write(add, 1, 2)
    before = sample("pileus_db_retries_total", why="collided")

    def cross(tx: Tx, one: int, other: int) -> None:
        for number in (one, other):
            tx.execute(update(things).where(things.c.id == number).values(size=things.c.size + 1))
            tx.execute(text("SELECT pg_sleep(0.002)"))

    await asyncio.gather(*[store.write(cross, *((1, 2) if n % 2 else (2, 1))) for n in range(24)])
    assert await store.read(lambda tx: list(tx.execute(select(things.c.size)).scalars())) == [24, 24]
    assert sample("pileus_db_retries_total", why="collided") > before


async def test_a_connection_lost_while_idle_is_nobodys_error(open_store: Open, postgres: PostgresServer) -> None:
    store = await open_store()
    await store.write(add, 1)
    await postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pileus test%'")
    assert await store.read(first, select(things.c.id)) == {"id": 1}
    await postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pileus test%'")
    await store.write(add, 2)
    assert await store.read(count) == 2


async def test_a_connection_lost_before_the_commit_is_tried_again(open_store: Open) -> None:
    store = await open_store()
    tries: list[int] = []

    def dies(tx: Tx) -> None:
        add(tx, 1)
        tries.append(1)
        if len(tries) < 3:
            tx.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    await store.write(dies)
    assert len(tries) == 3
    assert await store.read(count) == 1


async def test_a_connection_lost_in_the_commit_is_told(open_store: Open) -> None:
    store = await open_store()

    def arm(tx: Tx) -> None:
        tx.execute(
            text(
                "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql "
                "AS 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'"
            )
        )
        tx.execute(
            text(
                "CREATE CONSTRAINT TRIGGER t AFTER INSERT ON test_things DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die()"
            )
        )

    await store.write(arm)
    tries: list[int] = []

    def once(tx: Tx) -> None:
        tries.append(1)
        add(tx, 1)

    with pytest.raises(Unavailable, match=r"lost while a change was being committed .*look whether it was made"):
        await store.write(once)
    assert tries == [1]
    assert await store.read(count) == 0


async def test_killed_and_started_again_in_the_middle() -> None:
    with PostgresServer() as server:
        store = await PostgresStore.open(Database(url=await server.fresh(), max_pool_size=4), role="test")
        await store.write(things.create)
        told: list[int] = []
        unknown: list[int] = []
        stop = asyncio.Event()

        async def work(worker: int) -> None:
            number = worker
            while not stop.is_set():
                number += 8
                try:
                    await store.write(add, number)
                    told.append(number)
                    assert await store.read(lambda tx: (count(tx), count(tx)))
                except Unavailable as error:
                    assert "look whether it was made" in str(error)
                    unknown.append(number)

        working = [asyncio.create_task(work(n)) for n in range(8)]
        for _ in range(3):
            seen = len(told)
            while len(told) < seen + 40:
                await asyncio.sleep(0.005)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        seen = len(told)
        while len(told) < seen + 40:
            await asyncio.sleep(0.005)
        stop.set()
        await asyncio.gather(*working)
        there = set(await store.read(lambda tx: list(tx.execute(select(things.c.id)).scalars())))
        assert set(told) <= there <= set(told) | set(unknown)
        await store.close()


async def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with PostgresServer() as server:
        store = await PostgresStore.open(Database(url=await server.fresh()), role="test")
        await store.write(things.create)
        monkeypatch.setattr(postgresql, "LIMIT", 0.2)
        server.pause()
        outcomes = await asyncio.gather(store.write(add, 1), store.read(count), return_exceptions=True)
        assert [str(one) for one in outcomes] == ["the database did not answer within 0 s; try again"] * 2
        server.resume()
        monkeypatch.undo()
        assert await store.read(count) in (0, 1)
        await store.close()


async def test_an_error_that_is_passed_over_does_not_pass_for_a_commit(open_store: Open) -> None:
    store = await open_store()

    def careless(tx: Tx) -> None:
        add(tx, 1)
        with contextlib.suppress(DBAPIError):
            add(tx, 1)

    with pytest.raises(RuntimeError, match="nothing of it was kept"):
        await store.write(careless)
    assert await store.read(count) == 0


@pytest.mark.parametrize("values", [{"id": 1, "name": "a\0b"}, {"id": 1, "size": 1 << 70}, {"id": 1 << 40}])
async def test_what_cannot_be_stored_is_the_askers_error(open_store: Open, values: dict[str, Any]) -> None:
    store = await open_store()
    with pytest.raises(BadRequest, match=r"cannot be stored|too large"):
        await store.write(lambda tx: tx.execute(insert(things).values(**values)))
    assert await store.read(count) == 0


async def test_one_statement_needs_no_begin(open_store: Open) -> None:
    store = await open_store()
    ask = text("SELECT current_setting('transaction_isolation') AS level, current_setting('transaction_read_only') AS only")
    assert await store.read(first, ask) == {"level": "read committed", "only": "off"}
    assert await store.read(lambda tx: first(tx, ask)) == {"level": "repeatable read", "only": "on"}


async def test_a_named_lock_goes_with_its_process(open_store: Open, postgres: PostgresServer, postgres_url: str) -> None:
    one, other = await open_store(), await open_store()
    order: list[str] = []

    async def second() -> None:
        async with other.exclusive("x"):
            order.append("second")

    async with one.exclusive("x"):
        with pytest.raises(Unavailable, match="another Pileus process has been busy with 'x'"):
            async with other.exclusive("x", limit=0.05):
                pass
        waiting = asyncio.create_task(second())
        await postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE locktype = 'advisory' AND granted AND application_name = 'pileus lock x'"
        )
        await waiting
        order.append("first")
    assert order == ["second", "first"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://pileus@127.0.0.1:1/x", r"the database server at 127\.0\.0\.1:1/x does not answer: Connection refused; start it"),
        ("postgresql://secretive:wrong@127.0.0.1:{port}/postgres", "password authentication failed for user .*; correct user or password"),
        ("postgresql://nobody@127.0.0.1:{port}/postgres", 'role "nobody" does not exist'),
        ("postgresql://pileus@127.0.0.1:{port}/nowhere", 'database "nowhere" does not exist; make it .*`pileus db upgrade`'),
        ("postgresql://pileus@127.0.0.1:{port}/postgres", "has no schema yet: run `pileus db upgrade`"),
        ("postgresql://pileus:geheim@127.0.0.1:{port}/postgres?sslmode=perhaps", "setting database.url is not understood"),
    ],
)
async def test_what_is_wrong_at_the_start_is_one_line(postgres: PostgresServer, url: str, words: str) -> None:
    with pytest.raises(StartupError, match=words) as caught:
        await PostgresStore.open(Database(url=url.format(port=postgres.port)), role="test")
    assert "\n" not in str(caught.value)
    assert "wrong" not in str(caught.value)
    assert "geheim" not in str(caught.value)


async def test_an_old_server_is_refused(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql_check, "OLDEST", 99)
    with pytest.raises(StartupError, match=r"is PostgreSQL \d+; Pileus needs 99 or newer"):
        await PostgresStore.open(Database(url=postgres_url), role="test")


async def test_the_pools_of_all_processes_fit_into_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    pid = count_from(1000)

    async def start(url: str, size: int, role: str, processes: int = 1, parent: int = 0) -> PostgresStore:
        """As a process of its own."""
        own = next(pid)
        monkeypatch.setattr(postgresql_check, "os", SimpleNamespace(getpid=lambda: own, getppid=lambda: parent))
        return await PostgresStore.open(Database(url=url, max_pool_size=size), role=role, processes=processes)

    with PostgresServer(settings={"max_connections": "30"}) as server:
        url = await server.fresh()
        api = await start(url, 20, "api")
        with pytest.raises(StartupError, match=r"could open 32 .*: 1 × 12 here .* 20 in 1 other processes, but the server has 27 .*lower"):
            await start(url, 12, "worker")
        worker = await start(url, 7, "worker")
        with pytest.raises(StartupError, match=r"could open 28 .*: 1 × 1 here .* 27 in 2 other processes"):
            await start(url, 1, "worker")
        await worker.close()
        await api.close()
        with pytest.raises(StartupError, match=r"could open 28 .*: 4 × 7 here"):
            await start(url, 7, "api", processes=4, parent=10)
        # Each of one parent's processes knows how many they are: they are not counted twice.
        family = [await start(url, 9, "api", processes=3, parent=10) for _ in range(3)]
        with pytest.raises(StartupError, match=r"could open 28 .*: 1 × 1 here .* 27 in 3 other processes"):
            await start(url, 1, "worker")
        for store in family:
            await store.close()
