"""os-instance-actions: what was done, step by step."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from sqlalchemy import update

from pileus.compute import actions, outcomes
from pileus.compute.lifecycle import Failure
from pileus.compute.service import Compute
from pileus.compute.tables import actions as table
from pileus.store import Tx
from pileus.store.sql import first
from tests.compute import parts
from tests.compute.api.conftest import Api

STAMPS = {"accepted": 100.0, "queued": 100.1, "claimed": 100.2, "addressed": 100.3, "sent": 100.4, "paused": 101.0, "reported": 102.0}


async def set_action(compute: Compute, **values: Any) -> None:
    def change(tx: Tx) -> None:
        tx.execute(update(table).values(**values))

    await compute.store.write(change)


async def test_a_create_that_worked(api: Api, compute: Compute) -> None:
    server_id = await api.make()
    await parts.run(compute, server_id)
    await set_action(compute, state="done", stamps=STAMPS, finished_at=102.0, updated_at=102.0, started_at=100.0)
    (action,) = (await api.get(f"/servers/{server_id}/os-instance-actions"))["instanceActions"]
    assert action["action"] == "create" and action["message"] is None and action["user_id"] == "user"
    assert action["start_time"] == "1970-01-01T00:01:40.000000" and action["updated_at"] == "1970-01-01T00:01:42.000000"
    shown = (await api.get(f"/servers/{server_id}/os-instance-actions/{action['request_id']}"))["instanceAction"]
    events = shown.pop("events")
    assert shown == action
    by_name = {event["event"]: event for event in events}
    assert set(by_name) == set(STAMPS) and {event["result"] for event in events} == {"Success"}
    assert by_name["claimed"]["start_time"] == "1970-01-01T00:01:40.100000"
    assert by_name["claimed"]["finish_time"] == "1970-01-01T00:01:40.200000"
    assert len(by_name["paused"]["hostId"]) == 56 and by_name["claimed"]["hostId"] == ""
    assert "host" not in by_name["paused"] and "traceback" not in by_name["paused"]
    for_admin = (await api.get(f"/servers/{server_id}/os-instance-actions/{action['request_id']}", token="admin"))["instanceAction"]
    paused = next(event for event in for_admin["events"] if event["event"] == "paused")
    assert (paused["host"], paused["traceback"], paused["details"]) == ("host1", None, None)


@pytest.mark.parametrize(("state", "result", "message"), [("done", "Success", None), ("failed", "Error", "no network")])
async def test_where_steps_are_not_told_an_action_is_one_event(
    api: Api, compute: Compute, state: str, result: str, message: str | None
) -> None:
    told = compute.settings
    compute.settings = msgspec.structs.replace(told, compute=msgspec.structs.replace(told.compute, explain=False))
    server_id = await api.make()
    await set_action(compute, state=state, stamps=STAMPS, finished_at=102.0, started_at=100.0, message=message)
    (action,) = (await api.get(f"/servers/{server_id}/os-instance-actions"))["instanceActions"]
    shown = (await api.get(f"/servers/{server_id}/os-instance-actions/{action['request_id']}"))["instanceAction"]
    [event] = shown["events"]
    assert (event["event"], event["result"], event["details"]) == ("create", result, message)
    assert (event["start_time"], event["finish_time"]) == ("1970-01-01T00:01:40.000000", "1970-01-01T00:01:42.000000")


async def test_a_failed_step_is_an_event_with_its_cause(api: Api, compute: Compute) -> None:
    server_id = await api.make()
    action = await compute.store.read(actions.open_of, server_id)
    assert action is not None
    failure = Failure("image", "host1", "disk full")
    assert await compute.store.write(outcomes.unwinding, action, failure)

    def fail(tx: Tx) -> None:
        found = first(tx, table.select())
        assert found is not None
        outcomes.failed(tx, found, failure, "local")

    await compute.store.write(fail)
    (listed,) = (await api.get(f"/servers/{server_id}/os-instance-actions"))["instanceActions"]
    assert "disk full" in listed["message"]
    shown = (await api.get(f"/servers/{server_id}/os-instance-actions/{listed['request_id']}"))["instanceAction"]
    bad = [event for event in shown["events"] if event["result"] == "Error"]
    assert [(event["event"], event["details"]) for event in bad] == [("image", "disk full")]
    assert bad[0]["finish_time"] is not None


async def test_paging_and_times(api: Api, compute: Compute) -> None:
    server_id = await api.make()
    await parts.run(compute, server_id)
    await set_action(compute, state="done", due_at=None, started_at=50.0, updated_at=50.0)
    await api.call("POST", f"/servers/{server_id}/action", body={"reboot": {"type": "HARD"}})
    path = f"/servers/{server_id}/os-instance-actions"
    page = await api.get(f"{path}?limit=1")
    assert [action["action"] for action in page["instanceActions"]] == ["reboot"]
    href = page["links"][0]["href"].removeprefix("http://pileus/compute/v2.1")
    assert page["links"][0]["rel"] == "next"
    assert [action["action"] for action in (await api.get(href))["instanceActions"]] == ["create"]
    later = await api.get(f"{path}?changes-since=2000-01-01T00:00:00Z")
    assert [action["action"] for action in later["instanceActions"]] == ["reboot"]
    earlier = await api.get(f"{path}?changes-before=2000-01-01T00:00:00Z")
    assert [action["action"] for action in earlier["instanceActions"]] == ["create"]
    for bad in ("marker=none", "limit=x", "changes-since=x", "nonsense=1", "changes-since=2001-01-01&changes-before=2000-01-01"):
        await api.refused(400, "GET", f"{path}?{bad}")
    await api.refused(404, "GET", f"{path}/req-none")
