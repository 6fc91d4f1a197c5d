"""Each microversion that changes something here, seen from the version before it and from itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pileus.compute import hosts
from pileus.compute.actions import of_server
from pileus.compute.api.versions import MICROVERSIONS
from pileus.compute.service import Compute
from pileus.http.microversions import show
from tests.compute import parts
from tests.compute.api.conftest import Api
from tests.compute.parts import NETWORK, NOWHERE
from tests.compute.test_keypairs import KEY

Test = Callable[[Api, Compute, str, str], Awaitable[None]]
"""(api, compute, the version before, the version itself)"""
TESTS: dict[str, Test] = {}


def of(version: str) -> Callable[[Test], Test]:
    def register(test: Test) -> Test:
        assert version not in TESTS
        TESTS[version] = test
        return test

    return register


def before(version: str) -> str:
    return f"2.{int(version.partition('.')[2]) - 1}"


def test_one_row_each() -> None:
    assert [row.version for row in MICROVERSIONS] == [(2, minor) for minor in range(1, 97)]


def test_each_change_has_a_test() -> None:
    assert [show(row.version) for row in MICROVERSIONS if row.changes] == sorted(TESTS, key=lambda v: int(v[2:]))


@pytest.mark.parametrize("version", [show(row.version) for row in MICROVERSIONS if row.changes])
async def test_microversion(api: Api, compute: Compute, version: str) -> None:
    await TESTS[version](api, compute, before(version), version)


async def shown(api: Api, compute: Compute, version: str, token: str = "member", path: str = "") -> dict[str, Any]:
    """The one server, made if it is not there."""
    found = (await api.get("/servers?all_tenants=1", "2.1", "admin"))["servers"]
    if not found:
        await parts.run(compute, await api.make())
        found = (await api.get("/servers?all_tenants=1", "2.1", "admin"))["servers"]
    return dict((await api.get(f"/servers/{found[0]['id']}", version, token))["server"])


async def appears(api: Api, compute: Compute, old: str, new: str, key: str, value: Any, token: str = "member") -> None:
    assert key not in await shown(api, compute, old, token)
    assert (await shown(api, compute, new, token))[key] == value


async def creates(api: Api, version: str, **values: Any) -> int:
    server = {"name": "x", "flavorRef": "1", "networks": [{"uuid": NETWORK}], **values}
    return (await api.call("POST", "/servers", version, {"server": server}, "admin")).status_code


@of("2.1")
async def first(api: Api, compute: Compute, old: str, new: str) -> None:
    view = await shown(api, compute, new)
    assert set(view) == {
        *("id", "name", "status", "tenant_id", "user_id", "metadata", "hostId", "image", "flavor", "created", "updated", "addresses"),
        *("accessIPv4", "accessIPv6", "links", "OS-DCF:diskConfig", "progress", "OS-EXT-AZ:availability_zone", "config_drive", "key_name"),
        *("OS-SRV-USG:launched_at", "OS-SRV-USG:terminated_at", "OS-EXT-STS:task_state", "OS-EXT-STS:vm_state"),
        *("OS-EXT-STS:power_state", "os-extended-volumes:volumes_attached"),
    }
    await api.refused(406, "GET", "/servers", version=old)


@of("2.2")
async def keypair_type(api: Api, compute: Compute, old: str, new: str) -> None:
    made = await api.call("POST", "/os-keypairs", old, {"keypair": {"name": "a", "public_key": KEY}})
    assert made.status_code == 200 and "type" not in made.json()["keypair"]
    assert (await api.call("POST", "/os-keypairs", old, {"keypair": {"name": "b", "public_key": KEY, "type": "ssh"}})).status_code == 400
    made = await api.call("POST", "/os-keypairs", new, {"keypair": {"name": "b", "public_key": KEY, "type": "ssh"}})
    assert made.status_code == 201 and made.json()["keypair"]["type"] == "ssh"
    assert (await api.call("DELETE", "/os-keypairs/a", old)).status_code == 202
    assert (await api.call("DELETE", "/os-keypairs/b", new)).status_code == 204


@of("2.3")
async def attributes(api: Api, compute: Compute, old: str, new: str) -> None:
    names = ("hostname", "reservation_id", "launch_index", "kernel_id", "ramdisk_id", "root_device_name", "user_data")
    keys = {f"OS-EXT-SRV-ATTR:{name}" for name in names}
    assert not keys & set(await shown(api, compute, old, "admin"))
    assert keys <= set(await shown(api, compute, new, "admin")) and not keys & set(await shown(api, compute, new))


@of("2.5")
async def ip6(api: Api, compute: Compute, old: str, new: str) -> None:
    await shown(api, compute, new)
    assert len((await api.get("/servers?ip6=db8", old))["servers"]) == 1
    assert (await api.get("/servers?ip6=db8", new))["servers"] == []


@of("2.7")
async def flavor_access(api: Api, compute: Compute, old: str, new: str) -> None:
    give = {"addTenantAccess": {"tenant": "project"}}
    assert (await api.call("POST", "/flavors/1/action", new, give, "admin")).status_code == 409
    assert (await api.call("POST", "/flavors/1/action", old, give, "admin")).status_code == 200


@of("2.9")
async def locked(api: Api, compute: Compute, old: str, new: str) -> None:
    await appears(api, compute, old, new, "locked", False)


@of("2.10")
async def keypairs_of_others(api: Api, compute: Compute, old: str, new: str) -> None:
    body = {"keypair": {"name": "a", "public_key": KEY, "user_id": "user"}}
    assert (await api.call("POST", "/os-keypairs", old, body, "admin")).status_code == 400
    assert (await api.call("POST", "/os-keypairs", new, body, "admin")).status_code == 201
    assert (await api.get("/os-keypairs?user_id=user", old, "admin"))["keypairs"] == []
    assert len((await api.get("/os-keypairs?user_id=user", new, "admin"))["keypairs"]) == 1


@of("2.11")
async def forced_down(api: Api, compute: Compute, old: str, new: str) -> None:
    assert "forced_down" not in (await api.get("/os-services", old, "admin"))["services"][0]
    assert (await api.get("/os-services", new, "admin"))["services"][0]["forced_down"] is False
    body = {"host": "host1", "binary": "nova-compute", "forced_down": True}
    assert (await api.call("PUT", "/os-services/force-down", old, body, "admin")).status_code == 404
    assert (await api.call("PUT", "/os-services/force-down", new, body, "admin")).status_code == 200


@of("2.16")
async def host_status(api: Api, compute: Compute, old: str, new: str) -> None:
    await appears(api, compute, old, new, "host_status", "UP", "admin")
    assert "host_status" not in await shown(api, compute, new)


@of("2.19")
async def description(api: Api, compute: Compute, old: str, new: str) -> None:
    await appears(api, compute, old, new, "description", None)
    assert await creates(api, old, description="x") == 400 and await creates(api, new, description="x") == 202


@of("2.21")
async def actions_of_the_deleted(api: Api, compute: Compute, old: str, new: str) -> None:
    server_id = await api.make()
    await parts.set_row(compute, server_id, vm_state="deleted", deleted_at=1.0)
    path = f"/servers/{server_id}/os-instance-actions"
    await api.refused(404, "GET", path, version=old)
    assert len((await api.get(path, new))["instanceActions"]) == 1


@of("2.26")
async def tags(api: Api, compute: Compute, old: str, new: str) -> None:
    await appears(api, compute, old, new, "tags", [])
    assert len((await api.get("/servers?tags=a", old))["servers"]) == 1 and (await api.get("/servers?tags=a", new))["servers"] == []


@of("2.28")
async def cpu_info(api: Api, compute: Compute, old: str, new: str) -> None:
    assert (await api.get("/os-hypervisors/detail", old, "admin"))["hypervisors"][0]["cpu_info"] == '{"arch":"x86_64"}'
    assert (await api.get("/os-hypervisors/detail", new, "admin"))["hypervisors"][0]["cpu_info"] == {"arch": "x86_64"}


@of("2.32")
async def network_tag(api: Api, compute: Compute, old: str, new: str) -> None:
    tagged = [{"uuid": NETWORK, "tag": "a"}]
    assert await creates(api, old, networks=tagged) == 400 and await creates(api, new, networks=tagged) == 202


@of("2.33")
async def hypervisor_pages(api: Api, compute: Compute, old: str, new: str) -> None:
    await parts.add_host(compute, "host2")
    assert len((await api.get("/os-hypervisors?limit=1", old, "admin"))["hypervisors"]) == 2
    page = await api.get("/os-hypervisors?limit=1", new, "admin")
    marker = page["hypervisors"][0]["id"]
    assert page["hypervisors_links"][0]["href"].endswith(f"limit=1&marker={marker}")
    assert (await api.get(f"/os-hypervisors?marker={marker}", new, "admin"))["hypervisors"][0]["hypervisor_hostname"] == "host2"
    await api.refused(400, "GET", "/os-hypervisors?marker=7", version=new, token="admin")


@of("2.35")
async def keypair_pages(api: Api, compute: Compute, old: str, new: str) -> None:
    for name in ("a", "b"):
        await api.call("POST", "/os-keypairs", new, {"keypair": {"name": name, "public_key": KEY}})
    assert len((await api.get("/os-keypairs?limit=1", old))["keypairs"]) == 2
    assert len((await api.get("/os-keypairs?limit=1", new))["keypairs"]) == 1


@of("2.36")
async def network_quotas(api: Api, compute: Compute, old: str, new: str) -> None:
    for path, name in (("/os-quota-sets/project", "floating_ips"), ("/os-quota-sets/project/detail", "security_groups")):
        assert name in (await api.get(path, old))["quota_set"] and name not in (await api.get(path, new))["quota_set"]
    assert "maxTotalFloatingIps" in (await api.get("/limits", old))["limits"]["absolute"]
    assert "maxTotalFloatingIps" not in (await api.get("/limits", new))["limits"]["absolute"]


@of("2.37")
async def networks(api: Api, compute: Compute, old: str, new: str) -> None:
    body = {"server": {"name": "x", "flavorRef": "1"}}
    assert (await api.call("POST", "/servers", old, body)).status_code == 202
    assert isinstance(compute.network, parts.Networks) and compute.network.asked[-1] == ("auto", 1)
    assert (await api.call("POST", "/servers", new, body)).status_code == 400
    for word in ("auto", "none"):
        assert await creates(api, old, networks=word) == 400 and await creates(api, new, networks=word) == 202
        assert compute.network.asked[-1] == (word, 1)
    tagged = [{"uuid": NETWORK, "tag": "a"}]
    assert await creates(api, old, networks=tagged) == 202 and await creates(api, new, networks=tagged) == 400


@of("2.38")
async def unknown_status(api: Api, compute: Compute, old: str, new: str) -> None:
    assert (await api.get("/servers?status=NONSENSE", old))["servers"] == []
    await api.refused(400, "GET", "/servers?status=NONSENSE", version=new)


@of("2.39")
async def image_metadata(api: Api, compute: Compute, old: str, new: str) -> None:
    assert "maxImageMeta" in (await api.get("/limits", old))["limits"]["absolute"]
    assert "maxImageMeta" not in (await api.get("/limits", new))["limits"]["absolute"]


@of("2.42")
async def network_tag_again(api: Api, compute: Compute, old: str, new: str) -> None:
    await network_tag(api, compute, old, new)


@of("2.47")
async def flavor(api: Api, compute: Compute, old: str, new: str) -> None:
    link = {"rel": "bookmark", "href": "http://pileus/compute/flavors/1"}
    assert (await shown(api, compute, old))["flavor"] == {"id": "1", "links": [link]}
    assert (await shown(api, compute, new))["flavor"]["original_name"] == "small"


@of("2.51")
async def events(api: Api, compute: Compute, old: str, new: str) -> None:
    server_id = await api.make()
    (action,) = (await api.get(f"/servers/{server_id}/os-instance-actions", new))["instanceActions"]
    path = f"/servers/{server_id}/os-instance-actions/{action['request_id']}"
    assert (
        "events" not in (await api.get(path, old))["instanceAction"] and "events" in (await api.get(path, old, "admin"))["instanceAction"]
    )
    assert "events" in (await api.get(path, new))["instanceAction"]
    await event_name(api, old, new, "volume-extended")


async def event_name(api: Api, old: str, new: str, name: str) -> None:
    body = {"events": [{"name": name, "server_uuid": NOWHERE, "tag": "x"}]}
    for version, status in ((old, 400), (new, 207)):
        assert (await api.call("POST", "/os-server-external-events", version, body, "service")).status_code == status


@of("2.52")
async def tags_on_create(api: Api, compute: Compute, old: str, new: str) -> None:
    body = {"server": {"name": "x", "flavorRef": "1", "networks": "none", "tags": ["a"]}}
    assert "was unexpected" in await api.refused(400, "POST", "/servers", body, old)
    assert "not offered" in await api.refused(400, "POST", "/servers", body, new)


@of("2.53")
async def uuids(api: Api, compute: Compute, old: str, new: str) -> None:
    for path, key in (("/os-services", "services"), ("/os-hypervisors", "hypervisors")):
        assert isinstance((await api.get(path, old, "admin"))[key][0]["id"], int)
        assert len((await api.get(path, new, "admin"))[key][0]["id"]) == 36
    await api.refused(404, "GET", "/os-hypervisors/host/search", version=new, token="admin")
    assert "hypervisors" in await api.get("/os-hypervisors/host/search", old, "admin")


@of("2.55")
async def flavor_description(api: Api, compute: Compute, old: str, new: str) -> None:
    for path in ("/flavors", "/flavors/detail"):
        assert "description" not in (await api.get(path, old))["flavors"][0]
        assert (await api.get(path, new))["flavors"][0]["description"] is None
    body = {"flavor": {"description": "small and old"}}
    assert (await api.call("PUT", "/flavors/1", old, body, "admin")).status_code == 405
    assert (await api.call("PUT", "/flavors/1", new, body, "admin")).json()["flavor"]["description"] == "small and old"
    made = {"flavor": {"name": "n", "ram": 1, "vcpus": 1, "disk": 1, "description": "x"}}
    assert (await api.call("POST", "/flavors", old, made, "admin")).status_code == 400


@of("2.57")
async def personality(api: Api, compute: Compute, old: str, new: str) -> None:
    body = {"server": {"name": "x", "flavorRef": "1", "networks": "none", "personality": [{"path": "/a", "contents": ""}]}}
    assert "not offered" in await api.refused(400, "POST", "/servers", body, old)
    assert "was unexpected" in await api.refused(400, "POST", "/servers", body, new)
    assert "injected_files" in (await api.get("/os-quota-sets/project", old))["quota_set"]
    assert "injected_files" not in (await api.get("/os-quota-sets/project", new))["quota_set"]
    assert "maxPersonality" in (await api.get("/limits", old))["limits"]["absolute"]
    assert "maxPersonality" not in (await api.get("/limits", new))["limits"]["absolute"]


@of("2.58")
async def action_pages(api: Api, compute: Compute, old: str, new: str) -> None:
    server_id = await api.make()
    path = f"/servers/{server_id}/os-instance-actions?limit=0"
    (action,) = (await api.get(path, old))["instanceActions"]
    assert "updated_at" not in action
    assert (await api.get(path, new))["instanceActions"] == []
    assert "updated_at" in (await api.get(path.replace("limit=0", "limit=1"), new))["instanceActions"][0]


@of("2.61")
async def specs_in_flavors(api: Api, compute: Compute, old: str, new: str) -> None:
    for path in ("/flavors/detail", "/flavors/1"):
        found = await api.get(path, old), await api.get(path, new)
        views = [body["flavor"] if "flavor" in body else body["flavors"][0] for body in found]
        assert "extra_specs" not in views[0] and views[1]["extra_specs"] == {}


async def first_event(api: Api, compute: Compute, version: str, token: str) -> dict[str, Any]:
    server_id = (await shown(api, compute, version))["id"]
    (action,) = (await api.get(f"/servers/{server_id}/os-instance-actions", version))["instanceActions"]
    path = f"/servers/{server_id}/os-instance-actions/{action['request_id']}"
    return dict((await api.get(path, version, token))["instanceAction"]["events"][0])


@of("2.62")
async def event_host(api: Api, compute: Compute, old: str, new: str) -> None:
    assert not {"host", "hostId"} & set(await first_event(api, compute, old, "admin"))
    assert {"host", "hostId"} <= set(await first_event(api, compute, new, "admin"))
    assert {"host", "hostId"} & set(await first_event(api, compute, new, "member")) == {"hostId"}


@of("2.63")
async def certificates(api: Api, compute: Compute, old: str, new: str) -> None:
    await appears(api, compute, old, new, "trusted_image_certificates", None)
    assert await creates(api, old, trusted_image_certificates=None) == 400
    assert await creates(api, new, trusted_image_certificates=None) == 202


@of("2.66")
async def changes_before(api: Api, compute: Compute, old: str, new: str) -> None:
    server_id = (await shown(api, compute, new))["id"]
    query = "changes-before=2000-01-01T00:00:00Z"
    assert len((await api.get(f"/servers?{query}", old))["servers"]) == 1
    assert (await api.get(f"/servers?{query}", new))["servers"] == []
    await api.refused(400, "GET", f"/servers/{server_id}/os-instance-actions?{query}", version=old)
    assert (await api.get(f"/servers/{server_id}/os-instance-actions?{query}", new))["instanceActions"] == []


@of("2.70")
async def interface_tag(api: Api, compute: Compute, old: str, new: str) -> None:
    server_id = (await shown(api, compute, new))["id"]
    path = f"/servers/{server_id}/os-interface"
    assert "tag" not in (await api.get(path, old))["interfaceAttachments"][0]
    assert (await api.get(path, new))["interfaceAttachments"][0]["tag"] is None


@of("2.71")
async def server_groups(api: Api, compute: Compute, old: str, new: str) -> None:
    await appears(api, compute, old, new, "server_groups", [])
    assert "server_groups" not in (await api.get("/servers/detail", new))["servers"][0]


@of("2.73")
async def lock_reason(api: Api, compute: Compute, old: str, new: str) -> None:
    await appears(api, compute, old, new, "locked_reason", None)
    server_id = (await shown(api, compute, new))["id"]
    lock = {"lock": {"locked_reason": "why"}}
    await api.call("POST", f"/servers/{server_id}/action", old, lock)
    assert (await shown(api, compute, new))["locked_reason"] is None
    await api.call("POST", f"/servers/{server_id}/action", new, lock)
    assert (await shown(api, compute, new))["locked_reason"] == "why"
    assert len((await api.get("/servers?locked=false", old))["servers"]) == 1
    assert (await api.get("/servers?locked=false&sort_key=locked", new))["servers"] == []


@of("2.74")
async def requested_host(api: Api, compute: Compute, old: str, new: str) -> None:
    for values in ({"host": "host1"}, {"hypervisor_hostname": "host1"}, {"host": "host1", "hypervisor_hostname": "host1"}):
        assert await creates(api, old, **values) == 400 and await creates(api, new, **values) == 202
    assert await creates(api, new, host="none") == 400
    assert await creates(api, new, host="host1", hypervisor_hostname="other") == 400
    assert await creates(api, new, host="host1", availability_zone="nova:host1") == 400


@of("2.75")
async def strictness(api: Api, compute: Compute, old: str, new: str) -> None:
    server_id = (await shown(api, compute, new))["id"]
    quotas = "/os-quota-sets/project"
    for path in ("/servers", "/servers/detail", "/flavors", "/os-services", "/os-hypervisors", "/os-keypairs", "/limits", quotas):
        assert (await api.call("GET", f"{path}?nonsense=1", old, token="admin")).status_code == 200
        assert (await api.call("GET", f"{path}?nonsense=1", new, token="admin")).status_code == 400
    assert (await api.call("GET", "/servers?sort_key=vcpus", old)).status_code == 200
    assert (await api.call("GET", "/servers?sort_key=vcpus", new)).status_code == 400
    body = {"server": {"name": "two"}}
    assert "config_drive" not in (await api.call("PUT", f"/servers/{server_id}", old, body)).json()["server"]
    assert "config_drive" in (await api.call("PUT", f"/servers/{server_id}", new, body)).json()["server"]
    assert (await api.get("/flavors/1", old))["flavor"]["swap"] == "" and (await api.get("/flavors/1", new))["flavor"]["swap"] == 0
    await parts.add_host(compute, "host2")
    query = "/os-hypervisors?with_servers=true"
    assert "servers" not in (await api.get(query, old, "admin"))["hypervisors"][1]
    assert (await api.get(query, new, "admin"))["hypervisors"][1]["servers"] == []


@of("2.76")
async def power_update(api: Api, compute: Compute, old: str, new: str) -> None:
    await event_name(api, old, new, "power-update")


@of("2.82")
async def accelerator_bound(api: Api, compute: Compute, old: str, new: str) -> None:
    await event_name(api, old, new, "accelerator-request-bound")


@of("2.83")
async def filters_for_everyone(api: Api, compute: Compute, old: str, new: str) -> None:
    await shown(api, compute, new)
    for query in ("key_name=x", "vm_state=stopped", "task_state=x", "power_state=4", "user_id=x", "config_drive=true", "progress=5"):
        assert len((await api.get(f"/servers?{query}", old))["servers"]) == 1, query
        assert (await api.get(f"/servers?{query}", new))["servers"] == [], query


@of("2.84")
async def event_details(api: Api, compute: Compute, old: str, new: str) -> None:
    assert "details" not in await first_event(api, compute, old, "member")
    assert (await first_event(api, compute, new, "member"))["details"] is None


@of("2.88")
async def hypervisor_figures(api: Api, compute: Compute, old: str, new: str) -> None:
    (one,) = (await api.get("/os-hypervisors/detail", old, "admin"))["hypervisors"]
    (two,) = (await api.get("/os-hypervisors/detail", new, "admin"))["hypervisors"]
    gone = {
        *("vcpus", "vcpus_used", "memory_mb", "memory_mb_used", "local_gb", "local_gb_used", "free_ram_mb", "free_disk_gb"),
        *("running_vms", "cpu_info", "current_workload", "disk_available_least"),
    }
    assert set(one) - set(two) == gone and set(two) - set(one) == {"uptime"}
    for path in ("statistics", f"{one['id']}/uptime"):
        assert (await api.call("GET", f"/os-hypervisors/{path}", old, token="admin")).status_code == 200
        assert (await api.call("GET", f"/os-hypervisors/{path}", new, token="admin")).status_code == 404


@of("2.90")
async def hostname(api: Api, compute: Compute, old: str, new: str) -> None:
    await appears(api, compute, old, new, "OS-EXT-SRV-ATTR:hostname", "one")
    server_id = (await shown(api, compute, new))["id"]
    assert await creates(api, old, hostname="web") == 400 and await creates(api, new, hostname="web") == 202
    body = {"server": {"hostname": "web"}}
    assert (await api.call("PUT", f"/servers/{server_id}", old, body, "admin")).status_code == 400
    assert (await api.call("PUT", f"/servers/{server_id}", new, body, "admin")).status_code == 200


@of("2.92")
async def no_generated_keys(api: Api, compute: Compute, old: str, new: str) -> None:
    named = {"keypair": {"name": "me@example.org", "public_key": KEY}}
    assert (await api.call("POST", "/os-keypairs", old, named)).status_code == 400
    assert (await api.call("POST", "/os-keypairs", new, named)).status_code == 201
    generated = {"keypair": {"name": "a"}}
    assert (await api.call("POST", "/os-keypairs", new, generated)).status_code == 400
    assert (await api.call("POST", "/os-keypairs", old, generated)).status_code == 201


@of("2.93")
async def volume_reimaged(api: Api, compute: Compute, old: str, new: str) -> None:
    await event_name(api, old, new, "volume-reimaged")


@of("2.94")
async def hostname_with_dots(api: Api, compute: Compute, old: str, new: str) -> None:
    assert await creates(api, old, hostname="web.example") == 400 and await creates(api, new, hostname="web.example") == 202


@of("2.96")
async def pinned_zone(api: Api, compute: Compute, old: str, new: str) -> None:
    await appears(api, compute, old, new, "pinned_availability_zone", None)


async def evacuation(api: Api, compute: Compute, version: str, body: dict[str, Any]) -> str:
    """What is said of an evacuation from a host that is up: of a body that is well formed, just that."""
    server = await shown(api, compute, "2.1")
    if "host2" not in await compute.store.read(hosts.by_names, ["host2"]):
        await parts.add_host(compute, "host2")
    return await api.refused(400, "POST", f"/servers/{server['id']}/action", {"evacuate": body}, version, "admin")


@of("2.14")
async def evacuate_without_shared_storage(api: Api, compute: Compute, old: str, new: str) -> None:
    assert "still in use" in await evacuation(api, compute, old, {"onSharedStorage": False})
    assert "not known any more" in await evacuation(api, compute, new, {"onSharedStorage": False})
    assert "still in use" in await evacuation(api, compute, new, {})


@of("2.29")
async def evacuate_by_force(api: Api, compute: Compute, old: str, new: str) -> None:
    assert "force is known from" in await evacuation(api, compute, old, {"host": "host2", "force": True})
    assert "still in use" in await evacuation(api, compute, new, {"host": "host2", "force": True})


@of("2.68")
async def evacuate_without_force(api: Api, compute: Compute, old: str, new: str) -> None:
    assert "still in use" in await evacuation(api, compute, old, {"host": "host2", "force": True})
    assert "force is known from" in await evacuation(api, compute, new, {"host": "host2", "force": True})


@of("2.95")
async def evacuate_and_leave_stopped(api: Api, compute: Compute, old: str, new: str) -> None:
    row = await parts.add_host(compute, "host1")
    await compute.store.write(hosts.change, row["service_id"], forced_down=True)
    await parts.add_host(compute, "host2")
    for version, name in ((old, "evacuate"), (new, "evacuate_stopped")):
        server_id = await api.make()
        await parts.run(compute, server_id)
        answer = await api.call("POST", f"/servers/{server_id}/action", version, {"evacuate": {}}, "admin")
        assert answer.status_code == 200
        assert (await compute.store.read(of_server, server_id))[0]["name"] == name
