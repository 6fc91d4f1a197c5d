"""Whatever is sent to whichever route of a running cloud: never a 5xx, and a refusal always in the service's form."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pileus.http.face import Route
from tests.blackbox.cloud import PATHS, Cloud, Person, hire, running
from tests.blackbox.routes import EVERY, LATEST, NOTHING, X, body_of, check_fault, media_of

READS, WRITES = 12, 45
"""Requests for each route."""
DERANDOMIZE = True


@dataclass(frozen=True)
class World:
    """A cloud with one of everything in it. `ids`: what may stand in a path, existing or not."""

    admin: Person
    member: Person
    ids: list[str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A cloud of its own: the fuzzer may disable its hosts and delete its networks, though not the user it acts as."""
    with running(tmp_path_factory.mktemp("fuzz"), "--hosts", "2", PILEUS_QUOTA__INSTANCES="30") as cloud:
        yield populate(cloud)


def populate(cloud: Cloud) -> World:
    admin = cloud.admin()
    member = hire(cloud, admin, {"member": "member"})["member"]
    other = hire(cloud, admin, {"other": "member"})["other"]
    network = admin.network("10.9.0.0/24")
    port = admin.post("network", "/v2.0/ports", {"port": {"network_id": network["id"]}})["port"]
    image_id = admin.image(b"data")
    server = admin.server(networks=[{"uuid": network["id"]}], imageRef=image_id, metadata={"k": "v"})
    admin.post("compute", "/v2.1/os-keypairs", {"keypair": {"name": "k"}})
    admin.post("compute", "/v2.1/flavors/1/os-extra_specs", {"extra_specs": {"k": "v"}})
    action = admin.get("compute", f"/v2.1/servers/{server['id']}/os-instance-actions")["instanceActions"][0]["request_id"]
    nic = admin.get("network", "/v2.0/ports", params={"device_id": server["id"]})["ports"][0]["id"]
    ids = [network["id"], port["id"], image_id, server["id"], action, nic, other.project_id, other.user_id, member.project_id]
    ids += network["subnets"]
    ids += [row["id"] for row in admin.get("identity", "/v3/roles")["roles"] if row["name"] == "reader"]
    ids += [row["id"] for row in admin.get("network", "/v2.0/agents")["agents"]]
    ids += [row["uuid"] for row in admin.get("placement", "/resource_providers")["resource_providers"]]
    ids += [row["id"] for row in admin.get("compute", "/v2.1/os-services", version="2.96")["services"]]
    ids += [admin.get("identity", "/v3/services")["services"][0]["id"], admin.get("identity", "/v3/endpoints")["endpoints"][0]["id"]]
    return World(admin, member, ids)


WORDS = [
    "", "1", "k", "default", "RegionOne", "detail", "VCPU", "CUSTOM_X", "private", "nova", "agent", "enable", "tag", "0",
    "-1", "1.5", "true", "null", "None", "x" * 256, "x" * 4000, "9" * 30, "2147483648", "é☃", "😀", "a b", "a/b", "..", ".",
    "%", "%s", "';--", "*", "\\", "a:b", "in:a,b", "gt:1", "2026-01-01T00:00:00Z", "0001-01-01", "9999-12-31T23:59:59-23:59",
    "10.0.0.0/8", "::1", "fe80::1%1", X,
]  # fmt: skip
RAW = ["%00", "%FF", "%2F", "%C3", "%F0%9F%98%80", "%20", "%0A", "%7F", "+", "é".encode().decode("latin-1")]
QUERIES = [
    "limit", "marker", "sort_key", "sort_dir", "sort", "fields", "page_reverse", "name", "id", "status", "all_tenants", "deleted", "ip",
    "ip6", "changes-since", "changes-before", "host", "image", "flavor", "project_id", "tenant_id", "user_id", "availability_zone",
    "power_state", "locked", "tags", "config_drive", "key_name", "vm_state", "task_state", "created_at", "launched_at", "progress",
    "reservation_id", "uuid", "hostname", "description", "is_public", "minRam", "minDisk", "fixed_ips", "network_id", "device_id",
    "device_owner", "mac_address", "shared", "admin_state_up", "mtu", "cidr", "ip_version", "gateway_ip", "dns_nameservers",
    "provider:segmentation_id", "router:external", "alive", "visibility", "member_status", "owner", "tag", "size_min", "size_max",
    "disk_format", "os_hidden", "protected", "hw_x", "updated_at", "resources", "member_of", "required", "in_tree", "group_policy",
    "resources1", "root_required", "consumer_type", "same_subtree", "user.id", "scope.project.id", "scope.domain.id", "role.id",
    "effective", "include_names", "enabled", "domain_id", "parent_id", "nocatalog", "binary", "hypervisor_hostname_pattern",
    "with_servers", "reserved", "checksum", "service_id", "interface", "type", "region", "nonsense",
]  # fmt: skip
MEDIA = ["text/plain", "", "application/json; charset=utf-8", "application/octet-stream", "multipart/form-data", "é"]
BYTES = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"\xff",
    b"0",
    b'""',
    b"[" * 3000,
    b"1e999",
    b'{"a": 1, "a": 2}',
    b'"\\ud800"',
    b"NaN",
    b"\xef\xbb\xbf{}",
]
VERSIONS = ["latest", "2.1", "2.37", "2.53", "2.73", "2.88", "2.96", "1.0", "1.8", "1.12", "1.28", "1.39", "2.97", "x", "1.1.1", ""]

