from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest

from pileus import settings
from pileus.cli import bars
from pileus.compute import actions, creation, outcomes, servers
from pileus.compute.creation import Creation, NewServer
from pileus.compute.lifecycle import Failure
from pileus.compute.service import Compute
from pileus.context import Context
from pileus.errors import Unauthorized
from pileus.http.face import Limits
from pileus.messages import Observed
from pileus.operator_api import face
from pileus.settings import Settings
from pileus.store import Tx
from pileus.store.sqlite import SqliteStore

FLAVOR = {"id": "1", "name": "m1.nano", "ram": 128, "vcpus": 1, "disk": 0, "ephemeral": 0, "swap": 0, "extra_specs": {}}
READER = frozenset({"reader"})
CALLERS = {
    "admin": Context("u0", project_id="p0", roles=frozenset({"admin", "member", "reader"})),
    "one": Context("u1", project_id="p1", roles=READER),
    "two": Context("u2", project_id="p2", roles=READER),
    "unscoped": Context("u1"),
}


async def authenticate(token: str) -> Context:
    if token not in CALLERS:
        raise Unauthorized("no such token")
    return CALLERS[token]


@pytest.fixture
def told() -> Settings:
    return Settings()


@pytest.fixture
async def http(store: SqliteStore, told: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The face on a database of its own; of compute it needs store and settings only."""
    nothing = cast(Any, None)
    compute = Compute(store, nothing, told, nothing, nothing, nothing)
    app = face(compute, authenticate, "http://cloud.test/identity", "http://cloud.test", Limits())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cloud.test") as client:
        yield client


async def make(store: SqliteStore, name: str, project: str = "p1") -> tuple[str, str]:
    """A server with its create action: both ids."""
    context = Context("u1", project_id=project, roles=READER)
    [made] = await store.write(creation.create, Settings(), Creation(context, NewServer(name, FLAVOR, [])), limit=60.0)
    action = await store.read(actions.open_of, made["id"])
    assert action is not None
    return made["id"], action["id"]


async def ask(http: httpx.AsyncClient, path: str, token: str = "one") -> httpx.Response:
    return await http.get(path, headers={"X-Auth-Token": token})


def timeline(ref: str) -> str:
    return f"/v1/servers/{ref}/timeline"


async def test_a_timeline_by_id_and_by_name(http: httpx.AsyncClient, store: SqliteStore) -> None:
    server_id, _ = await make(store, "web/1 ü")
    by_id = await ask(http, timeline(server_id))
    by_name = await ask(http, timeline("web%2F1%20%C3%BC"))
    assert by_id.status_code == by_name.status_code == 200
    assert by_id.json()["server"] == {"id": server_id, "name": "web/1 ü", "status": "BUILD", "host": None, "fault": None}
    action = by_name.json()["actions"][0]
    assert (action["action"], action["state"], action["critical"]) == ("create", "waiting", ["accepted"])
    assert re.fullmatch(r"its turn, since [\d.]+ s: 0 before it", action["waiting"])
    assert action["service_seconds"] is None


@pytest.mark.parametrize("told", [Settings(compute=settings.Compute(explain=False))])
async def test_a_cloud_that_tells_nobody_where_a_boot_waits(http: httpx.AsyncClient, store: SqliteStore) -> None:
    server_id, _ = await make(store, "web")
    action = (await ask(http, timeline(server_id))).json()["actions"][0]
    assert (action["action"], action["state"], action["explained"]) == ("create", "waiting", False)
    assert (action["waiting"], action["spans"], action["critical"], action["stamps"], action["details"]) == (None, [], [], {}, {})
    assert bars.verdict(bars.read(action)).endswith("this cloud does not write it down (compute.explain is false).")


async def test_another_projects_server_is_not_there(http: httpx.AsyncClient, store: SqliteStore) -> None:
    server_id, _ = await make(store, "web")
    for ref in (server_id, "web"):
        assert (await ask(http, timeline(ref), "two")).status_code == 404
        assert (await ask(http, timeline(ref), "admin")).status_code == 200


async def test_an_ambiguous_name_is_a_conflict_that_names_the_ids(http: httpx.AsyncClient, store: SqliteStore) -> None:
    first, _ = await make(store, "web")
    second, _ = await make(store, "web")
    await make(store, "web", "p2")
    refused = await ask(http, timeline("web"))
    assert refused.status_code == 409
    message = refused.json()["error"]["message"]
    assert first in message and second in message


async def test_a_name_means_the_server_that_is_there_then_the_newest_deleted_one(http: httpx.AsyncClient, store: SqliteStore) -> None:
    old, _ = await make(store, "web")
    await store.write(_mark_deleted, old)
    assert (await ask(http, timeline("web"))).json()["server"]["status"] == "DELETED"
    new, _ = await make(store, "web")
    assert (await ask(http, timeline("web"))).json()["server"]["id"] == new


async def test_who_may_ask(http: httpx.AsyncClient) -> None:
    assert (await ask(http, timeline("web"), "unscoped")).status_code == 403
    assert (await ask(http, timeline("web"), "nobody")).status_code == 401
    assert (await ask(http, "/v1/status", "one")).status_code == 403
    assert (await ask(http, "/v1/status", "admin")).status_code == 200


async def test_a_step_that_failed_stands_for_as_long_as_it_was_waited_for(http: httpx.AsyncClient, store: SqliteStore) -> None:
    server_id, _ = await make(store, "web")
    begun = time.time()
    await store.write(_sent, server_id, "host1")
    stamps = {"plugged": begun + 0.01, "paused": begun + 0.02}
    observed = Observed(server_id, "host1", 1, "absent", failed_step="wired", cause="no flows", stamps=stamps)
    taken = await store.write(outcomes.take, observed)
    assert taken is not None and taken.failure == Failure("wired", "host1", "no flows")
    await store.write(outcomes.unwinding, taken.action, taken.failure)
    undoing = (await ask(http, timeline(server_id))).json()["actions"][0]
    assert undoing["waiting"].startswith("what it held to be given back")
    await store.write(outcomes.failed, taken.action, taken.failure, "local")
    told = (await ask(http, timeline(server_id))).json()
    action = told["actions"][0]
    wired = {span["step"]: span for span in action["spans"]}["wired"]
    assert wired["start"] == pytest.approx(begun + 0.01)
    assert wired["end"] == action["finished_at"]
    assert (wired["after"], wired["where"], wired["limit_seconds"]) == ("plugged", "host host1", 300.0)
    assert action["critical"][-2:] == ["wired", "reported"]
    assert action["failures"] == [{"attempt": 1, "step": "wired", "host": "host1", "cause": "no flows"}]
    assert told["server"]["fault"] == "wired failed on host host1: no flows"


async def test_status_counts_servers_by_the_apis_words(http: httpx.AsyncClient, store: SqliteStore) -> None:
    await make(store, "one")
    await make(store, "two", "p2")
    told = (await ask(http, "/v1/status", "admin")).json()
    assert told["servers"] == {"BUILD": 2}
    assert told["creates"] == {"waiting": 2, "blocked": 0, "running": 0, "parked": 0}
    assert told["hosts"] == []
    assert told["settings"]["compute.vif_plugging_timeout"] == 300.0


def _sent(tx: Tx, server_id: str, host: str) -> None:
    server = servers.get(tx, CALLERS["admin"], server_id)
    action = actions.open_of(tx, server_id)
    assert action is not None
    values = {"state": "sent", "stamps": {**action["stamps"], "queued": time.time(), "sent": time.time()}, "resends": 1}
    outcomes.sent(tx, action, {**server, "host": host}, values)


def _mark_deleted(tx: Tx, server_id: str) -> None:
    action = actions.open_of(tx, server_id)
    assert action is not None
    outcomes.deleted(tx, action, servers.get(tx, CALLERS["admin"], server_id))
