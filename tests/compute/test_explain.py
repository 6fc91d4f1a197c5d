"""Every statement that compute executes for a boot, its end, its questions and its hosts is served by an index, on a filled PostgreSQL.
The statements are recorded, not listed: new ones are looked at too."""

from __future__ import annotations

import time

import httpx
import msgspec
from sqlalchemy import text

from pileus.compute import actions, admission, beats, deletes, hosts, info_cache, leases, outcomes, reports, servers
from pileus.compute.api.face import face
from pileus.compute.leases import Taken
from pileus.compute.lifecycle import Failure
from pileus.compute.tables import actions as actions_table
from pileus.compute.tables import servers as servers_table
from pileus.context import SYSTEM
from pileus.http.face import Limits
from pileus.messages import GuestNow, HostBeat, HostReport, Observed, Progress
from pileus.settings import Database, Quota, Settings
from pileus.store import Tx
from pileus.store.postgresql import PostgresStore
from tests.compute import parts
from tests.compute.api.conftest import Api, authenticate
from tests.engines.explain import copies, read_whole, recorded
from tests.engines.postgresql import PostgresServer

BIG = ("compute_servers", "compute_actions")
"""Tables that grow with servers. The others grow with hosts, projects and flavors: few rows, which PostgreSQL rightly reads whole."""
LATER = 4e9


def _fill(tx: Tx) -> None:
    """Twenty thousand servers, most of them at rest, and a long queue."""
    gone = "case when i % 5 = 0 then i end"
    state = "case when i % 5 = 0 then 'deleted' else 'active' end"
    of = {"project_id": "'p' || i % 500", "updated_at": "i"}
    lives = {"name": "'n' || i", "host": "'h' || i % 400", "vm_state": state, "task_state": "null", "created_at": "i", "deleted_at": gone}
    lives["heal_at"] = f"{LATER} + i"
    copies(tx, servers_table, 20_000, id="'f' || i", **of, **lives)
    for kind, count, tag, due, finished in (
        ("done", 30_000, "i", "null", "i"),
        ("waiting", 2_000, "1000 + i", f"{LATER} + i", "null"),
        ("blocked", 2_000, "1000 + i", f"{LATER} + i", "null"),
        ("sent", 2_000, "i", f"{LATER} + i", "null"),
    ):
        ids = {"id": f"'{kind}' || i", "request_id": f"'{kind}' || i", "server_id": "'f' || i", "build_host": "'h' || i % 400"}
        times = {"due_at": due, "deadline": due, "started_at": "i", "finished_at": finished}
        copies(tx, actions_table, count, state=f"'{kind}'", tag=tag, **ids, **times, **of)
    tx.execute(text("analyze"))


def _let_in(tx: Tx) -> list[Taken]:
    """The first of the queue, which are the test's own."""
    leases.join(tx, "w")
    found = admission.admit(tx, "w", lease=60.0, limit=100_000, most=3, deadline=100.0, rates=True)
    assert found is not None and {server["name"] for _, server in found.batch} == {"mine"}
    return found.batch


def _worked(tx: Tx, taken: list[Taken]) -> None:
    """One create goes through, one finds no room, one is looked at again and fails."""
    (action, server), (other, waits), (third, fails) = taken
    booted = info_cache.booted(server, [], 1.0)
    outcomes.sent(tx, action, {**server, "host": "host1"}, {"state": "sent", "due_at": LATER}, builds_limit=10, booted=booted)
    leases.due_of(tx, server["id"], but="")
    assert outcomes.progress(tx, Progress(server["id"], "host1", 1, {}, "wired"))
    done = outcomes.take(tx, Observed(server["id"], "host1", 1, "running"))
    assert done is not None and done.failure is None
    outcomes.blocked(tx, other, waits, "full", 60.0)
    admission.unblock(tx, most=4, after=-1, limit=60.0)
    failure = Failure("claimed", "", "no")
    assert outcomes.unwinding(tx, third, failure)
    outcomes.failed(tx, third, failure, "local", fails)