Draw = Callable[[st.SearchStrategy[Any]], Any]
dice = st.integers(0, 11)
words = st.sampled_from(WORDS) | st.text(max_size=12)
numbers = st.sampled_from([0, -1, 1, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63) - 1, 0.5, -0.0, 1e308, 1e-320])
scalars = st.none() | st.booleans() | numbers | words
odd = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words.map(lambda text: text[:30]), inner, max_size=3), max_leaves=5
)
deep = st.sampled_from([json.loads('{"a":' * depth + "1" + "}" * depth) for depth in (20, 200)])
subjects = st.sampled_from([word for word in WORDS if word.isprintable()])
headers_of = st.fixed_dictionaries(
    {},
    optional={
        "Accept": st.sampled_from(["application/json", "text/html", "*/*", ""]),
        "Range": st.sampled_from(["bytes=0-1", "bytes=5-", "x"]),
    },
)


def mutated(draw: Draw, good: Any, ids: list[str]) -> Any:
    """Something like `good`, with parts missing, added or turned into nonsense."""
    turn = draw(dice)
    if turn == 0:
        return draw(odd)
    if isinstance(good, dict):
        whole = {key: mutated(draw, value, ids) for key, value in good.items() if turn > 3 or draw(dice) > 4}
        return {**whole, draw(words): draw(odd)} if turn == 1 else whole
    if isinstance(good, list) and good:
        count = draw(st.integers(0, 60)) if turn == 1 else draw(st.integers(1, 3))
        return [mutated(draw, draw(st.sampled_from(good)), ids) for _ in range(count)]
    if turn == 1:
        return draw(deep)
    return draw(st.sampled_from(ids)) if isinstance(good, str) and turn == 2 else good


@st.composite
def contents(draw: Draw, service: str, route: Route[Any], ids: list[str]) -> bytes:
    """A body for the route."""
    good, turn = body_of(service, route), draw(dice)
    if turn == 0 or (good is NOTHING and turn < 4):
        return bytes(draw(st.sampled_from(BYTES) | st.binary(max_size=20)))
    return b"" if good is NOTHING else json.dumps(mutated(draw, good, ids)).encode("utf-8", "surrogatepass")


def path_of(route: Route[Any], data: st.DataObject, ids: list[str]) -> str:
    known = st.sampled_from(ids)
    segment = st.one_of(known, known, known, words.map(lambda text: quote(text, safe="")), st.sampled_from(RAW))
    return re.sub(r"{[^}]*}", lambda _: data.draw(segment), route.path)


@pytest.mark.parametrize(("service", "route"), EVERY, ids=[f"{service} {route.method} {route.path}" for service, route in EVERY])
def test_no_request_is_answered_with_a_5xx(world: World, service: str, route: Route[Any]) -> None:
    bodies = contents(service, route, world.ids) if route.method != "GET" else st.just(b"")
    query = st.lists(st.tuples(st.sampled_from(QUERIES), words), max_size=3)
    person = st.sampled_from([world.admin, world.admin, world.admin, world.member])
    media = st.sampled_from([media_of(service, route)] * 12 + MEDIA)
    versions = st.sampled_from(VERSIONS + ["latest"] * 8) if service in LATEST else st.just("")

    @settings(
        max_examples=READS if route.method == "GET" else WRITES,
        deadline=None,
        database=None,
        derandomize=DERANDOMIZE,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def one(data: st.DataObject) -> None:
        path = path_of(route, data, world.ids)
        headers = {"X-Auth-Token": data.draw(person).token, "Content-Type": data.draw(media), **data.draw(headers_of)}
        if version := data.draw(versions):
            headers["OpenStack-API-Version"] = f"{service} {version}"
        if "auth/tokens" in route.path:
            headers["X-Subject-Token"] = data.draw(subjects)
        content = data.draw(bodies)
        answer = ask(world.admin.http, route.method, PATHS[service] + path, data.draw(query), content, headers)
        assert answer.status_code < 500, (answer.request.method, answer.request.url, headers, content[:2000], answer.text)
        if answer.status_code >= 400:
            check_fault(service, answer)

    one()


def ask(
    http: httpx.Client, method: str, path: str, query: list[tuple[str, str]], content: bytes, headers: dict[str, str]
) -> httpx.Response:
    raw = [(name.encode(), value.encode("utf-8")) for name, value in headers.items()]
    params = [(name, value.encode("utf-8", "replace").decode()) for name, value in query]
    return http.request(method, path, params=httpx.QueryParams(tuple(params)) if params else None, content=content, headers=raw)


def test_the_cloud_lives_on(world: World) -> None:
    """After all that (this test is the last one here) its services still do their work."""
    for service in PATHS:
        assert world.admin.http.get(PATHS[service]).status_code in (200, 300)
    network = world.admin.network("10.201.0.0/24")
    port = world.admin.post("network", "/v2.0/ports", {"port": {"network_id": network["id"]}})["port"]
    world.admin.delete("network", f"/v2.0/ports/{port['id']}")
    image_id = world.admin.image(b"alive")
    assert world.admin.call("GET", "image", f"/v2/images/{image_id}/file").content == b"alive"
