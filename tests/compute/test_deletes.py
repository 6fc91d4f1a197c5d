"""Deletes begun in one transaction: who is told, who is computed, and that several workers begin different ones."""

from __future__ import annotations

import asyncio
import time

from sqlalchemy import update

from pileus.compute import actions, deletes, leases, servers
from pileus.compute.tables import servers as servers_table
from pileus.context import SYSTEM
from pileus.store import Tx
from tests.compute.test_admission import make
from tests.engines.stores import AnyStore


def _placed(tx: Tx, count: int) -> list[str]:
    """Servers on a host, and one on none, all of them to be deleted."""
    leases.join(tx, "w")
    ids = make(tx, "a", count + 1)
    tx.execute(update(servers_table).where(servers_table.c.id != ids[-1]).values(host="h1", lease_owner="", lease_until=0.0))
    for server_id in ids:
        servers.act(tx, SYSTEM, server_id, "delete", limit=60.0)
    return ids


def _begin(tx: Tx, most: int) -> deletes.Begun:
    return deletes.begin(tx, "w", 60.0, most=most, again_in=7.0)


async def test_a_server_on_a_host_waits_for_it_without_a_lease_and_one_on_none_is_computed(store: AnyStore) -> None:
    *placed, nowhere = await store.write(_placed, 2)
    begun = await store.write(_begin, 10)
    assert {server["id"]: server["host"] for _, server in begun.told} == dict.fromkeys(placed, "h1")
    assert [server["id"] for _, server in begun.others] == [nowhere]
    assert begun.others[0][1]["lease_owner"] == "w"
    for server_id in placed:
        action, server = await store.read(actions.open_of, server_id), await store.read(servers.by_id, server_id)
        assert action is not None and server is not None
        assert (action["state"], action["resends"], server["lease_owner"]) == ("sent", 1, "")
        assert action["stamps"].keys() == {"accepted", "queued", "sent"}
        assert 0 < action["due_at"] - time.time() <= 7.0
    assert await store.write(_begin, 10) == deletes.Begun([], [])


async def test_one_that_was_told_and_is_due_again_or_comes_too_late_is_computed(store: AnyStore) -> None:
    [asked, late, _] = await store.write(_placed, 2)

    def later(tx: Tx) -> None:
        first, second = actions.open_of(tx, asked), actions.open_of(tx, late)
        assert first is not None and second is not None
        assert actions.change(tx, first, state="sent", due_at=1.0)
        assert actions.change(tx, second, deadline=1.0)

    await store.write(later)
    begun = await store.write(_begin, 10)
    assert (begun.told, {server["id"] for _, server in begun.others} >= {asked, late}) == ([], True)


async def test_several_workers_begin_different_ones(store: AnyStore) -> None:
    ids = await store.write(_placed, 12)
    found = await asyncio.gather(*(store.write(_begin, 3) for _ in range(6)))
    told = [server["id"] for begun in found for _, server in begun.told]
    assert len(told) == len(set(told)) and set(told) <= set(ids)
    assert len(told) + sum(len(begun.others) for begun in found) >= 12
