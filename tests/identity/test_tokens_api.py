"""/v3/auth over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.identity.conftest import ADMIN_PASSWORD, BASE, Cloud

REFUSED = "The request you have made requires authentication."
ADMIN = {"name": "admin", "domain": {"name": "Default"}, "password": ADMIN_PASSWORD}


async def test_a_project_scoped_token_has_keystones_form(cloud: Cloud) -> None:
    answer = await cloud.login(ADMIN, {"project": {"name": "admin", "domain": {"id": "default"}}})
    assert answer.status_code == 201
    token = answer.json()["token"]
    assert token["methods"] == ["password"]
    default = {"id": "default", "name": "Default"}
    assert token["user"] == {"id": cloud.boot.admin_id, "name": "admin", "domain": default, "password_expires_at": None}
    assert token["project"] == {"id": cloud.boot.admin_project_id, "name": "admin", "domain": default}
    assert token["is_domain"] is False
    assert sorted(role["name"] for role in token["roles"]) == ["admin", "member", "reader"]
    assert len(token["audit_ids"]) == 1 and len(token["audit_ids"][0]) == 22
    assert token["issued_at"].endswith("Z") and len(token["issued_at"]) == len("2026-11-22T13:00:00.000000Z")
    assert token["expires_at"] > token["issued_at"]
    assert {(each["type"], each["name"], each["endpoints"][0]["url"]) for each in token["catalog"]} == {
        ("identity", "keystone", f"{BASE}/identity"),
        ("image", "glance", f"{BASE}/image"),
        ("placement", "placement", f"{BASE}/placement"),
        ("compute", "nova", f"{BASE}/compute/v2.1"),
        ("network", "neutron", f"{BASE}/network"),
    }
    for each in token["catalog"]:
        assert [endpoint["interface"] for endpoint in each["endpoints"]] == ["public", "internal", "admin"]
        assert {endpoint["region_id"] for endpoint in each["endpoints"]} == {"RegionOne"}
    assert len(answer.headers["X-Subject-Token"]) <= 255
    assert answer.headers["Vary"] == "X-Auth-Token"


@pytest.mark.parametrize("scope", ["unscoped", {"unscoped": {}}, None])
async def test_an_unscoped_token(cloud: Cloud, scope: Any) -> None:
    token = (await cloud.login(ADMIN, scope)).json()["token"]
    assert not {"project", "domain", "roles", "catalog", "is_domain"} & set(token)


@pytest.mark.parametrize("scope", [{"domain": {"id": "default"}}, {"domain": {"name": "Default"}}])
async def test_a_domain_scoped_token(cloud: Cloud, scope: Any) -> None:
    assert (await cloud.login(ADMIN, scope)).status_code == 401  # no role there yet
    await cloud.assign(cloud.boot.admin_id, "reader", domain="default")
    token = (await cloud.login(ADMIN, scope)).json()["token"]
    assert token["domain"] == {"id": "default", "name": "Default"}
    assert [role["name"] for role in token["roles"]] == ["reader"]
    assert "project" not in token and "catalog" in token


async def test_every_way_to_name_user_and_scope(cloud: Cloud) -> None:
    user, project = await cloud.member()
    users: list[dict[str, Any]] = [
        {"id": user["id"]},
        {"name": "alice", "domain": {"id": "default"}},
        {"name": "alice", "domain": {"name": "Default"}},
    ]
    scopes = [{"id": project["id"]}, {"name": "alices", "domain": {"id": "default"}}, {"name": "alices", "domain": {"name": "Default"}}]
    for who, where in zip(users, scopes, strict=True):
        answer = await cloud.login({**who, "password": "wonderland"}, {"project": where})
        assert answer.json()["token"]["project"]["id"] == project["id"]
        assert [role["name"] for role in answer.json()["token"]["roles"]] == ["member", "reader"]


async def test_who_cannot_log_in_is_told_the_same_whatever_the_reason(cloud: Cloud) -> None:
    await cloud.member()
    disabled = await cloud.make("user", name="off", password="pw", enabled=False)
    without = await cloud.make("user", name="without")
    home = await cloud.make("domain", name="elsewhere")
    there = await cloud.make("user", name="far", password="pw", domain_id=home["id"])
    assert (await cloud.login({"id": there["id"], "password": "pw"})).status_code == 201
    await cloud.http.patch(f"/v3/domains/{home['id']}", json={"domain": {"enabled": False}}, headers=cloud.headers)
    refused: list[dict[str, Any]] = [
        {"name": "alice", "domain": {"id": "default"}, "password": "wrong"},
        {"name": "alice", "domain": {"id": "default"}, "password": ""},
        {"name": "nobody", "domain": {"id": "default"}, "password": "wonderland"},
        {"name": "alice", "domain": {"id": "nowhere"}, "password": "wonderland"},
        {"name": "alice", "domain": {"name": "nowhere"}, "password": "wonderland"},
        {"id": "nobody", "password": "wonderland"},
        {"id": disabled["id"], "password": "pw"},
        {"id": there["id"], "password": "pw"},
        {"id": without["id"], "password": ""},
    ]
    for user in refused:
        answer = await cloud.login(user)
        assert (answer.status_code, answer.json()["error"]) == (401, {"code": 401, "message": REFUSED, "title": "Unauthorized"}), user
        assert answer.headers["WWW-Authenticate"] == f'Keystone uri="{BASE}/identity"'


async def test_a_scope_without_a_role_and_one_that_is_not_there_look_alike(cloud: Cloud) -> None:
    user, _ = await cloud.member()
    off = await cloud.make("project", name="off", enabled=False)
    await cloud.assign(user["id"], "member", project=off["id"])
    scopes: list[Any] = [
        {"project": {"id": cloud.boot.admin_project_id}},
        {"project": {"id": "nothing"}},
        {"project": {"name": "nothing", "domain": {"id": "default"}}},
        {"project": {"name": "alices", "domain": {"name": "nowhere"}}},
        {"project": {"id": off["id"]}},
        {"domain": {"id": "default"}},
        {"domain": {"name": "nowhere"}},
    ]
    answers = [await cloud.login({"id": user["id"], "password": "wonderland"}, scope) for scope in scopes]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.json()["error"]["message"] for answer in answers}) == 1
    system = await cloud.login({"id": user["id"], "password": "wonderland"}, {"system": {"all": True}})
    assert (system.status_code, "no system scope" in system.text) == (401, True)


async def test_the_default_project_is_the_scope_of_who_names_none_if_it_can_be_used(cloud: Cloud) -> None:
    user, project = await cloud.member()

    async def scope_now(scope: Any = None) -> Any:
        return (await cloud.login({"id": user["id"], "password": "wonderland"}, scope)).json()["token"].get("project", {}).get("id")

    assert await scope_now() is None
    for default, expected in ((project["id"], project["id"]), (cloud.boot.admin_project_id, None), ("gone", None), (None, None)):
        await cloud.http.patch(f"/v3/users/{user['id']}", json={"user": {"default_project_id": default}}, headers=cloud.headers)
        assert await scope_now() == expected
    await cloud.http.patch(f"/v3/users/{user['id']}", json={"user": {"default_project_id": project["id"]}}, headers=cloud.headers)
    assert await scope_now("unscoped") is None


async def test_a_token_for_a_token(cloud: Cloud) -> None:
    user, project = await cloud.member()
    first = await cloud.login({"id": user["id"], "password": "wonderland"}, "unscoped")
    token, old = first.headers["X-Subject-Token"], first.json()["token"]
    cloud.clock.passed = 600
    answer = await cloud.login(None, {"project": {"id": project["id"]}}, methods=["token"], token={"id": token})
    new = answer.json()["token"]
    assert answer.status_code == 201
    assert new["project"]["id"] == project["id"]
    assert new["methods"] == ["password", "token"]
    assert new["expires_at"] == old["expires_at"]  # it cannot prolong itself
    assert new["issued_at"] > old["issued_at"]
    assert new["audit_ids"][1:] == old["audit_ids"] and new["audit_ids"][0] != old["audit_ids"][0]
    third = await cloud.login(None, "unscoped", methods=["token"], token={"id": answer.headers["X-Subject-Token"]})
    assert third.json()["token"]["audit_ids"][1] == old["audit_ids"][0]
    assert (await cloud.login(None, "unscoped", methods=["token"], token={"id": "nonsense"})).status_code == 401


async def test_password_and_token_together_must_be_the_same_users(cloud: Cloud) -> None:
    user, _ = await cloud.member()
    mine = (await cloud.login({"id": user["id"], "password": "wonderland"})).headers["X-Subject-Token"]
    both = {"methods": ["password", "token"], "token": {"id": mine}}
    assert (await cloud.login({"id": user["id"], "password": "wonderland"}, **both)).status_code == 201
    assert (await cloud.login(ADMIN, **both)).status_code == 401
    assert (await cloud.login({"id": user["id"], "password": "wrong"}, **both)).status_code == 401


@pytest.mark.parametrize(
    ("auth", "status", "said"),
    [
        ({}, 400, "missing required field `identity`"),
        ({"identity": {}}, 400, "missing required field `methods`"),
        ({"identity": {"methods": "password"}}, 400, "auth.identity.methods"),
        ({"identity": {"methods": ["password"]}}, 400, "find password in identity"),
        ({"identity": {"methods": ["token"]}}, 400, "find token in identity"),
        ({"identity": {"methods": ["password"], "password": {"user": {"id": "x"}}}}, 400, "find password in identity.password.user"),
        ({"identity": {"methods": ["password"], "password": {"user": {"name": "x", "password": "y"}}}}, 400, "name with domain"),
        ({"identity": {"methods": ["password"], "password": {"user": {"password": "y"}}}}, 400, "find id, or name with domain"),
        ({"identity": {"methods": ["password"], "password": {"user": {"domain": {}, "name": "x", "password": "y"}}}}, 400, "user.domain"),
        ({"identity": {"methods": ["password"], "password": {"user": {"id": 5, "password": "y"}}}}, 400, "auth.identity.password.user.id"),
        ({"identity": {"methods": ["password"], "password": {"user": {"id": "x" * 65, "password": "y"}}}}, 400, "length <= 64"),
        ({"identity": {"methods": []}}, 401, "supported: password, token"),
        ({"identity": {"methods": ["totp"]}}, 401, "unsupported method"),
        ({"identity": {"methods": ["application_credential"], "application_credential": {"id": "x"}}}, 401, "unsupported method"),
        ({"identity": {"methods": ["token"], "token": {"id": "x"}}, "scope": {}}, 400, "exactly one of"),
        ({"identity": {"methods": ["token"], "token": {"id": "x"}}, "scope": {"project": {}}}, 400, "scope.project"),
        ({"identity": {"methods": ["token"], "token": {"id": "x"}}, "scope": {"OS-TRUST:trust": {"id": "x"}}}, 400, "exactly one of"),
        (
            {"identity": {"methods": ["token"], "token": {"id": "x"}}, "scope": {"project": {"id": "a"}, "domain": {"id": "b"}}},
            400,
            "exactly",
        ),
        ({"identity": {"methods": ["token"], "token": {"id": "x"}}, "scope": "everything"}, 400, "auth.scope"),
        ({"identity": {"methods": ["token"], "token": {"id": "x"}}, "scope": {"domain": {"id": None}}}, 400, "find id or name"),
    ],
)
async def test_requests_that_make_no_sense(cloud: Cloud, auth: Any, status: int, said: str) -> None:
    answer = await cloud.http.post("/v3/auth/tokens", json={"auth": auth})
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


async def test_show_check_and_revoke_ones_own_token(cloud: Cloud) -> None:
    user, project = await cloud.member()
    made = await cloud.login({"id": user["id"], "password": "wonderland"}, {"project": {"id": project["id"]}})
    token = made.headers["X-Subject-Token"]
    mine = {"X-Auth-Token": token, "X-Subject-Token": token}
    shown = await cloud.http.get("/v3/auth/tokens", headers=mine)
    assert (shown.status_code, shown.json(), shown.headers["X-Subject-Token"]) == (200, made.json(), token)
    assert "catalog" not in (await cloud.http.get("/v3/auth/tokens?nocatalog", headers=mine)).json()["token"]
    checked = await cloud.http.head("/v3/auth/tokens", headers=mine)
    assert (checked.status_code, checked.content) == (200, b"")
    assert (await cloud.http.delete("/v3/auth/tokens", headers=mine)).status_code == 204
    assert (await cloud.http.get("/v3/auth/tokens", headers=mine)).status_code == 401
    assert (await cloud.http.get("/v3/auth/tokens", headers={**cloud.headers, "X-Subject-Token": token})).status_code == 404
    assert (await cloud.login(None, methods=["token"], token={"id": token})).status_code == 401


async def test_whose_tokens_one_may_look_at(cloud: Cloud) -> None:
    user, project = await cloud.member()
    other, _ = await cloud.member("bob", "builder")
    mine = await cloud.headers_of(user["id"], "wonderland", project["id"])
    service = {"X-Auth-Token": await cloud.identity.service_token()}
    theirs = (await cloud.headers_of(other["id"], "builder"))["X-Auth-Token"]
    for headers, status in ((mine, 403), (service, 200), (cloud.headers, 200)):
        assert (await cloud.http.get("/v3/auth/tokens", headers={**headers, "X-Subject-Token": theirs})).status_code == status
    for headers, status in ((mine, 403), (service, 403), (cloud.headers, 204)):
        assert (await cloud.http.delete("/v3/auth/tokens", headers={**headers, "X-Subject-Token": theirs})).status_code == status


async def test_subject_tokens_that_are_none(cloud: Cloud) -> None:
    assert (await cloud.http.get("/v3/auth/tokens", headers=cloud.headers)).status_code == 400
    for text in (b"nonsense", b"gAAAA", b"\xe9", b"x" * 5000):
        answer = await cloud.http.get(
            "/v3/auth/tokens", headers=[(b"X-Auth-Token", cloud.headers["X-Auth-Token"].encode()), (b"X-Subject-Token", text)]
        )
        assert answer.status_code == 404
    assert (await cloud.http.get("/v3/auth/tokens", headers={"X-Subject-Token": cloud.headers["X-Auth-Token"]})).status_code == 401


async def test_a_token_ends_at_its_time(cloud: Cloud) -> None:
    user, _ = await cloud.member()
    headers = await cloud.headers_of(user["id"], "wonderland")
    cloud.clock.passed = cloud.identity.lifetime - 5
    assert (await cloud.http.get("/v3/auth/projects", headers=headers)).status_code == 200
    cloud.clock.passed = cloud.identity.lifetime + 1
    assert (await cloud.http.get("/v3/auth/projects", headers=headers)).status_code == 401


async def test_what_a_user_can_reach(cloud: Cloud) -> None:
    user, project = await cloud.member()
    off = await cloud.make("project", name="off", enabled=False)
    await cloud.assign(user["id"], "reader", project=off["id"])
    await cloud.assign(user["id"], "reader", domain="default")
    unscoped = await cloud.headers_of(user["id"], "wonderland")
    found = (await cloud.http.get("/v3/auth/projects", headers=unscoped)).json()
    assert [each["id"] for each in found["projects"]] == [project["id"]]
    assert found["links"] == {"self": f"{BASE}/identity/v3/auth/projects", "previous": None, "next": None}
    assert [each["id"] for each in (await cloud.http.get("/v3/auth/domains", headers=unscoped)).json()["domains"]] == ["default"]
    assert (await cloud.http.get("/v3/auth/catalog", headers=unscoped)).status_code == 403
    scoped = await cloud.headers_of(user["id"], "wonderland", project["id"])
    catalog = (await cloud.http.get("/v3/auth/catalog", headers=scoped)).json()["catalog"]
    assert [each["type"] for each in catalog] == ["identity", "image", "placement", "compute", "network"]


async def test_discovery(cloud: Cloud) -> None:
    answer = await cloud.http.get("/")
    assert answer.status_code == 300
    (version,) = answer.json()["versions"]["values"]
    assert (version["id"], version["status"], version["links"]) == ("v3.14", "stable", [{"rel": "self", "href": f"{BASE}/identity/v3/"}])
    for path in ("/v3", "/v3/"):
        assert (await cloud.http.get(path)).json() == {"version": version}
    for absent in ("/v2.0", "/v3/groups", "/v3/OS-TRUST/trusts", "/v3/users/x/application_credentials", "/v3/auth/system", "/v3/policies"):
        assert (await cloud.http.get(absent, headers=cloud.headers)).status_code == 404
