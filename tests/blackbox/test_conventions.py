"""What holds for every route of all five services: tokens, roles, refusals, content types, versions."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from keystoneauth1.exceptions import EndpointNotFound
from keystoneauth1.identity import v3
from keystoneauth1.session import Session

from pileus.http.face import Allow, Route
from pileus.identity.keys import Keys
from pileus.identity.tokens import seal, unseal
from tests.blackbox.cloud import PATHS, Cloud, Person, fresh
from tests.blackbox.routes import BODIES, EVERY, NOTHING, ROUTES, X, body_of, check_fault, media_of, version_of

MAX_BODY = 1 << 20
WRITING = ("POST", "PUT", "PATCH", "DELETE")
METHODS = ("PATCH", "DELETE", "PUT", "POST", "GET")
services = pytest.mark.parametrize("service", sorted(ROUTES))

OPEN = {
    ("identity", "GET", "/"),
    ("identity", "GET", "/v3"),
    ("identity", "GET", "/v3/"),
    ("identity", "POST", "/v3/auth/tokens"),
    ("identity", "POST", "/v3/users/{user}/password"),
    ("image", "GET", "/"),
    ("image", "GET", "/versions"),
    ("image", "GET", "/versions/"),
    ("placement", "GET", "/"),
    ("compute", "GET", "/"),
    ("compute", "GET", "/v2.1"),
    ("compute", "GET", "/v2.1/"),
    ("network", "GET", "/"),
    ("network", "GET", "/v2.0"),
    ("network", "GET", "/v2.0/"),
}
"""What needs no token: discovery, logging in, and a password's change, which proves itself by the old password."""

OF_A_USER = {
    ("identity", "DELETE", "/v3/auth/tokens"),
    ("compute", "POST", "/v2.1/os-keypairs"),
    ("compute", "DELETE", "/v2.1/os-keypairs/{name}"),
}
"""What a reader may write: tokens and key pairs are a user's own, not a project's."""


def path_of(route: Route[Any]) -> str:
    return re.sub(r"{[^}]*}", X, route.path)


def closed(service: str) -> Iterator[Route[Any]]:
    """Routes that need a token."""
    return (route for route in ROUTES[service] if (service, route.method, route.path) not in OPEN)


def send(
    person: Person, service: str, route: Route[Any], token: str | None, content: bytes = b"", media: str = "", **headers: str
) -> httpx.Response:
    sent = {**version_of(service, route), **headers}
    if token is not None:
        sent["X-Auth-Token"] = token
    if media:
        sent["Content-Type"] = media
    return person.http.request(route.method, PATHS[service] + path_of(route), content=content, headers=sent)


@services
@pytest.mark.parametrize("token", [None, "", "rubbish", "gAAAAABk" + "x" * 170, "x" * 5000], ids=["none", "empty", "word", "alike", "long"])
def test_without_a_good_token_nobody_gets_in(cloud: Cloud, admin: Person, service: str, token: str | None) -> None:
    for route in closed(service):
        answer = send(admin, service, route, token)
        assert answer.status_code == 401, (route.method, route.path, answer.text)
        assert answer.headers["www-authenticate"] == f'Keystone uri="{cloud.url}/identity"'
        check_fault(service, answer)
        check_fault(service, send(admin, service, route, token, Accept="application/json"))


@pytest.fixture(scope="module")
def ended_tokens(cloud: Cloud, admin: Person) -> dict[str, str]:
    """Tokens that were good once: expired, revoked, of a user who is disabled, of one whose password has changed, without the role now."""
    project_id = admin.post("identity", "/v3/projects", {"project": {"name": fresh("project")}})["project"]["id"]
    roles = {role["name"]: role["id"] for role in admin.get("identity", "/v3/roles")["roles"]}

    def person() -> tuple[str, str]:
        name = fresh("user")
        user_id = admin.post("identity", "/v3/users", {"user": {"name": name, "password": "p"}})["user"]["id"]
        admin.ask("PUT", "identity", f"/v3/projects/{project_id}/users/{user_id}/roles/{roles['member']}")
        return name, user_id

    project = admin.get("identity", f"/v3/projects/{project_id}")["project"]["name"]
    found = {}
    for how in ("expired", "revoked", "disabled", "password", "role", "user"):
        name, user_id = person()
        one = cloud.login(name, "p", project)
        assert one.call("GET", "compute", "/v2.1/servers").status_code == 200
        found[how] = one.token
        if how == "revoked":
            one.ask("DELETE", "identity", "/v3/auth/tokens", headers={"X-Subject-Token": one.token})
        elif how == "disabled":
            admin.ask("PATCH", "identity", f"/v3/users/{user_id}", {"user": {"enabled": False}})
        elif how == "password":
            admin.ask("PATCH", "identity", f"/v3/users/{user_id}", {"user": {"password": "q"}})
        elif how == "role":
            admin.delete("identity", f"/v3/projects/{project_id}/users/{user_id}/roles/{roles['member']}")
        elif how == "user":
            admin.delete("identity", f"/v3/users/{user_id}")
        else:
            keys = _keys(cloud.state)
            claims = unseal(one.token, keys)
            assert claims is not None
            found[how] = seal(type(claims)(**{**_fields(claims), "expires_at": time.time() - 1}), keys)
            alive = seal(type(claims)(**{**_fields(claims), "expires_at": time.time() + 60}), keys)
            assert one.call("GET", "compute", "/v2.1/servers", headers={"X-Auth-Token": alive}).status_code == 200
    return found


