"""Flavors: made, seen by whom, their extra specs and access."""

from __future__ import annotations

from typing import Any

import pytest

from pileus.compute.service import Compute
from tests.compute import parts
from tests.compute.api.conftest import Api, api, compute

__all__ = ["api", "compute"]

NEW: dict[str, Any] = {"name": "big", "ram": 2048, "vcpus": "2", "disk": 0}


async def make(api: Api, **values: Any) -> dict[str, Any]:
    answer = await api.call("POST", "/flavors", body={"flavor": {**NEW, **values}}, token="admin")
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["flavor"])


async def test_create_and_show(api: Api) -> None:
    made = await make(api, description="roomy", rxtx_factor="1.5")
    assert (made["ram"], made["vcpus"], made["disk"], made["swap"], made["rxtx_factor"]) == (2048, 2, 0, 0, 1.5)
    assert made["os-flavor-access:is_public"] is True and made["OS-FLV-DISABLED:disabled"] is False
    assert (await api.get(f"/flavors/{made['id']}"))["flavor"] == made
    assert made["links"][0]["href"] == f"http://pileus/compute/v2.1/flavors/{made['id']}"
    assert (await api.call("DELETE", f"/flavors/{made['id']}", token="admin")).status_code == 202
    await api.refused(404, "GET", f"/flavors/{made['id']}")
    await api.refused(404, "DELETE", f"/flavors/{made['id']}", token="admin")


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"name": " "}, 400),
        ({"ram": 0}, 400),
        ({"ram": 2**31}, 400),
        ({"ram": "x"}, 400),
        ({"ram": 1.5}, 400),
        ({"vcpus": -1}, 400),
        ({"disk": -1}, 400),
        ({"id": " x"}, 400),
        ({"id": "a/b"}, 400),
        ({"swap": 5}, 400),
        ({"OS-FLV-EXT-DATA:ephemeral": 1}, 400),
        ({"rxtx_factor": 0}, 400),
        ({"rxtx_factor": "nan"}, 400),
        ({"os-flavor-access:is_public": "perhaps"}, 400),
        ({"more": 1}, 400),
        ({"name": "small"}, 409),
        ({"id": "1"}, 409),
    ],
)
async def test_create_refuses(api: Api, values: dict[str, Any], status: int) -> None:
    await api.refused(status, "POST", "/flavors", {"flavor": {**NEW, **values}}, token="admin")


async def test_admins_only(api: Api) -> None:
    await api.refused(403, "POST", "/flavors", {"flavor": NEW})
    await api.refused(403, "DELETE", "/flavors/1")
    await api.refused(403, "POST", "/flavors/1/os-extra_specs", {"extra_specs": {"a": "b"}})


async def test_lists(api: Api, compute: Compute) -> None:
    await parts.add_flavor(compute, "2", "large", ram=4096, disk=40)

    async def ids(query: str) -> list[str]:
        return [flavor["id"] for flavor in (await api.get(f"/flavors?{query}"))["flavors"]]

    assert await ids("") == ["1", "2"]
    assert await ids("minRam=1024") == ["2"]
    assert await ids("minDisk=41") == []
    assert await ids("sort_key=name") == ["2", "1"]
    assert await ids("sort_key=memory_mb&sort_dir=desc") == ["2", "1"]
    page = await api.get("/flavors/detail?limit=1")
    assert page["flavors_links"][0]["href"] == "http://pileus/compute/v2.1/flavors/detail?limit=1&marker=1"
    assert await ids("limit=1&marker=1") == ["2"]
    for bad in ("minRam=x", "marker=none", "sort_key=none", "sort_dir=up", "is_public=perhaps", "nonsense=1"):
        await api.refused(400, "GET", f"/flavors?{bad}")


async def test_private_flavors(api: Api) -> None:
    flavor = (await make(api, **{"os-flavor-access:is_public": False}))["id"]
    await api.refused(404, "GET", f"/flavors/{flavor}")
    body = {"server": {"name": "x", "flavorRef": flavor, "networks": "none"}}
    await api.refused(400, "POST", "/servers", body)
    give = {"addTenantAccess": {"tenant": "project"}}
    access = {"flavor_access": [{"flavor_id": flavor, "tenant_id": "project"}]}
    assert (await api.call("POST", f"/flavors/{flavor}/action", body=give, token="admin")).json() == access
    await api.refused(409, "POST", f"/flavors/{flavor}/action", give, token="admin")
    assert await api.get(f"/flavors/{flavor}/os-flavor-access", token="admin") == access
    assert [f["id"] for f in (await api.get("/flavors"))["flavors"]] == sorted(["1", flavor])
    assert [f["id"] for f in (await api.get("/flavors", token="other"))["flavors"]] == ["1"]
    assert [f["id"] for f in (await api.get("/flavors?is_public=false", token="admin"))["flavors"]] == [flavor]
    assert len((await api.get("/flavors?is_public=None", token="admin"))["flavors"]) == 2
    assert len((await api.get("/flavors", token="admin"))["flavors"]) == 1
    take = {"removeTenantAccess": {"tenant": "project"}}
    assert (await api.call("POST", f"/flavors/{flavor}/action", body=take, token="admin")).json() == {"flavor_access": []}
    await api.refused(404, "POST", f"/flavors/{flavor}/action", take, token="admin")
    await api.refused(404, "GET", f"/flavors/{flavor}")
    await api.refused(404, "GET", "/flavors/1/os-flavor-access", token="admin")
    await api.refused(400, "POST", f"/flavors/{flavor}/action", {}, token="admin")


async def test_extra_specs(api: Api) -> None:
    put = await api.call("POST", "/flavors/1/os-extra_specs", body={"extra_specs": {"a": "b", "n": 5}}, token="admin")
    assert put.json() == {"extra_specs": {"a": "b", "n": "5"}}
    assert await api.get("/flavors/1/os-extra_specs") == {"extra_specs": {"a": "b", "n": "5"}}
    assert (await api.call("PUT", "/flavors/1/os-extra_specs/a", body={"a": "c"}, token="admin")).json() == {"a": "c"}
    assert await api.get("/flavors/1/os-extra_specs/a") == {"a": "c"}
    await api.refused(400, "PUT", "/flavors/1/os-extra_specs/a", {"b": "c"}, token="admin")
    await api.refused(400, "POST", "/flavors/1/os-extra_specs", {"extra_specs": {"a/b": "c"}}, token="admin")
    assert (await api.call("DELETE", "/flavors/1/os-extra_specs/a", token="admin")).status_code == 200
    await api.refused(404, "DELETE", "/flavors/1/os-extra_specs/a", token="admin")
    await api.refused(404, "GET", "/flavors/1/os-extra_specs/a")


async def test_a_server_keeps_its_flavor(api: Api) -> None:
    server_id = await api.make()
    await api.call("DELETE", "/flavors/1", token="admin")
    assert (await api.get(f"/servers/{server_id}"))["server"]["flavor"]["original_name"] == "small"
