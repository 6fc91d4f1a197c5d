"""The story's own path in a whole cloud: the network service tells compute over HTTP that ports are ready."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.blackbox.cloud import Cloud, Person, running


def booted(admin: Person, count: int) -> list[dict[str, Any]]:
    """Servers on a network of their own, settled, whatever became of them."""
    network = admin.network("10.90.0.0/24")
    body = {"name": "s", "flavorRef": "1", "networks": [{"uuid": network["id"]}], "min_count": count, "max_count": count}
    admin.post("compute", "/v2.1/servers", {"server": body})
    listed = admin.get("compute", "/v2.1/servers", params={"name": "^s"})["servers"]
    return [admin.settled(row["id"]) for row in listed]


def steps(admin: Person, server_id: str) -> dict[str, str]:
    """The steps of a server's create, each with its result."""
    path = f"/v2.1/servers/{server_id}/os-instance-actions"
    create = admin.get("compute", path)["instanceActions"][-1]["request_id"]
    return {event["event"]: event["result"] for event in admin.get("compute", f"{path}/{create}")["instanceAction"]["events"]}


@pytest.fixture(scope="module")
def callback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    env = {"PILEUS_COMPUTE__PLUG_SIGNAL": "callback", "PILEUS_NETWORK__SEND_EVENTS_INTERVAL": "0.2"}
    with running(tmp_path_factory.mktemp("callback"), "--hosts", "3", **env) as cloud:
        yield cloud


def test_servers_become_active_by_the_callback(callback: Cloud) -> None:
    admin = callback.admin()
    servers = booted(admin, 12)
    assert [server["status"] for server in servers] == ["ACTIVE"] * 12
    assert steps(admin, servers[0]["id"])["signalled"] == "Success"
    ports = admin.get("network", "/v2.0/ports", params={"device_owner": "compute:nova"})["ports"]
    assert {port["status"] for port in ports} == {"ACTIVE"} and len(ports) == 12
    admin.gone(*[server["id"] for server in servers])


@pytest.mark.parametrize(("fatal", "status"), [("true", "ERROR"), ("false", "ACTIVE")])
def test_a_network_that_never_gets_ready(tmp_path: Path, fatal: str, status: str) -> None:
    env = {
        "PILEUS_COMPUTE__PLUG_SIGNAL": "callback",
        "PILEUS_COMPUTE__VIF_PLUGGING_TIMEOUT": "0.5",
        "PILEUS_COMPUTE__VIF_PLUGGING_IS_FATAL": fatal,
        "PILEUS_SIMULATED__WIRE": "30",
    }
    with running(tmp_path, **env) as cloud:
        admin = cloud.admin()
        (server,) = booted(admin, 1)
        assert server["status"] == status
        if fatal == "true":
            assert "was not wired within 0.5 s" in server["fault"]["message"], server["fault"]
            assert admin.get("placement", f"/allocations/{server['id']}")["allocations"] == {}
            assert admin.get("network", "/v2.0/ports", params={"device_id": server["id"]})["ports"] == []
        admin.gone(server["id"])