def _keys(state: Path) -> Keys:
    with closing(sqlite3.connect(f"file:{state}/pileus.db?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        found = [dict(row) for row in database.execute("SELECT * FROM identity_keys ORDER BY number")]
    keys = Keys()
    keys.take(found)
    return keys


def _fields(claims: Any) -> dict[str, Any]:
    return {name: getattr(claims, name) for name in claims.__struct_fields__}


@pytest.mark.parametrize("how", ["expired", "revoked", "disabled", "password", "role", "user"])
def test_a_token_that_has_ended_is_refused_everywhere(admin: Person, ended_tokens: dict[str, str], how: str) -> None:
    for service in ROUTES:
        for route in list(closed(service))[:5]:
            answer = send(admin, service, route, ended_tokens[how])
            assert answer.status_code == 401, (how, service, route.path, answer.text)
            check_fault(service, answer)


@services
def test_an_unscoped_token_opens_only_what_is_any_users(cloud: Cloud, reader: Person, service: str) -> None:
    unscoped = cloud.login(reader.name, reader.password)
    for route in closed(service):
        status = send(reader, service, route, unscoped.token).status_code
        if route.allow == "user":
            assert status != 401, (route.method, route.path)
        else:
            assert status == 403, (route.method, route.path, status)


@services
def test_every_route_says_who_may_use_it(service: str) -> None:
    for route in ROUTES[service]:
        assert route.allow in get_args(Allow)
        assert (route.allow == "anyone") == ((service, route.method, route.path) in OPEN), route


@services
def test_a_reader_writes_nothing(reader: Person, service: str) -> None:
    for route in closed(service):
        if route.method in WRITING and (service, route.method, route.path) not in OF_A_USER:
            answer = send(reader, service, route, reader.token)
            assert answer.status_code == 403, (route.method, route.path, answer.status_code, answer.text)
            check_fault(service, answer)


@services
def test_what_is_an_admins_is_not_a_members(member: Person, service: str) -> None:
    for route in closed(service):
        if route.allow in ("admin", "service"):
            assert send(member, service, route, member.token).status_code == 403, (route.method, route.path)


@services
@pytest.mark.parametrize(
    "path", ["/nothing", "/v2.1/os-volumes", "/v2.0/routers", "/v2/stores", "/v3/groups", "/%00", "//", "/v2.1/servers/"]
)
def test_unknown_paths(admin: Person, service: str, path: str) -> None:
    answer = admin.call("GET", service, path)
    assert answer.status_code == (400 if path == "/%00" else 404), answer.text
    check_fault(service, answer)


@services
def test_a_wrong_method_is_told_the_right_ones(admin: Person, service: str) -> None:
    routes = ROUTES[service]
    for route in routes:
        allowed = {other.method for other in routes if other.path == route.path and other.since <= route.until <= other.until}
        wrong = next(method for method in METHODS if method not in allowed)
        answer = admin.http.request(
            wrong, PATHS[service] + path_of(route), headers={"X-Auth-Token": admin.token, **version_of(service, route)}
        )
        assert answer.status_code == 405, (wrong, route.path, answer.text)
        assert set(answer.headers["allow"].split(", ")) == allowed, (route.path, answer.headers["allow"])
        check_fault(service, answer)


def with_body(service: str) -> Iterator[Route[Any]]:
    """Routes that take JSON."""
    for route in ROUTES[service]:
        if body_of(service, route) is not NOTHING and "json" in media_of(service, route):
            yield route


def test_every_writing_route_is_known_with_its_body() -> None:
    known = {key for key in BODIES if BODIES[key] is not None}
    assert known == {(service, route.method, route.path) for service, route in EVERY if route.method in ("POST", "PUT", "PATCH")}


@services
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 5000, b'"x"', b"null", b"17", b'{"a": NaN}', b'{"a": "\\u0000"}'])
def test_what_is_not_json_is_a_bad_request(admin: Person, service: str, content: bytes) -> None:
    for route in with_body(service):
        answer = send(admin, service, route, admin.token, content, media_of(service, route))
        assert answer.status_code == 400, (route.method, route.path, content[:20], answer.status_code, answer.text)
        check_fault(service, answer)


