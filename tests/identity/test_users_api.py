"""/v3/users."""

from __future__ import annotations

from typing import Any

import pytest

from tests.identity.conftest import BASE, Cloud


def deep(levels: int) -> Any:
    return [deep(levels - 1)] if levels else 1


async def test_create_show_list_change_delete(cloud: Cloud) -> None:
    user = await cloud.make("user", name="carol", password="pw", email="c@example.org", description="one", nested={"a": [1]})
    uid = user["id"]
    assert user == {
        "id": uid,
        "name": "carol",
        "domain_id": "default",
        "enabled": True,
        "email": "c@example.org",
        "description": "one",
        "nested": {"a": [1]},
        "password_expires_at": None,
        "options": {},
        "links": {"self": f"{BASE}/identity/v3/users/{uid}"},
    }
    assert (await cloud.http.get(f"/v3/users/{uid}", headers=cloud.headers)).json() == {"user": user}
    listed = (await cloud.http.get("/v3/users?name=carol", headers=cloud.headers)).json()
    assert listed == {"users": [user], "links": {"self": f"{BASE}/identity/v3/users?name=carol", "previous": None, "next": None}}
    change = {"name": "caroline", "enabled": False, "default_project_id": "p", "email": None, "id": "ignored", "links": {}}
    changed = (await cloud.http.patch(f"/v3/users/{uid}", json={"user": change}, headers=cloud.headers)).json()["user"]
    assert changed == {**user, "name": "caroline", "enabled": False, "default_project_id": "p", "email": None}
    assert (await cloud.http.get(f"/v3/users/{uid}", headers=cloud.headers)).json()["user"] == changed
    assert (await cloud.http.delete(f"/v3/users/{uid}", headers=cloud.headers)).status_code == 204
    for method in ("GET", "PATCH", "DELETE"):
        answer = await cloud.http.request(method, f"/v3/users/{uid}", json={"user": {}}, headers=cloud.headers)
        assert (answer.status_code, answer.json()["error"]["message"]) == (404, f"Could not find user: {uid}.")


async def test_no_answer_ever_holds_a_password_or_its_hash(cloud: Cloud) -> None:
    user, _ = await cloud.member()
    texts = [(await cloud.http.get(path, headers=cloud.headers)).text for path in ("/v3/users", f"/v3/users/{user['id']}")]
    texts.append((await cloud.http.patch(f"/v3/users/{user['id']}", json={"user": {"password": "fresh"}}, headers=cloud.headers)).text)
    for text in texts:
        assert "password_hash" not in text and "argon2" not in text and "token_epoch" not in text and '"password"' not in text


async def test_filters_and_pages(cloud: Cloud) -> None:
    home = await cloud.make("domain", name="home")
    made = [await cloud.make("user", name=f"u{n}", domain_id=home["id"], enabled=n % 2 == 0) for n in range(7)]

    async def names(query: str) -> list[str]:
        found = (await cloud.http.get(f"/v3/users?{query}", headers=cloud.headers)).json()["users"]
        return [each["name"] for each in found]

    here = f"domain_id={home['id']}"
    assert await names(f"{here}&enabled=false") == ["u1", "u3", "u5"]
    assert await names(f"{here}&limit=2&sort_key=name&sort_dir=desc") == ["u6", "u5"]
    assert await names("name=nobody") == []
    pages, url = [], f"/v3/users?{here}&limit=3"
    while url:
        body = (await cloud.http.get(url, headers=cloud.headers)).json()
        pages.append([each["name"] for each in body["users"]])
        url = (body["links"]["next"] or "").removeprefix(f"{BASE}/identity")
    assert pages == [["u0", "u1", "u2"], ["u3", "u4", "u5"], ["u6"]]
    assert len(await names(here)) == 5  # the face's own largest page
    for bad in ("limit=x", "marker=nobody", "sort_key=password_hash", "enabled=perhaps"):
        assert (await cloud.http.get(f"/v3/users?{bad}", headers=cloud.headers)).status_code == 400
    assert made[0]["domain_id"] == home["id"]


