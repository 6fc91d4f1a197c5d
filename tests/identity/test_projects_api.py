"""/v3/projects and /v3/domains."""

from __future__ import annotations

from typing import Any

import pytest

from tests.identity.conftest import BASE, Cloud


async def test_create_show_list_change_delete(cloud: Cloud) -> None:
    project = await cloud.make("project", name="demo", description="mine", colour="blue", tags=[], options={})
    pid = project["id"]
    assert project == {
        "id": pid,
        "name": "demo",
        "domain_id": "default",
        "parent_id": "default",
        "description": "mine",
        "enabled": True,
        "is_domain": False,
        "colour": "blue",
        "tags": [],
        "options": {},
        "links": {"self": f"{BASE}/identity/v3/projects/{pid}"},
    }
    assert (await cloud.http.get(f"/v3/projects/{pid}", headers=cloud.headers)).json() == {"project": project}
    for query in ("name=demo", f"parent_id=default&name=demo&enabled=1&limit=1&sort_key=id&marker={'0' * 0}", "name=demo&is_domain=false"):
        assert (await cloud.http.get(f"/v3/projects?{query}", headers=cloud.headers)).json()["projects"] == [project]
    for query in ("name=other", "domain_id=other", "parent_id=other", "name=demo&enabled=0", "is_domain=true"):
        assert (await cloud.http.get(f"/v3/projects?{query}", headers=cloud.headers)).json()["projects"] == []
    change = {"name": "demo2", "description": None, "colour": "red", "domain_id": "default", "parent_id": "default", "is_domain": False}
    changed = await cloud.http.patch(f"/v3/projects/{pid}", json={"project": change}, headers=cloud.headers)
    assert changed.json()["project"] == {**project, "name": "demo2", "description": "", "colour": "red"}
    assert (await cloud.http.delete(f"/v3/projects/{pid}", headers=cloud.headers)).status_code == 204
    for method in ("GET", "PATCH", "DELETE"):
        answer = await cloud.http.request(method, f"/v3/projects/{pid}", json={"project": {}}, headers=cloud.headers)
        assert (answer.status_code, answer.json()["error"]["message"]) == (404, f"Could not find project: {pid}.")


@pytest.mark.parametrize(
    ("project", "status"),
    [
        ({}, 400),
        ({"name": " "}, 400),
        ({"name": "x" * 256}, 400),
        ({"name": "x", "description": "d" * 4097}, 400),
        ({"name": "x", "enabled": "yes"}, 400),
        ({"name": "x", "is_domain": True}, 400),
        ({"name": "x", "tags": ["a"]}, 400),
        ({"name": "x", "options": {"immutable": True}}, 400),
        ({"name": "x", "domain_id": "nowhere"}, 404),
        ({"name": "x", "parent_id": "nowhere"}, 404),
        ({"name": "admin"}, 409),
    ],
)
async def test_what_is_refused(cloud: Cloud, project: Any, status: int) -> None:
    assert (await cloud.http.post("/v3/projects", json={"project": project}, headers=cloud.headers)).status_code == status


async def test_the_tree(cloud: Cloud) -> None:
    async def switch(project: Any, enabled: bool) -> int:
        path = f"/v3/projects/{project['id']}"
        return (await cloud.http.patch(path, json={"project": {"enabled": enabled}}, headers=cloud.headers)).status_code

    async def below(parent: Any, **more: Any) -> tuple[int, Any]:
        body = {"project": {"name": f"below {parent['name']}", "parent_id": parent["id"], **more}}
        answer = await cloud.http.post("/v3/projects", json=body, headers=cloud.headers)
        return answer.status_code, answer.json().get("project")

    top = await cloud.make("project", name="top")
    _, middle = await below(top)
    assert (middle["parent_id"], middle["domain_id"]) == (top["id"], "default")
    _, low = await below(middle)
    _, lowest = await below(low)
    assert (await below(lowest))[0] == 403  # five levels with the domain
    home = await cloud.make("domain", name="home")
    assert (await below(top, domain_id=home["id"]))[0] == 400
    assert (await cloud.http.delete(f"/v3/projects/{middle['id']}", headers=cloud.headers)).status_code == 403
    assert await switch(middle, False) == 403
    for each in (lowest, low, middle):
        assert await switch(each, False) == 200
    assert await switch(low, True) == 403
    assert (await below(middle, name="new"))[0] == 400
    assert (await below(middle, name="new", enabled=False))[0] == 201
    assert await switch(middle, True) == 200
    assert await switch(low, True) == 200
    moved = await cloud.http.patch(f"/v3/projects/{low['id']}", json={"project": {"parent_id": top["id"]}}, headers=cloud.headers)
    assert moved.status_code == 403
    moved = await cloud.http.patch(f"/v3/projects/{low['id']}", json={"project": {"domain_id": home["id"]}}, headers=cloud.headers)
    assert moved.status_code == 400


async def test_tokens_of_a_disabled_or_deleted_project_are_refused(cloud: Cloud) -> None:
    user, project = await cloud.member()
    headers = await cloud.headers_of(user["id"], "wonderland", project["id"])

    async def works() -> bool:
        return (await cloud.http.get("/v3/auth/projects", headers=headers)).status_code == 200

    path = f"/v3/projects/{project['id']}"
    assert await works()
    await cloud.http.patch(path, json={"project": {"enabled": False}}, headers=cloud.headers)
    assert not await works()
    await cloud.http.patch(path, json={"project": {"enabled": True}}, headers=cloud.headers)
    assert await works()
    await cloud.http.delete(path, headers=cloud.headers)
    assert not await works()
    assert (await cloud.http.get(path, headers=cloud.headers)).status_code == 404
    left = await cloud.http.get(f"/v3/role_assignments?user.id={user['id']}", headers=cloud.headers)
    assert left.json()["role_assignments"] == []


