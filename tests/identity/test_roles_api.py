"""/v3/roles, assignments, and the catalogue's own resources."""

from __future__ import annotations

from typing import Any

import pytest

from tests.identity.conftest import BASE, Cloud


async def test_create_show_list_change_delete(cloud: Cloud) -> None:
    role = await cloud.make("role", name="auditor", description="looks", note=1)
    path = f"/v3/roles/{role['id']}"
    assert role == {
        "id": role["id"],
        "name": "auditor",
        "description": "looks",
        "domain_id": None,
        "note": 1,
        "options": {},
        "links": {"self": f"{BASE}/identity{path}"},
    }
    assert (await cloud.http.get(path, headers=cloud.headers)).json() == {"role": role}
    names = [each["name"] for each in (await cloud.http.get("/v3/roles", headers=cloud.headers)).json()["roles"]]
    assert names == ["admin", "auditor", "member", "reader", "service"]
    assert (await cloud.http.get("/v3/roles?domain_id=default", headers=cloud.headers)).json()["roles"] == []
    changed = await cloud.http.patch(path, json={"role": {"name": "inspector", "description": None}}, headers=cloud.headers)
    assert changed.json()["role"] == {**role, "name": "inspector", "description": None}
    assert (await cloud.http.patch(path, json={"role": {"name": "admin"}}, headers=cloud.headers)).status_code == 409
    assert (await cloud.http.post("/v3/roles", json={"role": {"name": "admin"}}, headers=cloud.headers)).status_code == 409
    assert (await cloud.http.delete(path, headers=cloud.headers)).status_code == 204
    assert (await cloud.http.get(path, headers=cloud.headers)).status_code == 404
    assert (await cloud.http.delete(path, headers=cloud.headers)).status_code == 404


@pytest.mark.parametrize(
    "role", [{}, {"name": ""}, {"name": 1}, {"name": "x", "domain_id": "default"}, {"name": "x", "options": {"immutable": True}}]
)
async def test_what_is_refused(cloud: Cloud, role: Any) -> None:
    assert (await cloud.http.post("/v3/roles", json={"role": role}, headers=cloud.headers)).status_code == 400


@pytest.mark.parametrize("name", ["admin", "member", "reader", "service"])
async def test_the_built_in_roles_stay(cloud: Cloud, name: str) -> None:
    path = f"/v3/roles/{await cloud.role(name)}"
    assert (await cloud.http.delete(path, headers=cloud.headers)).status_code == 403
    assert (await cloud.http.patch(path, json={"role": {"name": "x"}}, headers=cloud.headers)).status_code == 403


async def test_implications(cloud: Cloud) -> None:
    found = (await cloud.http.get("/v3/role_inferences", headers=cloud.headers)).json()["role_inferences"]
    pairs = {(each["prior_role"]["name"], *[role["name"] for role in each["implies"]]) for each in found}
    assert pairs == {("admin", "member"), ("member", "reader")}


async def test_a_role_on_a_project_or_domain(cloud: Cloud) -> None:
    user, project = await cloud.member()
    reader, admin = await cloud.role("reader"), await cloud.role("admin")
    for scope in (f"/v3/projects/{project['id']}", "/v3/domains/default"):
        path = f"{scope}/users/{user['id']}/roles"

        async def ask(method: str, role: str, path: str = path) -> int:
            return (await cloud.http.request(method, f"{path}/{role}", headers=cloud.headers)).status_code

        assert await ask("HEAD", reader) == 404  # implied by member on the project, but not given
        assert await ask("DELETE", reader) == 404
        assert [await ask("PUT", reader) for _ in range(2)] == [204, 204]
        assert (await ask("HEAD", reader), await ask("GET", reader), await ask("GET", admin)) == (204, 204, 404)
        given = (await cloud.http.get(path, headers=cloud.headers)).json()
        assert "reader" in [each["name"] for each in given["roles"]]
        assert given["links"]["self"] == f"{BASE}/identity{path}"
        assert (await ask("DELETE", reader), await ask("GET", reader)) == (204, 404)


