"""POST /servers/{id}/action: what each state allows, locks, resets, the console."""

from __future__ import annotations

from typing import Any

import pytest

from pileus.compute.actions import of_server
from pileus.compute.service import Compute
from pileus.compute.tables import actions
from pileus.messages import ConsoleRequest, ConsoleText, console_subject
from pileus.store.sql import rows
from tests.compute import parts
from tests.compute.api.conftest import Api


async def act(api: Api, server_id: str, body: Any, version: str = "2.96", token: str = "member") -> int:
    return (await api.call("POST", f"/servers/{server_id}/action", version, body, token)).status_code


@pytest.mark.parametrize(
    ("vm_state", "body", "task"),
    [
        ("stopped", {"os-start": None}, "powering-on"),
        ("active", {"os-stop": {}}, "powering-off"),
        ("active", {"pause": None}, "pausing"),
        ("paused", {"unpause": "x"}, "unpausing"),
        ("active", {"reboot": {"type": "SOFT"}}, "rebooting"),
        ("stopped", {"reboot": {"type": "hard"}}, "rebooting_hard"),
    ],
)
async def test_verbs(api: Api, compute: Compute, vm_state: str, body: Any, task: str) -> None:
    server_id = await api.make()
    await parts.run(compute, server_id)
    await parts.set_row(compute, server_id, vm_state=vm_state)
    assert await act(api, server_id, body) == 202
    assert (await api.get(f"/servers/{server_id}"))["server"]["OS-EXT-STS:task_state"] == task


@pytest.mark.parametrize(
    ("vm_state", "body", "words"),
    [
        ("active", {"os-start": None}, "Cannot 'start' instance {} while it is in vm_state active"),
        ("stopped", {"pause": None}, "Cannot 'pause' instance {} while it is in vm_state stopped"),
        ("paused", {"reboot": {"type": "SOFT"}}, "Cannot 'reboot' instance {} while it is in vm_state paused"),
        ("building", {"os-stop": None}, "Cannot 'stop' instance {} while it is in vm_state building"),
    ],
)
async def test_a_state_that_forbids(api: Api, compute: Compute, vm_state: str, body: Any, words: str) -> None:
    server_id = await api.make()
    await parts.set_row(compute, server_id, vm_state=vm_state, task_state=None)
    assert await api.refused(409, "POST", f"/servers/{server_id}/action", body) == words.format(server_id)


async def test_an_action_under_way_forbids(api: Api, compute: Compute) -> None:
    server_id = await api.make()
    await parts.run(compute, server_id)
    assert await act(api, server_id, {"os-stop": None}) == 202
    words = await api.refused(409, "POST", f"/servers/{server_id}/action", {"os-stop": None})
    assert words == f"Cannot 'stop' instance {server_id} while it is in task_state powering-off"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"os-start": None, "os-stop": None},
        {"resize": {"flavorRef": "1"}},
        {"reboot": {}},
        {"reboot": {"type": "WARM"}},
        {"reboot": None},
        [],
    ],
)
async def test_no_such_action(api: Api, body: Any) -> None:
    await api.refused(400, "POST", f"/servers/{await api.make()}/action", body)


async def test_lock(api: Api, compute: Compute) -> None:
    server_id = await api.make()
    await parts.run(compute, server_id)
    assert await act(api, server_id, {"lock": {"locked_reason": "hands off"}}) == 202
    shown = (await api.get(f"/servers/{server_id}"))["server"]
    assert (shown["locked"], shown["locked_reason"]) == (True, "hands off")
    calls: list[tuple[str, str, Any]] = [
        ("POST", "/action", {"os-stop": None}),
        ("DELETE", "", None),
        ("POST", "/metadata", {"metadata": {"a": "b"}}),
    ]
    for method, path, body in calls:
        assert await api.refused(409, method, f"/servers/{server_id}{path}", body) == f"Instance {server_id} is locked"
    assert await act(api, server_id, {"unlock": None}) == 202
    shown = (await api.get(f"/servers/{server_id}"))["server"]
    assert (shown["locked"], shown["locked_reason"]) == (False, None)
    assert await act(api, server_id, {"os-stop": None}) == 202


async def test_an_admins_lock_only_an_admin_opens(api: Api, compute: Compute) -> None:
    server_id = await api.make()
    await parts.run(compute, server_id)
    assert await act(api, server_id, {"lock": None}, token="admin") == 202
    assert await act(api, server_id, {"unlock": None}) == 403
    assert await act(api, server_id, {"os-stop": None}, token="admin") == 202
    assert await act(api, server_id, {"unlock": None}, token="admin") == 202


@pytest.mark.parametrize("lock", [{"locked_reason": ""}, {"locked_reason": "x" * 256}, {"why": "x"}, 5])
async def test_a_lock_needs_a_good_reason(api: Api, lock: Any) -> None:
    await api.refused(400, "POST", f"/servers/{await api.make()}/action", {"lock": lock})


