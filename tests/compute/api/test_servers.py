"""Servers: what a create takes and refuses, what is shown, changed and deleted."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from pileus.compute import servers as rules
from pileus.compute.service import Compute
from pileus.settings import Quota, Settings
from tests.compute import parts
from tests.compute.api.conftest import CALLERS, Api
from tests.compute.parts import IMAGE, NETWORK, NOWHERE, PORT, Networks


async def test_create_answers_at_once(api: Api, compute: Compute) -> None:
    server = {"name": "one", "flavorRef": "1", "imageRef": IMAGE, "networks": [{"uuid": NETWORK, "fixed_ip": "10.0.0.9", "tag": "nic"}]}
    answer = await api.call("POST", "/servers", body={"server": server})
    assert answer.status_code == 202
    made = answer.json()["server"]
    assert answer.headers["location"] == f"http://pileus/compute/v2.1/servers/{made['id']}"
    assert set(made) == {"id", "links", "OS-DCF:diskConfig", "security_groups"}
    shown = (await api.get(f"/servers/{made['id']}"))["server"]
    assert shown["status"] == "BUILD" and shown["OS-EXT-STS:task_state"] == "scheduling" and shown["addresses"] == {}
    assert shown["image"]["id"] == IMAGE and shown["hostId"] == "" and shown["config_drive"] == ""
    row = await compute.store.read(_row, made["id"])
    assert row["nics"] == [{"network_id": NETWORK, "port_id": None, "fixed_ip": "10.0.0.9", "tag": "nic", "security_groups": []}]


async def test_create_takes_all_that_is_offered(api: Api, compute: Compute) -> None:
    data = base64.b64encode(b"#!/bin/sh\n").decode()
    await api.call("POST", "/os-keypairs", "2.1", {"keypair": {"name": "mine"}})
    server_id = await api.make(
        token="admin",
        metadata={"a": "b"},
        user_data=data,
        config_drive="true",
        availability_zone="nova:host1",
        description="what for",
        hostname="web.example",
        accessIPv4="192.0.2.7",
        accessIPv6="2001:DB8::1",
        **{"OS-DCF:diskConfig": "AUTO"},
    )
    shown = (await api.get(f"/servers/{server_id}", token="admin"))["server"]
    assert shown["metadata"] == {"a": "b"} and shown["config_drive"] == "True" and shown["description"] == "what for"
    assert (shown["accessIPv4"], shown["accessIPv6"], shown["OS-DCF:diskConfig"]) == ("192.0.2.7", "2001:db8::1", "AUTO")
    assert shown["OS-EXT-SRV-ATTR:user_data"] == data and shown["OS-EXT-SRV-ATTR:hostname"] == "web.example"
    assert shown["pinned_availability_zone"] == "nova"
    assert (await compute.store.read(_row, server_id))["forced_host"] == "host1"


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"name": ""}, 400, "name"),
    ({"name": " x"}, 400, "name"),
    ({"name": "x" * 256}, 400, "name"),
    ({"name": "a\u0007b"}, 400, "name"),
    ({"name": 5}, 400, "name"),
    ({"flavorRef": "none"}, 400, "Flavor none could not be found"),
    ({"imageRef": NOWHERE}, 400, "could not be found"),
    ({"imageRef": "no-uuid"}, 400, "imageRef"),
    ({"networks": [{"uuid": NOWHERE}]}, 400, "Network"),
    ({"networks": [{"uuid": "x"}]}, 400, "networks.0.uuid"),
    ({"networks": [{}]}, 400, "missing 'uuid'"),
    ({"networks": [{"port": PORT}, {"port": PORT}]}, 400, "specified twice"),
    ({"networks": [{"port": PORT, "fixed_ip": "10.0.0.2"}]}, 400, "cannot be specified together"),
    ({"networks": [{"uuid": NETWORK, "fixed_ip": "10.0.0"}]}, 400, "fixed_ip"),
    ({"networks": [{"uuid": NETWORK, "fixed_ip": "10.0.0.1"}]}, 400, "already in use"),
    ({"networks": [{"uuid": NETWORK, "tag": "a,b"}]}, 400, "tag"),
    ({"networks": "some"}, 400, "networks"),
    ({"key_name": "none"}, 400, "Invalid key_name"),
    ({"user_data": "%%"}, 400, "base64"),
    ({"user_data": "A" * 65536}, 400, "too large"),
    ({"metadata": {"": "x"}}, 400, "metadata"),
    ({"metadata": {"k": "x" * 256}}, 400, "metadata"),
    ({"metadata": {"k": 1}}, 400, "metadata"),
    ({"metadata": {f"k{i}": "" for i in range(129)}}, 403, "metadata items exceeds 128"),
    ({"availability_zone": "mars"}, 400, "availability zone is not available"),
    ({"availability_zone": "nova:host1"}, 403, "admin role"),
    ({"host": "host1"}, 403, "admin role"),
    ({"config_drive": "perhaps"}, 400, "config_drive"),
    ({"min_count": 3, "max_count": 2}, 400, "min_count must be <= max_count"),
    ({"min_count": 0}, 400, "min_count"),
    ({"max_count": 1001}, 400, "max_count"),
    ({"max_count": 2, "hostname": "web"}, 400, "single hostname"),
    ({"hostname": "a b"}, 400, "hostname"),
    ({"min_count": 101}, 403, "Quota exceeded"),
    ({"OS-DCF:diskConfig": "SOMEHOW"}, 400, "diskConfig"),
    ({"accessIPv4": "2001:db8::1"}, 400, "IPv4"),
    ({"nonsense": 1}, 400, "nonsense"),
    ({"adminPass": "secret"}, 400, "adminPass"),
    ({"tags": ["a"]}, 400, "tags"),
    ({"personality": []}, 400, "personality"),
    ({"trusted_image_certificates": ["a"]}, 400, "signed images"),
    ({"security_groups": [{"name": "nowhere"}]}, 400, "Security group nowhere not found"),
    ({"block_device_mapping": [{"volume_id": NOWHERE}]}, 400, "volumes are not offered"),
    ({"block_device_mapping_v2": [{"source_type": "volume", "uuid": NOWHERE}]}, 400, "volumes are not offered"),
    ({"block_device_mapping_v2": [{}]}, 400, "volumes are not offered"),
]


async def test_create_refuses(api: Api) -> None:
    for values, status, words in REFUSED:
        body = {"server": {"name": "one", "flavorRef": "1", "networks": "none", **values}}
        assert words in await api.refused(status, "POST", "/servers", body)
    assert (await api.get("/servers"))["servers"] == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"server": None},
        {"server": {"name": "x"}},
        {"server": {"name": "x", "flavorRef": "1"}},
        {"server": {"name": "x", "flavorRef": "1", "networks": "none"}, "more": 1},
        {"server": {"name": "x", "flavorRef": "1", "networks": "none"}, "os:scheduler_hints": {"group": NOWHERE}},
    ],
)
async def test_create_refuses_bodies(api: Api, body: Any) -> None:
    await api.refused(400, "POST", "/servers", body)


async def test_what_clients_write_down_though_it_happens_anyway(api: Api) -> None:
    disk = {"source_type": "image", "destination_type": "local", "boot_index": 0, "uuid": IMAGE, "delete_on_termination": True}
    await api.make(imageRef=IMAGE, block_device_mapping_v2=[disk], security_groups=[{"name": "default"}])


async def test_a_flavor_too_small_for_the_image(api: Api, compute: Compute) -> None:
    await parts.add_flavor(compute, "2", "thin", disk=1)
    body = {"server": {"name": "x", "flavorRef": 2, "imageRef": IMAGE, "networks": "auto"}}
    assert "min_disk is 2 GiB" in await api.refused(400, "POST", "/servers", body)


async def test_several_at_once(api: Api, compute: Compute) -> None:
    body = {"server": {"name": "many", "flavorRef": "1", "networks": "none", "min_count": "3", "return_reservation_id": True}}
    answer = await api.call("POST", "/servers", body=body)
    found = (await api.get(f"/servers?reservation_id={answer.json()['reservation_id']}"))["servers"]
    assert {server["name"] for server in found} == {"many-1", "many-2", "many-3"}


async def test_as_many_as_the_quota_allows(api: Api, compute: Compute) -> None:
    compute.settings = Settings(quota=Quota(instances=4))
    body = {"server": {"name": "many", "flavorRef": "1", "networks": "none", "min_count": 2, "max_count": 9}}
    assert (await api.call("POST", "/servers", body=body)).status_code == 202
    assert len((await api.get("/servers"))["servers"]) == 4
    await api.refused(403, "POST", "/servers", body)


async def test_show_when_it_runs(api: Api, compute: Compute) -> None:
    server_id = await api.make(imageRef=IMAGE)
    await parts.run(compute, server_id)
    shown = (await api.get(f"/servers/{server_id}"))["server"]
    address = {"version": 4, "addr": "10.0.0.5", "OS-EXT-IPS:type": "fixed", "OS-EXT-IPS-MAC:mac_addr": "fa:16:3e:00:00:01"}
    assert shown["addresses"] == {"lan": [address]}
    assert shown["status"] == "ACTIVE" and shown["OS-EXT-STS:power_state"] == 1 and shown["progress"] == 0
    assert shown["OS-EXT-AZ:availability_zone"] == "nova" and len(shown["hostId"]) == 56
    assert shown["flavor"] == {"original_name": "small", "ram": 512, "vcpus": 1, "disk": 4, "ephemeral": 0, "swap": 0, "extra_specs": {}}
    assert shown["OS-SRV-USG:launched_at"].count(".") == 1 and shown["created"].endswith("Z")
    assert not any(key.startswith("OS-EXT-SRV-ATTR") for key in shown if key != "OS-EXT-SRV-ATTR:hostname")
    assert "host_status" not in shown and "fault" not in shown
    assert shown["links"][0] == {"rel": "self", "href": f"http://pileus/compute/v2.1/servers/{server_id}"}
    assert shown["links"][1] == {"rel": "bookmark", "href": f"http://pileus/compute/servers/{server_id}"}


async def test_admins_see_more(api: Api, compute: Compute) -> None:
    server_id = await api.make()
    await parts.run(compute, server_id)
    shown = (await api.get(f"/servers/{server_id}", token="admin"))["server"]
    assert shown["OS-EXT-SRV-ATTR:host"] == shown["OS-EXT-SRV-ATTR:hypervisor_hostname"] == "host1"
    assert shown["OS-EXT-SRV-ATTR:root_device_name"] == "/dev/vda" and shown["OS-EXT-SRV-ATTR:launch_index"] == 0
    assert shown["host_status"] == "UP"


async def test_a_fault_is_shown_in_error_only(api: Api, compute: Compute) -> None:
    server_id = await api.make()
    fault = {"code": 500, "message": "claimed failed: no valid host", "details": "long", "created": 1763800000.0}
    await parts.set_row(compute, server_id, vm_state="error", task_state=None, fault=fault)
    expected = {"code": 500, "message": fault["message"], "created": "2025-11-22T08:26:40Z"}
    assert (await api.get(f"/servers/{server_id}"))["server"]["fault"] == expected
    assert (await api.get(f"/servers/{server_id}", token="admin"))["server"]["fault"] == expected | {"details": "long"}
    await parts.set_row(compute, server_id, vm_state="active")
    assert "fault" not in (await api.get(f"/servers/{server_id}"))["server"]


async def test_another_projects_server_is_not_there(api: Api, compute: Compute) -> None:
    server_id = await api.make()
    calls: list[tuple[str, str, Any]] = [
        ("GET", "", None),
        ("PUT", "", {"server": {"name": "mine"}}),
        ("DELETE", "", None),
        ("POST", "/action", {"os-stop": None}),
        ("POST", "/action", {"lock": None}),
        ("POST", "/action", {"os-getConsoleOutput": {}}),
        ("GET", "/ips", None),
        ("GET", "/metadata", None),
        ("POST", "/metadata", {"metadata": {}}),
        ("GET", "/os-instance-actions", None),
        ("GET", "/os-interface", None),
    ]
    for method, path, body in calls:
        await api.refused(404, method, f"/servers/{server_id}{path}", body, token="other")
    assert (await api.get("/servers/detail", token="other"))["servers"] == []


async def test_update(api: Api) -> None:
    server_id = await api.make()
    body = {"server": {"name": "two", "description": None, "hostname": "b", "OS-DCF:diskConfig": "AUTO", "accessIPv4": "192.0.2.1"}}
    answer = await api.call("PUT", f"/servers/{server_id}", body=body)
    shown = answer.json()["server"]
    assert (shown["name"], shown["OS-EXT-SRV-ATTR:hostname"], shown["accessIPv4"]) == ("two", "b", "192.0.2.1")
    assert shown == (await api.get(f"/servers/{server_id}"))["server"]
    await api.refused(400, "PUT", f"/servers/{server_id}", {"server": {"status": "ACTIVE"}})
    await api.refused(400, "PUT", f"/servers/{server_id}", {"server": {"name": ""}})
    await api.refused(403, "PUT", f"/servers/{server_id}", {"server": {"name": "x"}}, token="reader")


async def test_delete(api: Api, compute: Compute) -> None:
    server_id = await api.make()
    assert (await api.call("DELETE", f"/servers/{server_id}")).status_code == 204
    assert (await api.get(f"/servers/{server_id}"))["server"]["OS-EXT-STS:task_state"] == "deleting"
    assert (await api.call("DELETE", f"/servers/{server_id}")).status_code == 204
    await parts.set_row(compute, server_id, vm_state="deleted", task_state=None, deleted_at=1763800000.0)
    await api.refused(404, "GET", f"/servers/{server_id}")
    await api.refused(404, "DELETE", f"/servers/{server_id}")


async def test_one_lookup_of_addresses_a_page(api: Api, compute: Compute) -> None:
    for _ in range(3):
        await parts.run(compute, await api.make())
    assert isinstance(compute.network, Networks)
    compute.network.lookups = 0
    assert len((await api.get("/servers/detail"))["servers"]) == 3
    assert compute.network.lookups == 1


def _row(tx: Any, server_id: str) -> Any:
    return rules.get(tx, CALLERS["admin"], server_id)