async def test_names_are_unique_in_a_domain_only(cloud: Cloud) -> None:
    home = await cloud.make("domain", name="home")
    await cloud.make("user", name="dora")
    there = await cloud.make("user", name="dora", domain_id=home["id"])
    other = await cloud.make("user", name="dorothy")
    taken = await cloud.http.post("/v3/users", json={"user": {"name": "dora"}}, headers=cloud.headers)
    assert (taken.status_code, "Duplicate entry found with name dora" in taken.text) == (409, True)
    assert (await cloud.http.patch(f"/v3/users/{other['id']}", json={"user": {"name": "dora"}}, headers=cloud.headers)).status_code == 409
    assert (await cloud.http.patch(f"/v3/users/{there['id']}", json={"user": {"name": "dora"}}, headers=cloud.headers)).status_code == 200
    moved = await cloud.http.patch(f"/v3/users/{other['id']}", json={"user": {"domain_id": home["id"]}}, headers=cloud.headers)
    assert (moved.status_code, "domain_id" in moved.text) == (400, True)
    nowhere = await cloud.http.post("/v3/users", json={"user": {"name": "x", "domain_id": "nowhere"}}, headers=cloud.headers)
    assert nowhere.status_code == 404


@pytest.mark.parametrize(
    "user",
    [
        {},
        {"name": ""},
        {"name": "  "},
        {"name": "x" * 256},
        {"name": None},
        {"name": 5},
        {"name": "x", "enabled": "true"},
        {"name": "x", "enabled": 1},
        {"name": "x", "enabled": None},
        {"name": "x", "password": 12345},
        {"name": "x", "password": ""},
        {"name": "x", "password": "p" * 4097},
        {"name": "x", "domain_id": "d" * 65},
        {"name": "x", "default_project_id": {}},
        {"name": "x", "description": 1},
        {"name": "x", "options": {"ignore_password_expiry": True}},
        {"name": "x", "y" * 256: 1},
        {"name": "x", "": 1},
        {"name": "x", "big": "b" * 70_000},
        {"name": "x", "deep": deep(40)},
        [],
        "x",
        None,
    ],
)
async def test_what_is_refused(cloud: Cloud, user: Any) -> None:
    answer = await cloud.http.post("/v3/users", json={"user": user}, headers=cloud.headers)
    assert answer.status_code == 400, answer.text
    made = await cloud.make("user", name="there")
    if user != {}:
        answer = await cloud.http.patch(f"/v3/users/{made['id']}", json={"user": user}, headers=cloud.headers)
        assert answer.status_code == 400, answer.text


async def test_bodies_that_are_no_users(cloud: Cloud) -> None:
    for body in (b"{}", b"[]", b"null", b'{"users": {"name": "x"}}', b'{"user": ', b""):
        assert (await cloud.http.post("/v3/users", content=body, headers=cloud.headers)).status_code == 400
    assert (await cloud.http.post("/v3/users", content=b"x" * 200_001, headers=cloud.headers)).status_code == 413


async def test_a_user_changes_the_own_password_and_that_ends_all_tokens(cloud: Cloud) -> None:
    user, project = await cloud.member()
    before = await cloud.headers_of(user["id"], "wonderland", project["id"])
    path = f"/v3/users/{user['id']}/password"

    async def change(old: Any, new: Any) -> int:
        return (await cloud.http.post(path, json={"user": {"original_password": old, "password": new}}, headers=before)).status_code

    assert await change("wrong", "looking glass") == 401
    assert await change("wonderland", "") == 400
    assert await change(None, "x") == 400
    assert (await cloud.http.get("/v3/auth/projects", headers=before)).status_code == 200
    assert await change("wonderland", "looking glass") == 204
    assert (await cloud.http.get("/v3/auth/projects", headers=before)).status_code == 401
    assert (await cloud.login({"id": user["id"], "password": "wonderland"})).status_code == 401
    assert (await cloud.login({"id": user["id"], "password": "looking glass"})).status_code == 201
    unknown = {"user": {"original_password": "a", "password": "b"}}
    assert (await cloud.http.post("/v3/users/nobody/password", json=unknown)).status_code == 401