async def test_assignments_of_what_is_not_there(cloud: Cloud) -> None:
    user, project = await cloud.member()
    role = await cloud.role("reader")
    wrong = [
        f"/v3/projects/nowhere/users/{user['id']}/roles/{role}",
        f"/v3/projects/{project['id']}/users/nobody/roles/{role}",
        f"/v3/projects/{project['id']}/users/{user['id']}/roles/none",
        f"/v3/domains/nowhere/users/{user['id']}/roles/{role}",
        f"/v3/projects/{project['id']}/groups/g/roles/{role}",
    ]
    for path in wrong:
        for method in ("PUT", "GET", "DELETE"):
            assert (await cloud.http.request(method, path, headers=cloud.headers)).status_code == 404, (method, path)
    for path in (f"/v3/projects/nowhere/users/{user['id']}/roles", f"/v3/projects/{project['id']}/users/nobody/roles"):
        assert (await cloud.http.get(path, headers=cloud.headers)).status_code == 404


async def test_roles_of_a_token_follow_the_assignments_at_once(cloud: Cloud) -> None:
    user, project = await cloud.member()
    headers = await cloud.headers_of(user["id"], "wonderland", project["id"])
    path = f"/v3/projects/{project['id']}/users/{user['id']}/roles"
    assert (await cloud.http.get("/v3/users", headers=headers)).status_code == 403
    await cloud.assign(user["id"], "admin", project=project["id"])
    assert (await cloud.http.get("/v3/users", headers=headers)).status_code == 200
    await cloud.http.delete(f"{path}/{await cloud.role('admin')}", headers=cloud.headers)
    assert (await cloud.http.get("/v3/users", headers=headers)).status_code == 403
    await cloud.http.delete(f"{path}/{await cloud.role('member')}", headers=cloud.headers)
    assert (await cloud.http.get("/v3/auth/projects", headers=headers)).status_code == 401  # no role is left


async def test_a_deleted_role_is_gone_from_tokens_and_assignments(cloud: Cloud) -> None:
    role = await cloud.make("role", name="auditor")
    user, project = await cloud.member(role="auditor")
    headers = await cloud.headers_of(user["id"], "wonderland", project["id"])
    assert (await cloud.http.delete(f"/v3/roles/{role['id']}", headers=cloud.headers)).status_code == 204
    assert (await cloud.http.get("/v3/auth/projects", headers=headers)).status_code == 401
    assert (await cloud.http.get(f"/v3/role_assignments?user.id={user['id']}", headers=cloud.headers)).json()["role_assignments"] == []


async def assignments(cloud: Cloud, query: str) -> list[dict[str, Any]]:
    answer = await cloud.http.get(f"/v3/role_assignments?{query}", headers=cloud.headers)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["role_assignments"]
    return found


async def test_role_assignments(cloud: Cloud) -> None:
    user, project = await cloud.member()
    await cloud.assign(user["id"], "reader", domain="default")
    member, reader = await cloud.role("member"), await cloud.role("reader")
    uid, pid = user["id"], project["id"]
    base = f"{BASE}/identity/v3"
    on_project = {
        "role": {"id": member},
        "user": {"id": uid},
        "scope": {"project": {"id": pid}},
        "links": {"assignment": f"{base}/projects/{pid}/users/{uid}/roles/{member}"},
    }
    on_domain = {
        "role": {"id": reader},
        "user": {"id": uid},
        "scope": {"domain": {"id": "default"}},
        "links": {"assignment": f"{base}/domains/default/users/{uid}/roles/{reader}"},
    }
    implied = {**on_project, "role": {"id": reader}, "links": {**on_project["links"], "prior_role": f"{base}/roles/{member}"}}
    assert await assignments(cloud, f"user.id={uid}") == [on_domain, on_project]
    assert await assignments(cloud, f"user.id={uid}&effective=0") == [on_domain, on_project]
    assert await assignments(cloud, f"user.id={uid}&effective") == [on_domain, on_project, implied]
    assert await assignments(cloud, f"user.id={uid}&effective=True&role.id={reader}") == [on_domain, implied]
    assert await assignments(cloud, f"user.id={uid}&role.id={reader}") == [on_domain]
    assert await assignments(cloud, f"scope.project.id={pid}") == [on_project]
    assert await assignments(cloud, f"scope.domain.id=default&user.id={uid}") == [on_domain]
    assert len(await assignments(cloud, "")) == 4
    for nothing in ("user.id=nobody", "role.id=none", "scope.project.id=nowhere", "group.id=g", "scope.system=all"):
        assert await assignments(cloud, nothing) == []
    domain = {"id": "default", "name": "Default"}
    assert await assignments(cloud, f"include_names=True&effective&role.id={reader}&user.id={uid}") == [
        {
            **on_domain,
            "role": {"id": reader, "name": "reader"},
            "user": {"id": uid, "name": "alice", "domain": domain},
            "scope": {"domain": domain},
        },
        {
            **implied,
            "role": {"id": reader, "name": "reader"},
            "user": {"id": uid, "name": "alice", "domain": domain},
            "scope": {"project": {"id": pid, "name": "alices", "domain": domain}},
        },
    ]
    for bad in ("scope.project.id=a&scope.domain.id=b", "scope.project.id=a&include_subtree=1"):
        assert (await cloud.http.get(f"/v3/role_assignments?{bad}", headers=cloud.headers)).status_code == 400


