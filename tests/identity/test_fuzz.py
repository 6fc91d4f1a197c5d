"""No body, header, path or query brings out a 5xx."""

from __future__ import annotations

import json
import string
from typing import Any
from urllib.parse import quote

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pileus.identity.api.face import ROUTES
from tests.identity.conftest import ADMIN_PASSWORD, Cloud

TEXT = st.text(max_size=30) | st.sampled_from(["", "default", "admin", "Default", ADMIN_PASSWORD, "x" * 300, "\ud800", "a\0b", "..", "%00"])
SCALAR = st.none() | st.booleans() | st.integers() | st.integers(-(10**400), 10**400) | st.floats() | TEXT
JSON = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8)


def mostly(good: Any) -> st.SearchStrategy[Any]:
    """Something like `good`: parts of it missing, or replaced by nonsense."""
    if isinstance(good, dict):
        parts = {key: mostly(value) for key, value in good.items()}
        whole = st.fixed_dictionaries({}, optional=parts) | st.fixed_dictionaries(parts)
        return st.one_of(whole, whole, whole, JSON)
    return st.one_of(st.just(good), st.just(good), JSON)


ADMIN = {"name": "admin", "domain": {"id": "default", "name": "Default"}, "id": "nobody", "password": ADMIN_PASSWORD}
AUTH = {
    "auth": {
        "identity": {"methods": ["password", "token"], "password": {"user": ADMIN}, "token": {"id": "x"}},
        "scope": {"project": {"id": "x", "name": "admin", "domain": {"id": "default"}}, "domain": {"id": "default"}, "unscoped": {}},
    }
}
RESOURCES = {
    "user": {
        "name": "x",
        "domain_id": "default",
        "enabled": True,
        "password": "p",
        "default_project_id": "d",
        "options": {},
        "extra": {"a": 1},
    },
    "project": {
        "name": "x",
        "domain_id": "default",
        "parent_id": "default",
        "enabled": True,
        "is_domain": False,
        "tags": [],
        "description": "",
    },
    "domain": {"name": "x", "enabled": True, "description": "", "options": {}},
    "role": {"name": "x", "description": "", "domain_id": None, "options": {}},
}
RELAXED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def encoded(body: Any) -> bytes:
    return json.dumps(body).encode("utf-8", "surrogatepass")


@RELAXED
@given(body=mostly(AUTH))
async def test_token_bodies(cloud: Cloud, body: Any) -> None:
    answer = await cloud.http.post("/v3/auth/tokens", content=encoded(body))
    assert answer.status_code in (201, 400, 401), (answer.status_code, answer.text)


@RELAXED
@given(data=st.data(), kind=st.sampled_from(sorted(RESOURCES)))
async def test_resource_bodies(cloud: Cloud, data: st.DataObject, kind: str) -> None:
    body, change = (encoded({kind: data.draw(mostly(RESOURCES[kind]))}) for _ in range(2))
    made = await cloud.http.post(f"/v3/{kind}s", content=body, headers=cloud.headers)
    assert made.status_code in (201, 400, 403, 404, 409), made.text
    if made.status_code == 201:
        uid = made.json()[kind]["id"]
        assert (await cloud.http.get(f"/v3/{kind}s/{uid}", headers=cloud.headers)).json() == made.json()
        changed = await cloud.http.patch(f"/v3/{kind}s/{uid}", content=change, headers=cloud.headers)
        assert changed.status_code in (200, 400, 403, 409), changed.text


@RELAXED
@given(body=st.binary(max_size=200))
async def test_bytes(cloud: Cloud, body: bytes) -> None:
    for path in ("/v3/auth/tokens", "/v3/users", "/v3/users/x/password"):
        assert (await cloud.http.post(path, content=body, headers=cloud.headers)).status_code == 400


@RELAXED
@given(data=st.data(), route=st.sampled_from(ROUTES))
async def test_paths_queries_and_headers_of_every_route(cloud: Cloud, data: st.DataObject, route: Any) -> None:
    segment = st.text(string.ascii_letters + string.digits + "-._~%!é\t ", min_size=1, max_size=80) | st.sampled_from(
        ["default", "%00", "%FF", "%2F"]
    )
    path = "/".join(quote(data.draw(segment), safe="%") if part.startswith("{") else part for part in route.path.split("/"))
    names = st.sampled_from(
        ["limit", "marker", "sort_key", "sort_dir", "sort", "name", "enabled", "user.id", "scope.project.id", "effective"]
    )
    query = data.draw(st.lists(st.tuples(names, TEXT.map(lambda text: text.encode("utf-8", "replace").decode())), max_size=3))
    headers = {**cloud.headers}
    if data.draw(st.booleans()):
        headers["X-Subject-Token"] = data.draw(st.text(string.ascii_letters + "=-_ ", max_size=60))
    method = data.draw(st.sampled_from(["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", route.method]))
    answer = await cloud.http.request(method, path, params=httpx.QueryParams(tuple(query)), headers=headers)
    assert answer.status_code < 500, (method, path, query, answer.text)