async def test_a_password_that_an_admin_sets_or_takes_away_ends_all_tokens(cloud: Cloud) -> None:
    user, _ = await cloud.member()
    before = await cloud.headers_of(user["id"], "wonderland")
    await cloud.http.patch(f"/v3/users/{user['id']}", json={"user": {"description": "renamed"}}, headers=cloud.headers)
    assert (await cloud.http.get("/v3/auth/projects", headers=before)).status_code == 200
    await cloud.http.patch(f"/v3/users/{user['id']}", json={"user": {"password": "fresh"}}, headers=cloud.headers)
    assert (await cloud.http.get("/v3/auth/projects", headers=before)).status_code == 401
    after = await cloud.headers_of(user["id"], "fresh")
    await cloud.http.patch(f"/v3/users/{user['id']}", json={"user": {"password": None}}, headers=cloud.headers)
    assert (await cloud.http.get("/v3/auth/projects", headers=after)).status_code == 401
    assert (await cloud.login({"id": user["id"], "password": "fresh"})).status_code == 401


async def test_a_disabled_users_tokens_end_and_stay_ended(cloud: Cloud) -> None:
    user, _ = await cloud.member()
    before = await cloud.headers_of(user["id"], "wonderland")
    for enabled in (False, True):
        await cloud.http.patch(f"/v3/users/{user['id']}", json={"user": {"enabled": enabled}}, headers=cloud.headers)
        assert (await cloud.http.get("/v3/auth/projects", headers=before)).status_code == 401
    assert (await cloud.login({"id": user["id"], "password": "wonderland"})).status_code == 201


async def test_a_deleted_users_tokens_end_even_if_another_takes_the_name(cloud: Cloud) -> None:
    user, project = await cloud.member()
    before = await cloud.headers_of(user["id"], "wonderland", project["id"])
    assert (await cloud.http.delete(f"/v3/users/{user['id']}", headers=cloud.headers)).status_code == 204
    await cloud.make("user", name="alice", password="wonderland")
    assert (await cloud.http.get("/v3/auth/projects", headers=before)).status_code == 401
    left = await cloud.http.get(f"/v3/role_assignments?scope.project.id={project['id']}", headers=cloud.headers)
    assert left.json()["role_assignments"] == []


async def test_what_others_may_not(cloud: Cloud) -> None:
    user, project = await cloud.member()
    mine = await cloud.headers_of(user["id"], "wonderland", project["id"])
    admin = cloud.boot.admin_id
    forbidden = [
        ("GET", "/v3/users"),
        ("POST", "/v3/users"),
        ("GET", f"/v3/users/{admin}"),
        ("GET", "/v3/users/nobody"),  # the same: it says nothing of who exists
        ("GET", f"/v3/users/{admin}/projects"),
        ("PATCH", f"/v3/users/{user['id']}"),
        ("DELETE", f"/v3/users/{user['id']}"),
    ]
    for method, path in forbidden:
        answer = await cloud.http.request(method, path, json={"user": {"name": "x"}} if method in ("POST", "PATCH") else None, headers=mine)
        assert answer.status_code == 403, (method, path)
    assert (await cloud.http.get(f"/v3/users/{user['id']}", headers=mine)).json()["user"]["name"] == "alice"
    own = (await cloud.http.get(f"/v3/users/{user['id']}/projects", headers=mine)).json()["projects"]
    assert [each["id"] for each in own] == [project["id"]]
    assert (await cloud.http.get("/v3/users/nobody/projects", headers=cloud.headers)).status_code == 404


async def test_pileuss_own_user_cannot_be_broken(cloud: Cloud) -> None:
    path = f"/v3/users/{cloud.boot.service_id}"
    for change in ({"name": "other"}, {"enabled": False}):
        answer = await cloud.http.patch(path, json={"user": change}, headers=cloud.headers)
        assert (answer.status_code, "Pileus itself works as this user" in answer.text) == (403, True)
    assert (await cloud.http.delete(path, headers=cloud.headers)).status_code == 403
    role = f"/v3/projects/{cloud.boot.service_project_id}/users/{cloud.boot.service_id}/roles/{await cloud.role('service')}"
    assert (await cloud.http.delete(role, headers=cloud.headers)).status_code == 403
    token = await cloud.identity.service_token()
    await cloud.http.patch(path, json={"user": {"password": "known now"}}, headers=cloud.headers)
    fresh = await cloud.identity.service_token()
    assert fresh != token
    assert (await cloud.identity.authenticate(fresh)).roles == {"service"}