@services
def test_another_content_type(admin: Person, service: str) -> None:
    for route in with_body(service):
        answer = send(admin, service, route, admin.token, b"{}", "text/xml")
        assert answer.status_code == 415, (route.method, route.path, answer.status_code, answer.text)
        check_fault(service, answer)


@services
def test_a_body_that_is_too_large(admin: Person, service: str) -> None:
    for route in with_body(service):
        for size, status in ((MAX_BODY, 400), (MAX_BODY + 1, 413)):
            answer = send(admin, service, route, admin.token, b" " * size, media_of(service, route))
            assert answer.status_code == status, (route.method, route.path, answer.status_code, answer.text)
            check_fault(service, answer)


@services
def test_head_is_get_without_the_body(admin: Person, service: str) -> None:
    for route in ROUTES[service]:
        if route.method == "GET" and "{" not in route.path:
            headers = {"X-Auth-Token": admin.token, "X-Subject-Token": admin.token, **version_of(service, route)}
            got, head = (admin.http.request(method, PATHS[service] + path_of(route), headers=headers) for method in ("GET", "HEAD"))
            assert (head.status_code, head.content) == (got.status_code, b""), (service, route.path)


def test_microversions_are_negotiated(admin: Person) -> None:
    for service, path, lowest, highest in (
        ("compute", "/v2.1/servers", "2.1", "2.96"),
        ("placement", "/resource_providers", "1.0", "1.39"),
    ):
        major = lowest.partition(".")[0]
        for asked, given in ((None, lowest), (lowest, lowest), (highest, highest), ("latest", highest)):
            answer = admin.call("GET", service, path, version=asked)
            assert (answer.status_code, answer.headers["openstack-api-version"]) == (200, f"{service} {given}")
            assert "OpenStack-API-Version" in answer.headers["vary"]
        for asked, status in ((f"{major}.97", 406), (f"{int(major) + 1}.0", 406), ("x", 400), (f"{major}.01", 400), (f"{major}.1.1", 400)):
            answer = admin.call("GET", service, path, version=asked)
            assert answer.status_code == status, (service, asked, answer.text)
            check_fault(service, answer)
    old = admin.call("GET", "compute", "/v2.1/servers", headers={"X-OpenStack-Nova-API-Version": "2.50"})
    assert old.headers["x-openstack-nova-api-version"] == "2.50"


def test_discovery_by_keystoneauth(cloud: Cloud) -> None:
    auth = v3.Password(
        f"{cloud.url}/identity",
        username="admin",
        password=cloud.password,
        project_name="admin",
        user_domain_id="default",
        project_domain_id="default",
    )
    session = Session(auth=auth)
    expected = {
        "identity": ((3, 14), None, f"{cloud.url}/identity/v3/"),
        "image": ((2, 7), None, f"{cloud.url}/image/v2/"),
        "placement": ((1, 0), (1, 39), f"{cloud.url}/placement/"),
        "compute": ((2, 1), (2, 96), f"{cloud.url}/compute/v2.1/"),
        "network": ((2, 0), None, f"{cloud.url}/network/v2.0/"),
    }
    for service, (version, newest, url) in expected.items():
        found = session.get_endpoint_data(service_type=service, min_version=version[0], max_version=(version[0], "latest"))
        assert found is not None, service
        assert (found.api_version, found.max_microversion, str(found.url).rstrip("/") + "/") == (version, newest, url), service
        for interface in ("public", "internal", "admin"):
            assert str(session.get_endpoint(service_type=service, interface=interface)).startswith(cloud.url)
    with pytest.raises(EndpointNotFound):
        session.get("/", endpoint_filter={"service_type": "volumev3"})


@services
def test_discovery_needs_no_token_and_no_slash(cloud: Cloud, admin: Person, service: str) -> None:
    with_slash, without = (httpx.get(cloud.url + PATHS[service] + end) for end in ("/", ""))
    assert with_slash.status_code == without.status_code in (200, 300)
    assert with_slash.json() == without.json()


def test_request_ids_are_ours_and_all_different(admin: Person) -> None:
    answers = [admin.call("GET", "compute", "/v2.1/servers", headers={"X-Openstack-Request-Id": "req-mine"}) for _ in range(3)]
    ids = {answer.headers["x-openstack-request-id"] for answer in answers}
    assert len(ids) == 3 and "req-mine" not in ids
    assert answers[0].headers["x-compute-request-id"] == answers[0].headers["x-openstack-request-id"]