async def test_reset_state(api: Api, compute: Compute) -> None:
    server_id = await api.make()
    assert await act(api, server_id, {"os-resetState": {"state": "error"}}) == 403
    assert "on no host" in await api.refused(
        409, "POST", f"/servers/{server_id}/action", {"os-resetState": {"state": "active"}}, token="admin"
    )
    assert await act(api, server_id, {"os-resetState": {"state": "error"}}, token="admin") == 202
    assert (await api.get(f"/servers/{server_id}"))["server"]["status"] == "ERROR"
    (action,) = await compute.store.read(rows, actions.select())
    assert (action["state"], action["message"], action["due_at"]) == ("overtaken", "overtaken by os-resetState", None)
    await parts.set_row(compute, server_id, host="host1")
    assert await act(api, server_id, {"os-resetState": {"state": "active"}}, token="admin") == 202
    assert (await api.get(f"/servers/{server_id}"))["server"]["status"] == "ACTIVE"
    await api.refused(400, "POST", f"/servers/{server_id}/action", {"os-resetState": {"state": "paused"}}, token="admin")


async def test_console(api: Api, compute: Compute) -> None:
    server_id = await api.make()
    assert "not ready" in await api.refused(409, "POST", f"/servers/{server_id}/action", {"os-getConsoleOutput": {}})
    await parts.run(compute, server_id)
    asked: list[ConsoleRequest] = []

    async def console(request: ConsoleRequest) -> ConsoleText:
        asked.append(request)
        if request.lines == 99:
            raise FileNotFoundError("no log")
        return ConsoleText("boot\x07\x1b[0m\tok\n")

    serving = compute.bus.serve(console_subject("host1"), ConsoleRequest, console)
    for length, lines in [({}, None), ({"length": 5}, 5), ({"length": "-1"}, None), ({"length": None}, None)]:
        answer = await api.call("POST", f"/servers/{server_id}/action", body={"os-getConsoleOutput": length})
        assert answer.json() == {"output": "boot[0m\tok\n"}
        assert asked[-1] == ConsoleRequest(server_id, lines)
    await api.refused(404, "POST", f"/servers/{server_id}/action", {"os-getConsoleOutput": {"length": 99}})
    for bad in (-2, "x", 1.5):
        await api.refused(400, "POST", f"/servers/{server_id}/action", {"os-getConsoleOutput": {"length": bad}})
    await serving.close()
    assert "does not answer" in await api.refused(409, "POST", f"/servers/{server_id}/action", {"os-getConsoleOutput": {}})


async def test_readers_do_nothing(api: Api) -> None:
    assert await act(api, await api.make(), {"os-stop": None}, token="reader") == 403


@pytest.mark.parametrize(
    ("version", "body", "words"),
    [
        ("2.13", {}, "onSharedStorage is required before 2.14"),
        ("2.13", {"onSharedStorage": True}, "there is no shared storage"),
        ("2.14", {"onSharedStorage": False}, "not known any more since 2.14"),
        ("2.28", {"host": "host2", "force": True}, "from 2.29 to 2.67 only"),
        ("2.68", {"host": "host2", "force": True}, "from 2.29 to 2.67 only"),
        ("2.29", {"force": True}, "Can't force to a non-provided destination"),
        ("2.96", {"adminPass": "x"}, "not offered"),
        ("2.96", {"host": "host3"}, "Compute host host3 could not be found."),
        ("2.96", {"host": "host1"}, "The target host can't be the same one"),
        ("2.96", {}, "Compute service of host1 is still in use."),
    ],
)
async def test_evacuations_refused(api: Api, compute: Compute, version: str, body: Any, words: str) -> None:
    await parts.add_host(compute, "host2")
    server_id = await api.make()
    await parts.run(compute, server_id)
    path = f"/servers/{server_id}/action"
    assert words in await api.refused(400, "POST", path, {"evacuate": body}, version=version, token="admin")
    assert await act(api, server_id, {"evacuate": {}}) == 403


@pytest.mark.parametrize(
    ("version", "body", "vm_state", "name"),
    [
        ("2.13", {"onSharedStorage": False}, "active", "evacuate"),
        ("2.29", {"host": "host2", "force": True}, "error", "evacuate"),
        ("2.94", {}, "stopped", "evacuate_stopped"),
        ("2.95", {"host": None}, "active", "evacuate_stopped"),
    ],
)
async def test_evacuate(api: Api, compute: Compute, version: str, body: Any, vm_state: str, name: str) -> None:
    await parts.add_host(compute, "host2")
    server_id = await api.make()
    await parts.run(compute, server_id)
    await parts.set_row(compute, server_id, vm_state=vm_state)
    [service] = [s for s in (await api.get("/os-services?host=host1", token="admin"))["services"] if s["binary"] == "nova-compute"]
    answer = await api.call("PUT", f"/os-services/{service['id']}", "2.96", {"forced_down": True}, "admin")
    assert answer.status_code == 200
    assert await act(api, server_id, {"evacuate": body}, version, "admin") == 200
    [action, _] = await compute.store.read(of_server, server_id)
    assert (action["name"], action["tried"], action["details"]["host"]) == (name, ["host1"], body.get("host"))
    shown = (await api.get(f"/servers/{server_id}", token="admin"))["server"]
    assert (shown["status"], shown["OS-EXT-STS:task_state"]) == ("REBUILD", "rebuilding")
    told = (await api.get(f"/servers/{server_id}/os-instance-actions"))["instanceActions"][0]
    assert told["action"] == "evacuate"


async def test_a_paused_server_is_not_evacuated(api: Api, compute: Compute) -> None:
    server_id = await api.make()
    await parts.run(compute, server_id)
    await parts.set_row(compute, server_id, vm_state="paused")
    words = await api.refused(409, "POST", f"/servers/{server_id}/action", {"evacuate": {}}, token="admin")
    assert words == f"Cannot 'evacuate' instance {server_id} while it is in vm_state paused"
