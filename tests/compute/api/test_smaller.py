"""Discovery, limits and quotas, metadata, addresses, interfaces, extensions; and what holds for every route."""

from __future__ import annotations

from typing import Any

import pytest

from pileus.compute.api.face import ROUTES
from pileus.compute.api.versions import FIRST
from pileus.compute.service import Compute
from pileus.http.microversions import show
from tests.compute import parts
from tests.compute.api.conftest import Api
from tests.compute.parts import NETWORK, PORT, SUBNET


async def test_discovery(api: Api) -> None:
    version = {"id": "v2.1", "status": "CURRENT", "version": "2.96", "min_version": "2.1"}
    (found,) = (await api.session.get("/")).json()["versions"]
    assert version.items() <= found.items()
    assert found["links"] == [{"rel": "self", "href": "http://pileus/compute/v2.1/"}]
    for path in ("/v2.1", "/v2.1/"):
        assert version.items() <= (await api.session.get(path)).json()["version"].items()


async def test_headers(api: Api) -> None:
    answer = await api.call("GET", "/flavors", "2.60")
    assert answer.headers["OpenStack-API-Version"] == "compute 2.60" and answer.headers["X-OpenStack-Nova-API-Version"] == "2.60"
    assert answer.headers["X-Compute-Request-Id"] == answer.headers["X-Openstack-Request-Id"]
    old = await api.session.get("/v2.1/flavors", headers={"X-Auth-Token": "member", "X-OpenStack-Nova-API-Version": "2.5"})
    assert old.headers["OpenStack-API-Version"] == "compute 2.5"
    await api.refused(406, "GET", "/flavors", version="2.97")
    assert (await api.session.get("/v2.1/flavors")).status_code == 401


@pytest.mark.parametrize("path", ["/os-migrations", "/images", "/os-volumes", "/os-server-groups", "/os-security-groups", "/nonsense"])
async def test_what_is_not_offered_is_not_there(api: Api, path: str) -> None:
    await api.refused(404, "GET", path, token="admin")


async def test_detaching_is_not_offered(api: Api) -> None:
    server_id = await api.make()
    await api.refused(405, "POST", f"/servers/{server_id}/os-interface", {})
    await api.refused(405, "DELETE", f"/servers/{server_id}/os-interface/{PORT}")
    await api.refused(404, "GET", f"/servers/{server_id}/diagnostics")


async def test_every_route_needs_a_token_and_a_role(api: Api) -> None:
    for route in ROUTES:
        if route.allow != "anyone":
            path = route.path.replace("{", "").replace("}", "")
            version = show(max(route.since, FIRST))
            answer = await api.session.request(route.method, path, headers={"OpenStack-API-Version": f"compute {version}"})
            assert answer.status_code == 401, route
        assert route.allow != "user", "compute needs a project"


async def test_metadata(api: Api, compute: Compute) -> None:
    server_id = await api.make(metadata={"a": "1"})
    path = f"/servers/{server_id}/metadata"
    assert "vm_state building" in await api.refused(409, "POST", path, {"metadata": {"b": "2"}})
    await parts.run(compute, server_id)
    assert (await api.call("POST", path, body={"metadata": {"b": "2"}})).json() == {"metadata": {"a": "1", "b": "2"}}
    assert (await api.call("PUT", f"{path}/a", body={"meta": {"a": "3"}})).json() == {"meta": {"a": "3"}}
    assert await api.get(f"{path}/a") == {"meta": {"a": "3"}}
    assert (await api.call("PUT", path, body={"metadata": {"c": "4"}})).json() == {"metadata": {"c": "4"}}
    assert await api.get(path) == {"metadata": {"c": "4"}}
    assert (await api.call("DELETE", f"{path}/c")).status_code == 204
    assert await api.get(path) == {"metadata": {}}
    await api.refused(404, "DELETE", f"{path}/c")
    await api.refused(404, "GET", f"{path}/c")
    await api.refused(400, "PUT", f"{path}/a", {"meta": {"b": "3"}})
    await api.refused(400, "PUT", f"{path}/a", {"meta": {"a": "3", "b": "3"}})
    await api.refused(400, "PUT", path, {"metadata": {"a/b": "3"}})
    await api.refused(403, "PUT", path, {"metadata": {f"k{i}": "" for i in range(129)}})


