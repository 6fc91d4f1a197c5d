"""Hypervisors, services, availability zones: the hosts as admins see them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from pileus.compute.service import Compute
from pileus.compute.tables import host_beats
from pileus.store import Tx
from tests.compute import parts
from tests.compute.api.conftest import Api


async def age(compute: Compute, name: str, seconds: float = 3600) -> None:
    """The host was heard of so long ago."""

    def change(tx: Tx) -> None:
        tx.execute(update(host_beats).where(host_beats.c.name == name).values(seen_at=host_beats.c.seen_at - seconds))

    await compute.store.write(change)


async def test_hypervisors(api: Api, compute: Compute) -> None:
    await parts.add_host(compute, "host2", started_at=0.0)
    server_id = await api.make()
    await parts.run(compute, server_id)
    one, two = (await api.get("/os-hypervisors/detail?with_servers=true", token="admin"))["hypervisors"]
    assert (one["hypervisor_hostname"], one["state"], one["status"], one["host_ip"]) == ("host1", "up", "enabled", "192.0.2.1")
    assert one["service"]["host"] == "host1" and one["servers"] == [{"name": "one", "uuid": server_id}] and two["servers"] == []
    assert " up 1:00" in one["uptime"] and two["uptime"] is None
    shown = (await api.get(f"/os-hypervisors/{one['id']}?with_servers=1", token="admin"))["hypervisor"]
    assert shown | {"uptime": ""} == one | {"uptime": ""}
    brief = (await api.get("/os-hypervisors", token="admin"))["hypervisors"]
    assert brief[0] == {key: one[key] for key in ("id", "hypervisor_hostname", "state", "status")}
    page = await api.get("/os-hypervisors?limit=1", token="admin")
    assert page["hypervisors_links"][0]["href"].endswith(f"/os-hypervisors?limit=1&marker={one['id']}")
    found = await api.get(f"/os-hypervisors?marker={one['id']}", token="admin")
    assert [each["hypervisor_hostname"] for each in found["hypervisors"]] == ["host2"]
    found = await api.get("/os-hypervisors?hypervisor_hostname_pattern=ost2", token="admin")
    assert [each["hypervisor_hostname"] for each in found["hypervisors"]] == ["host2"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("?marker=none", 400),
        ("?hypervisor_hostname_pattern=x", 404),
        ("?hypervisor_hostname_pattern=h&limit=1", 400),
        ("?with_servers=perhaps", 400),
        ("?nonsense=1", 400),
        ("/5", 400),
        (f"/{parts.NOWHERE}", 404),
        ("/statistics", 404),
    ],
)
async def test_hypervisor_queries_refused(api: Api, path: str, status: int) -> None:
    await api.refused(status, "GET", f"/os-hypervisors{path}", token="admin")


async def test_old_hypervisors(api: Api, compute: Compute) -> None:
    server_id = await api.make()
    await parts.run(compute, server_id)
    (one,) = (await api.get("/os-hypervisors/detail", "2.52", "admin"))["hypervisors"]
    assert isinstance(one["id"], int) and isinstance(one["service"]["id"], int)
    used = {"vcpus": 8, "vcpus_used": 1, "memory_mb": 16384, "memory_mb_used": 512, "free_ram_mb": 15872, "running_vms": 1}
    assert {key: one[key] for key in used} == used and one["current_workload"] == 0
    assert (await api.get(f"/os-hypervisors/{one['id']}", "2.52", "admin"))["hypervisor"]["hypervisor_hostname"] == "host1"
    assert " up 1:00" in (await api.get(f"/os-hypervisors/{one['id']}/uptime", "2.52", "admin"))["hypervisor"]["uptime"]
    assert (await api.get("/os-hypervisors/ost1/search", "2.52", "admin"))["hypervisors"][0]["hypervisor_hostname"] == "host1"
    on = (await api.get("/os-hypervisors/host1/servers", "2.52", "admin"))["hypervisors"][0]["servers"]
    assert on == [{"name": "one", "uuid": server_id}]
    await api.refused(404, "GET", "/os-hypervisors/none/search", None, "2.52", "admin")
    statistics = (await api.get("/os-hypervisors/statistics", "2.52", "admin"))["hypervisor_statistics"]
    assert (statistics["count"], statistics["vcpus"], statistics["running_vms"]) == (1, 8, 1)
    await age(compute, "host1")
    await api.refused(400, "GET", f"/os-hypervisors/{one['id']}/uptime", None, "2.52", "admin")


async def test_services(api: Api, compute: Compute) -> None:
    found = (await api.get("/os-services", token="admin"))["services"]
    assert {service["binary"] for service in found} == {"nova-compute", "nova-conductor", "nova-scheduler"}
    (one,) = (await api.get("/os-services?binary=nova-compute&host=host1", token="admin"))["services"]
    assert (one["zone"], one["status"], one["state"], one["forced_down"]) == ("nova", "enabled", "up", False)
    path = f"/os-services/{one['id']}"

    async def put(**body: Any) -> dict[str, Any]:
        answer = await api.call("PUT", path, body=body, token="admin")
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["service"])

    assert (await put(status="disabled", disabled_reason="repair"))["disabled_reason"] == "repair"
    assert (await put(forced_down="true"))["state"] == "down"
    after = await put(status="enabled", forced_down=False)
    assert (after["status"], after["disabled_reason"], after["state"]) == ("enabled", None, "up")
    refused: list[Any] = [{}, {"status": "enabled", "disabled_reason": "x"}, {"status": "x"}, {"disabled_reason": ""}, {"more": 1}, []]
    for bad in refused:
        await api.refused(400, "PUT", path, bad, token="admin")
    await api.refused(404, "PUT", f"/os-services/{parts.NOWHERE}", {"status": "enabled"}, token="admin")
    await api.refused(400, "PUT", "/os-services/disable", {"status": "enabled"}, token="admin")
    control = next(service["id"] for service in found if service["binary"] == "nova-scheduler")
    await api.refused(400, "PUT", f"/os-services/{control}", {"status": "disabled"}, token="admin")
    await age(compute, "host1")
    assert (await api.get("/os-services?host=host1", token="admin"))["services"][0]["state"] == "down"


async def test_old_changes_of_services(api: Api) -> None:
    who = {"host": "host1", "binary": "nova-compute"}

    async def put(action: str, body: dict[str, Any], version: str = "2.52") -> Any:
        return (await api.call("PUT", f"/os-services/{action}", version, body, "admin")).json()["service"]

    assert await put("disable", who) == who | {"status": "disabled"}
    reason = who | {"disabled_reason": "repair"}
    assert await put("disable-log-reason", reason) == reason | {"status": "disabled"}
    assert await put("enable", who) == who | {"status": "enabled"}
    assert await put("force-down", who | {"forced_down": True}, "2.11") == who | {"forced_down": True}
    assert (await api.get("/os-services?host=host1", "2.52", "admin"))["services"][0]["state"] == "down"
    cases: list[tuple[int, str, dict[str, Any]]] = [
        (400, "disable-log-reason", who),
        (400, "force-down", who),
        (404, "explode", who),
        (404, "enable", who | {"host": "none"}),
        (400, "enable", who | {"binary": "nova-scheduler"}),
        (400, "enable", {"host": "host1"}),
    ]
    for status, action, body in cases:
        await api.refused(status, "PUT", f"/os-services/{action}", body, "2.52", "admin")


async def test_zones(api: Api, compute: Compute) -> None:
    await parts.add_host(compute, "host2", availability_zone="far")
    await age(compute, "host2")
    zones = (await api.get("/os-availability-zone"))["availabilityZoneInfo"]
    assert zones == [
        {"zoneName": "far", "zoneState": {"available": False}, "hosts": None},
        {"zoneName": "nova", "zoneState": {"available": True}, "hosts": None},
    ]
    far, near = (await api.get("/os-availability-zone/detail", token="admin"))["availabilityZoneInfo"]
    assert far["hosts"] is None and near["hosts"]["host1"]["nova-compute"]["active"] is True
    await api.make(availability_zone="far")


async def test_admins_only(api: Api) -> None:
    for path in ("/os-hypervisors", "/os-hypervisors/detail", "/os-services", "/os-availability-zone/detail"):
        await api.refused(403, "GET", path)