async def test_services_endpoints_and_regions(cloud: Cloud) -> None:
    services = (await cloud.http.get("/v3/services", headers=cloud.headers)).json()["services"]
    assert [each["type"] for each in services] == ["identity", "image", "placement", "compute", "network"]
    compute = next(each for each in services if each["type"] == "compute")
    assert (await cloud.http.get(f"/v3/services/{compute['id']}", headers=cloud.headers)).json() == {"service": compute}
    assert (await cloud.http.get("/v3/services?type=compute", headers=cloud.headers)).json()["services"] == [compute]
    assert (await cloud.http.get("/v3/services?name=nothing", headers=cloud.headers)).json()["services"] == []
    endpoints = (await cloud.http.get(f"/v3/endpoints?service_id={compute['id']}&interface=admin", headers=cloud.headers)).json()[
        "endpoints"
    ]
    assert [(each["url"], each["region_id"], each["enabled"]) for each in endpoints] == [(f"{BASE}/compute/v2.1", "RegionOne", True)]
    assert (await cloud.http.get(f"/v3/endpoints/{endpoints[0]['id']}", headers=cloud.headers)).json() == {"endpoint": endpoints[0]}
    assert len((await cloud.http.get("/v3/endpoints", headers=cloud.headers)).json()["endpoints"]) == 15
    region = {"id": "RegionOne", "description": "", "parent_region_id": None, "links": {"self": f"{BASE}/identity/v3/regions/RegionOne"}}
    assert (await cloud.http.get("/v3/regions", headers=cloud.headers)).json()["regions"] == [region]
    assert (await cloud.http.get("/v3/regions/RegionOne", headers=cloud.headers)).json() == {"region": region}
    for absent in ("/v3/services/x", "/v3/endpoints/x", "/v3/regions/x"):
        assert (await cloud.http.get(absent, headers=cloud.headers)).status_code == 404
    assert (await cloud.http.post("/v3/services", json={"service": {"type": "x"}}, headers=cloud.headers)).status_code == 405


async def test_what_a_member_may_not(cloud: Cloud) -> None:
    user, project = await cloud.member()
    mine = await cloud.headers_of(user["id"], "wonderland", project["id"])
    path = f"/v3/projects/{project['id']}/users/{user['id']}/roles"
    admin = await cloud.role("admin")
    for method, where in [
        ("GET", "/v3/roles"),
        ("POST", "/v3/roles"),
        ("GET", f"/v3/roles/{admin}"),
        ("GET", "/v3/role_assignments"),
        ("GET", "/v3/role_inferences"),
        ("GET", path),
        ("PUT", f"{path}/{admin}"),
        ("GET", f"{path}/{admin}"),
        ("DELETE", f"{path}/{await cloud.role('member')}"),
        ("GET", "/v3/services"),
        ("GET", "/v3/endpoints"),
    ]:
        assert (await cloud.http.request(method, where, headers=mine)).status_code == 403, (method, where)
    assert (await cloud.http.get("/v3/regions", headers=mine)).status_code == 200
