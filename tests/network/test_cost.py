"""`network.rpc_statements` counted: so many statements more for each port, each on its own, and none where it is 0."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from pileus.bus.inprocess import InProcessBus
from pileus.messages import DETAILS, LEVELS, DeviceDetails, DeviceDetailsRequest, DeviceLevels, PortLevel, PortWiring, Taken, from_host
from pileus.network import cost, levels
from pileus.store import Tx
from tests.engines.stores import AnyStore
from tests.network.test_rpc import Cloud, FakeCompute

PORTS = 3


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Statements that any transaction executes inside, each with the connection that it was executed on."""
    found: list[Any] = []
    execute = Tx.execute

    def noted(self: Tx, *args: Any, **kwargs: Any) -> Any:
        found.append(self)
        return execute(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Tx, "execute", noted)
        yield found


@asynccontextmanager
async def cloud(store: AnyStore, **more: Any) -> AsyncIterator[Cloud]:
    bus = InProcessBus()
    made = Cloud(store, bus, FakeCompute(), **more)
    await made.service.start()
    yield made
    await made.service.close()
    await bus.close()


async def boot(on: Cloud) -> None:
    """What an agent asks and reports of some ports of one turn."""
    ports = [await on.boot(f"s{n}") for n in range(PORTS)]
    await ask(on, ports)
    await tell(on, ports)


async def ask(on: Cloud, ports: list[PortWiring]) -> None:
    question = DeviceDetailsRequest("h1", [port.port_id for port in ports])
    answer = await on.bus.request(from_host("h1", DETAILS), question, DeviceDetails, timeout=5)
    assert sorted(each.port_id for each in answer.ports) == sorted(port.port_id for port in ports)


async def tell(on: Cloud, ports: list[PortWiring]) -> None:
    report = DeviceLevels("h1", [PortLevel(port.port_id, "h1", port.generation, "wired") for port in ports])
    assert await on.bus.request(from_host("h1", LEVELS), report, Taken, timeout=5) == Taken(PORTS)
    assert {await on.status(port) for port in ports} == {"ACTIVE"}


@pytest.mark.parametrize("statements", [137, 10, 1, 0])
async def test_a_port_costs_so_many_statements_more(store: AnyStore, monkeypatch: pytest.MonkeyPatch, statements: int) -> None:
    spent: list[int] = []
    spend = cost.spend

    def noted(tx: Tx, count: int, *args: Any) -> None:
        with counted(monkeypatch) as executed:
            spend(tx, count, *args)
        spent.append(sum(each is tx for each in executed))  # on the connection of the transaction that does the work

    monkeypatch.setattr(cost, "spend", noted)
    async with cloud(store, rpc_statements=statements) as on:
        await boot(on)
    assert sum(spent) == PORTS * statements
    # Each port of a call has transactions of its own, as in Neutron: one for the question, one for the report.
    assert len([each for each in spent if each]) == (0 if not statements else PORTS if statements == 1 else 2 * PORTS)


async def test_by_default_a_call_is_one_transaction(store: AnyStore) -> None:
    async with cloud(store) as on:
        ports = [await on.boot(f"s{n}") for n in range(PORTS)]
        begun = []
        read = on.store.read

        async def noted(fn: Any, *args: Any, **kwargs: Any) -> Any:
            begun.append(fn)
            return await read(fn, *args, **kwargs)

        on.store.read = noted  # type: ignore[assignment, method-assign]
        await ask(on, ports)
        del on.store.read
        assert begun == [levels.details]


async def test_as_many_requests_at_once_as_the_pool_has_threads(store: AnyStore) -> None:
    async with cloud(store, executor_thread_pool_size=2) as on:
        ports = [await on.boot(f"s{n}") for n in range(PORTS)]
        under_way, most = 0, 0
        read = on.store.read

        async def slow(fn: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.02)
            try:
                return await read(fn, *args, **kwargs)
            finally:
                under_way -= 1

        on.store.read = slow  # type: ignore[assignment, method-assign]
        await asyncio.gather(*[ask(on, ports) for _ in range(6)])
        del on.store.read
    assert most == 2