async def test_addresses(api: Api, compute: Compute) -> None:
    server_id = await api.make()
    await parts.run(compute, server_id)
    view = {"lan": [{"version": 4, "addr": "10.0.0.5"}]}
    assert await api.get(f"/servers/{server_id}/ips") == {"addresses": view}
    assert await api.get(f"/servers/{server_id}/ips/lan") == view
    await api.refused(404, "GET", f"/servers/{server_id}/ips/none")


async def test_interfaces(api: Api, compute: Compute) -> None:
    server_id = await api.make(networks=[{"uuid": NETWORK, "tag": "first"}])
    await parts.run(compute, server_id)
    view = {
        "net_id": NETWORK,
        "port_id": PORT,
        "mac_addr": "fa:16:3e:00:00:01",
        "port_state": "ACTIVE",
        "fixed_ips": [{"subnet_id": SUBNET, "ip_address": "10.0.0.5"}],
        "tag": "first",
    }
    assert await api.get(f"/servers/{server_id}/os-interface") == {"interfaceAttachments": [view]}
    assert await api.get(f"/servers/{server_id}/os-interface/{PORT}") == {"interfaceAttachment": view}
    await api.refused(404, "GET", f"/servers/{server_id}/os-interface/{NETWORK}")


async def test_limits(api: Api) -> None:
    await api.make()
    found = (await api.get("/limits"))["limits"]
    absolute = found["absolute"]
    assert found["rate"] == [] and absolute["maxTotalInstances"] == 100 and absolute["maxTotalKeypairs"] == 100
    assert (absolute["totalInstancesUsed"], absolute["totalCoresUsed"], absolute["totalRAMUsed"]) == (1, 1, 512)
    assert (await api.get("/limits?tenant_id=project", token="admin"))["limits"]["absolute"] == absolute
    await api.refused(403, "GET", "/limits?tenant_id=elsewhere")


async def test_quotas(api: Api) -> None:
    await api.make()
    quotas = (await api.get("/os-quota-sets/project"))["quota_set"]
    assert (quotas["id"], quotas["instances"], quotas["server_groups"]) == ("project", 100, 0)
    detail = (await api.get("/os-quota-sets/project/detail"))["quota_set"]
    assert detail["cores"] == {"limit": 200, "in_use": 1, "reserved": 0}

    async def put(**values: Any) -> Any:
        return await api.call("PUT", "/os-quota-sets/project", body={"quota_set": values}, token="admin")

    changed = (await put(instances="1", ram=-1)).json()["quota_set"]
    assert (changed["instances"], changed["ram"], "id" in changed) == (1, -1, False)
    await api.refused(403, "POST", "/servers", {"server": {"name": "x", "flavorRef": "1", "networks": "none"}})
    assert "already used" in (await put(instances=0)).json()["badRequest"]["message"]
    assert (await put(instances=0, force=True)).status_code == 200
    assert (await api.get("/os-quota-sets/project/defaults"))["quota_set"]["instances"] == 100
    assert (await api.call("DELETE", "/os-quota-sets/project", token="admin")).status_code == 202
    assert (await api.get("/os-quota-sets/project"))["quota_set"] == quotas
    for bad in ({"instances": -2}, {"instances": "x"}, {"nonsense": 1}, {"server_groups": 5}, {"floating_ips": 1}):
        assert (await put(**bad)).status_code == 400
    await api.refused(403, "GET", "/os-quota-sets/elsewhere")
    await api.refused(403, "PUT", "/os-quota-sets/project", {"quota_set": {}})
    await api.refused(400, "GET", "/os-quota-sets/project?user_id=user", token="admin")


async def test_extensions(api: Api) -> None:
    found = (await api.get("/extensions"))["extensions"]
    assert "os-keypairs" in {extension["alias"] for extension in found}
    assert (await api.get("/extensions/os-keypairs"))["extension"]["name"] == "Keypairs"
    await api.refused(404, "GET", "/extensions/os-volumes")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"null", b"[" * 100_000])
async def test_what_is_not_json(api: Api, content: bytes) -> None:
    for route in ROUTES:
        if route.method in ("POST", "PUT"):
            path = route.path.replace("{", "").replace("}", "").removeprefix("/v2.1")
            answer = await api.call(route.method, path, token="admin", content=content)
            assert answer.status_code in (400, 404), (route, answer.text)
    answer = await api.call("POST", "/servers", content=b"x" * (1 << 21))
    assert answer.status_code == 413
    assert (await api.call("POST", "/servers", content=b"{}", headers={"Content-Type": "text/plain"})).status_code == 415