async def test_what_a_member_may(cloud: Cloud) -> None:
    user, project = await cloud.member()
    mine = await cloud.headers_of(user["id"], "wonderland", project["id"])
    assert (await cloud.http.get(f"/v3/projects/{project['id']}", headers=mine)).status_code == 200
    assert (await cloud.http.get("/v3/domains/default", headers=mine)).status_code == 200
    for method, path in [
        ("GET", "/v3/projects"),
        ("POST", "/v3/projects"),
        ("GET", f"/v3/projects/{cloud.boot.admin_project_id}"),
        ("GET", "/v3/projects/nowhere"),
        ("PATCH", f"/v3/projects/{project['id']}"),
        ("DELETE", f"/v3/projects/{project['id']}"),
        ("GET", "/v3/domains"),
        ("GET", "/v3/domains/nowhere"),
        ("POST", "/v3/domains"),
        ("PATCH", "/v3/domains/default"),
        ("DELETE", "/v3/domains/default"),
    ]:
        assert (await cloud.http.request(method, path, headers=mine)).status_code == 403, (method, path)
    unscoped = await cloud.headers_of(user["id"], "wonderland")
    assert (await cloud.http.get("/v3/domains/default", headers=unscoped)).status_code == 403


async def test_the_service_project_cannot_be_broken(cloud: Cloud) -> None:
    path = f"/v3/projects/{cloud.boot.service_project_id}"
    for change in ({"name": "other"}, {"enabled": False}):
        assert (await cloud.http.patch(path, json={"project": change}, headers=cloud.headers)).status_code == 403
    assert (await cloud.http.delete(path, headers=cloud.headers)).status_code == 403


async def test_domains(cloud: Cloud) -> None:
    domain = await cloud.make("domain", name="home", description="ours", shade="x")
    path = f"/v3/domains/{domain['id']}"
    assert domain == {
        "id": domain["id"],
        "name": "home",
        "description": "ours",
        "enabled": True,
        "shade": "x",
        "tags": [],
        "options": {},
        "links": {"self": f"{BASE}/identity{path}"},
    }
    assert (await cloud.http.get(path, headers=cloud.headers)).json() == {"domain": domain}
    listed = (await cloud.http.get("/v3/domains", headers=cloud.headers)).json()["domains"]
    assert [each["name"] for each in listed] == ["Default", "home"]
    assert (await cloud.http.get("/v3/domains?name=home", headers=cloud.headers)).json()["domains"] == [domain]
    assert (await cloud.http.post("/v3/domains", json={"domain": {"name": "home"}}, headers=cloud.headers)).status_code == 409
    assert (await cloud.http.patch(path, json={"domain": {"name": "Default"}}, headers=cloud.headers)).status_code == 409
    assert (await cloud.http.patch(path, json={"domain": {"name": ""}}, headers=cloud.headers)).status_code == 400
    changed = (await cloud.http.patch(path, json={"domain": {"description": "theirs"}}, headers=cloud.headers)).json()["domain"]
    assert changed == {**domain, "description": "theirs"}


async def test_a_domain_goes_with_all_that_is_in_it_once_it_is_disabled(cloud: Cloud) -> None:
    domain = await cloud.make("domain", name="home")
    path = f"/v3/domains/{domain['id']}"
    user = await cloud.make("user", name="eve", password="pw", domain_id=domain["id"])
    project = await cloud.make("project", name="p", domain_id=domain["id"])
    await cloud.assign(user["id"], "member", project=project["id"])
    await cloud.assign(cloud.boot.admin_id, "reader", project=project["id"])
    await cloud.assign(cloud.boot.admin_id, "reader", domain=domain["id"])
    headers = await cloud.headers_of(user["id"], "pw", project["id"])
    assert (await cloud.http.delete(path, headers=cloud.headers)).status_code == 403
    assert (await cloud.http.patch(path, json={"domain": {"enabled": False}}, headers=cloud.headers)).status_code == 200
    assert (await cloud.http.get("/v3/auth/projects", headers=headers)).status_code == 401
    assert [each["name"] for each in (await cloud.http.get("/v3/auth/projects", headers=cloud.headers)).json()["projects"]] == ["admin"]
    assert (await cloud.http.delete(path, headers=cloud.headers)).status_code == 204
    for gone in (path, f"/v3/users/{user['id']}", f"/v3/projects/{project['id']}"):
        assert (await cloud.http.get(gone, headers=cloud.headers)).status_code == 404
    left = (await cloud.http.get(f"/v3/role_assignments?user.id={cloud.boot.admin_id}", headers=cloud.headers)).json()["role_assignments"]
    assert [each["scope"] for each in left] == [{"project": {"id": cloud.boot.admin_project_id}}]


async def test_the_default_domain_stays(cloud: Cloud) -> None:
    assert (await cloud.http.patch("/v3/domains/default", json={"domain": {"enabled": False}}, headers=cloud.headers)).status_code == 403
    assert (await cloud.http.delete("/v3/domains/default", headers=cloud.headers)).status_code == 403