def _healed(tx: Tx, server_id: str) -> None:
    """Caches go stale, are read, healed in turn of both kinds, and are put off."""
    settings = Settings().compute
    assert info_cache.stale(tx, [server_id, "f2", "gone"]) == {server_id: "host1", "f2": "h2"}
    assert info_cache.any_due(tx)
    reads = {read.server_id: read for read in info_cache.begin_due(tx, LATER, 100)}
    assert reads.keys() == {server_id, "f2"}
    info_cache.end(tx, [reads[server_id]], {})
    info_cache.put_off(tx, [reads["f2"]], LATER)
    for scope in ("all", "one"):
        healing = msgspec.structs.replace(settings, heal_scope=scope)
        assert info_cache.any_in_turn(tx, healing)
        assert info_cache.begin_in_turn(tx, healing, LATER, 10)
    info_cache.begin_anew(tx, ["h3", "h4"])
    info_cache.settle(tx, settings, 10)


def _deleted(tx: Tx, server_id: str) -> None:
    action_id = servers.act(tx, SYSTEM, server_id, "delete", limit=60.0)
    taken = leases.take(tx, action_id, "w", 60.0)
    assert taken is not None
    assert leases.take_server(tx, server_id, "w", 60.0) is None
    leases.free(tx, taken[1], but=action_id)
    begun = deletes.begin(tx, "w", 60.0, most=64, again_in=1.0)
    assert begun.told
    for action, server in begun.others:
        outcomes.deleted(tx, action, server)


def _looked(tx: Tx) -> None:
    """What is asked all the time, and what hosts tell."""
    leases.beat(tx, "w")
    leases.any_due(tx)
    admission.any_in_queue(tx)
    admission.before(tx, {"state": "waiting", "tag": 2000})
    leases.take_due(tx, "w", 60.0, deletes=False, most=64)
    actions.purge(tx, 1.0)
    actions.ask_again(tx, "h1")
    beats.hear(tx, [], [HostBeat("host1", 5, 3.0, 1)])
    beats.hearing(tx)
    beats.silent(tx, Settings().compute)
    beats.notice(tx, Settings().compute)
    reports.reconcile(tx, [HostReport("h1", {"f1": GuestNow(2, "running"), "stranger": GuestNow(1, "running")}, time.time())])
    hosts.guests_on(tx, ["h1", "h2"])


async def _questions(api: Api, server_id: str) -> None:
    await api.get(f"/servers/{server_id}")
    await api.get("/servers?limit=2")
    first = (await api.get("/servers/detail?limit=1"))["servers"][0]["id"]
    await api.get(f"/servers/detail?limit=1&marker={first}")
    await api.get("/servers/detail?name=mine&status=ACTIVE")
    await api.get("/servers/detail?changes-since=2020-01-01T00:00:00Z")
    await api.get("/servers/detail?all_tenants=1&host=h1&limit=5", token="admin")
    action = (await api.get(f"/servers/{server_id}/os-instance-actions"))["instanceActions"][0]
    await api.get(f"/servers/{server_id}/os-instance-actions/{action['request_id']}")


async def test_no_hot_statement_reads_a_big_table_whole(postgres: PostgresServer) -> None:
    store = await PostgresStore.open(Database(url=await postgres.fresh(), max_pool_size=1), role="test")
    unlimited = Quota(instances=-1, cores=-1, ram=-1)
    compute = parts.compute_with(store, Settings(quota=unlimited))
    narrow = parts.compute_with(store, Settings(quota=Quota(instances=-1, cores=-1, ram=-1, queued_creates=1000)))
    await parts.add_host(compute)
    await parts.add_flavor(compute)
    app = face(compute, authenticate, "http://pileus/identity", "http://pileus", Limits(max_limit=100))
    other = face(narrow, authenticate, "http://pileus/identity", "http://pileus", Limits(max_limit=100))
    try:
        async with (
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pileus") as session,
            httpx.AsyncClient(transport=httpx.ASGITransport(other), base_url="http://pileus") as counted,
        ):
            api = Api(session)
            mine = [await api.make(name="mine") for _ in range(3)]
            await store.write(_fill)
            with recorded() as seen:
                await api.make(name="more")
                await Api(counted).make(name="counted")
                await store.write(_worked, await store.write(_let_in))
                await _questions(api, mine[0])
                await store.write(_healed, mine[0])
                await store.write(_looked)
                assert (await api.call("DELETE", f"/servers/{mine[1]}")).status_code == 204
                await store.write(_deleted, mine[0])
        found = await store.write(read_whole, seen, BIG)
    finally:
        await compute.bus.close()
        await narrow.bus.close()
        await store.close()
    assert len(seen) > 60
    assert not found, "\n\n".join(found)
