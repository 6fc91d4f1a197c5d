"""/v3/auth over HTTP."""

from __future__ import annotations

from tests.identity.conftest import ADMIN_PASSWORD, BASE, Cloud

REFUSED = "The request you have made requires authentication."


async def test_a_project_scoped_token_has_keystones_form(cloud: Cloud) -> None:
    user = {"name": "admin", "domain": {"name": "Default"}, "password": ADMIN_PASSWORD}
    answer = await cloud.login(user, {"project": {"name": "admin", "domain": {"id": "default"}}})
    assert answer.status_code == 201
    token = answer.json()["token"]
    assert token["methods"] == ["password"]
    assert token["user"] == {
        "id": cloud.boot.admin_id,
        "name": "admin",
        "domain": {"id": "default", "name": "Default"},
        "password_expires_at": None,
    }
    assert token["project"] == {"id": cloud.boot.admin_project_id, "name": "admin", "domain": {"id": "default", "name": "Default"}}
    assert token["is_domain"] is False
    assert sorted(role["name"] for role in token["roles"]) == ["admin", "member", "reader"]
    assert len(token["audit_ids"]) == 1 and len(token["audit_ids"][0]) == 22
    assert token["issued_at"].endswith("Z") and len(token["issued_at"]) == len("2026-11-22T13:00:00.000000Z")
    assert token["expires_at"] > token["issued_at"]
    assert {service["type"]: service["endpoints"][0]["url"] for service in token["catalog"]} == {
        "identity": f"{BASE}/identity",
        "image": f"{BASE}/image",
        "placement": f"{BASE}/placement",
        "compute": f"{BASE}/compute/v2.1",
        "network": f"{BASE}/network",
    }
    assert len(answer.headers["X-Subject-Token"]) <= 255
