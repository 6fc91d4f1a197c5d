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
from tests.blackbox.routes import EVERY, LATEST, MORE, NOTHING, X, body_of, check_fault, media_of

READS, WRITES = 12, 45
"""Requests for each route."""
DERANDOMIZE = True


@dataclass(frozen=True, repr=False)
class World:
    """A cloud with one of everything in it. `kinds`: ids by the name of their kind in a path or a body."""

    admin: Person
    member: Person
    kinds: dict[str, list[str]]

    @property
    def ids(self) -> list[str]:
        return [one for found in self.kinds.values() for one in found]

    def of(self, service: str, route: Route[Any], parameter: str) -> list[str]:
        """Ids that fit in a path's place; any where there are none of that kind."""
        before = route.path.partition("{" + parameter)[0].rstrip("/").rsplit("/", 1)[-1]
        return self.kinds.get(f"{service} {before}") or self.kinds.get(before) or self.ids


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
    roles = [row["id"] for row in admin.get("identity", "/v3/roles")["roles"] if row["name"] == "reader"]
    roles.append(admin.post("identity", "/v3/roles", {"role": {"name": "own"}})["role"]["id"])
    kinds = {
        "networks": [network["id"], admin.network(None)["id"]],
        "subnets": admin.get("network", f"/v2.0/networks/{network['id']}")["network"]["subnets"],
        "ports": [port["id"]],
        "os-interface": [nic],
        "images": [image_id],
        "compute servers": [server["id"]],
        "os-instance-actions": [action],
        "flavors": ["1", "2"],
        "os-keypairs": ["k"],
        "os-extra_specs": ["k"],
        "metadata": ["k"],
        "ips": [network["name"]],
        "projects": [other.project_id],
        "os-quota-sets": [other.project_id, member.project_id],
        "quotas": [other.project_id, member.project_id],
        "members": [other.project_id],
        "users": [other.user_id],
        "roles": roles,
        "domains": ["default"],
        "regions": ["RegionOne"],
        "agents": [row["id"] for row in admin.get("network", "/v2.0/agents")["agents"]],
        "resource_providers": [row["uuid"] for row in admin.get("placement", "/resource_providers")["resource_providers"]],
        "allocations": [server["id"], X],
        "inventories": ["VCPU", "DISK_GB"],
        "resource_classes": ["VCPU", "CUSTOM_X"],
        "os-hypervisors": [row["id"] for row in admin.get("compute", "/v2.1/os-hypervisors", version="2.96")["hypervisors"]],
        "os-services": [row["id"] for row in admin.get("compute", "/v2.1/os-services", version="2.96")["services"]],
        "identity services": [admin.get("identity", "/v3/services")["services"][0]["id"]],
        "endpoints": [admin.get("identity", "/v3/endpoints")["endpoints"][0]["id"]],
    }
    return World(admin, member, kinds)


BY_KEY = {
    "network_id": "networks",
    "uuid": "networks",
    "port": "ports",
    "subnet_id": "subnets",
    "imageRef": "images",
    "server_uuid": "compute servers",
    "project_id": "projects",
    "member": "projects",
    "tenant": "projects",
    "parent_provider_uuid": "resource_providers",
}
"""Which kind of id a body's key wants."""


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
VERSIONS = {
    "compute": ["latest"] * 6 + ["2.1", "2.37", "2.53", "2.73", "2.88", "2.96", "", "2.97", "x"],
    "placement": ["latest"] * 6 + ["1.0", "1.8", "1.12", "1.28", "1.34", "1.39", "", "1.40", "x"],
}

Draw = Callable[[st.SearchStrategy[Any]], Any]
percent = st.integers(0, 99)
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


def happens(draw: Draw, chance: int) -> bool:
    """So often of a hundred. Not is what hypothesis leans to, so nonsense is what it adds."""
    return bool(draw(percent) >= 100 - chance)


def mutated(draw: Draw, good: Any, world: World, bad: int, key: str = "") -> Any:
    """Something like `good`. Of a hundred parts `bad` are missing or turned into nonsense; ids are those of things that exist."""
    if happens(draw, bad):
        return draw(st.one_of(odd, odd, odd, deep))
    if isinstance(good, dict):
        whole = {
            draw(st.sampled_from(world.kinds["resource_providers"])) if name == X else name: mutated(draw, value, world, bad, name)
            for name, value in good.items()
            if not happens(draw, bad)
        }
        return {**whole, draw(words): draw(odd)} if happens(draw, bad) else whole
    if isinstance(good, list):
        return [mutated(draw, value, world, bad, key) for value in (good * 60 if happens(draw, bad) else good)]
    if good == X and key != "id":
        return draw(st.sampled_from(world.kinds.get(BY_KEY.get(key, ""), world.ids)))
    return good


@st.composite
def contents(draw: Draw, service: str, route: Route[Any], world: World) -> bytes:
    """A body for the route: a good one, one with a few flaws, one with many, or bytes."""
    good = body_of(service, route)
    if happens(draw, 40 if good is NOTHING else 6):
        return bytes(draw(st.sampled_from(BYTES) | st.binary(max_size=20)))
    if good is NOTHING:
        return b""
    goods = [good, *MORE.get((service, route.method, route.path), [])]
    return json.dumps(mutated(draw, draw(st.sampled_from(goods)), world, draw(st.sampled_from([0, 3, 10, 30])))).encode()


def path_of(service: str, route: Route[Any], data: st.DataObject, world: World) -> str:
    wild = st.one_of(st.sampled_from(world.ids), words.map(lambda text: quote(text, safe="")), st.sampled_from(RAW))

    def segment(match: re.Match[str]) -> str:
        fits = st.sampled_from(world.of(service, route, match[1]))
        return str(data.draw(wild if happens(data.draw, 30) else fits))

    return re.sub(r"{([^}]*)}", segment, route.path)


ORDERED = sorted(EVERY, key=lambda one: one[1].method == "DELETE")
"""Deleting comes last: until then there is something to work on."""


@pytest.mark.parametrize(("service", "route"), ORDERED, ids=[f"{service} {route.method} {route.path}" for service, route in ORDERED])
def test_no_request_is_answered_with_a_5xx(world: World, service: str, route: Route[Any]) -> None:
    bodies = contents(service, route, world) if route.method != "GET" else st.just(b"")
    query = st.lists(st.tuples(st.sampled_from(QUERIES), words), max_size=3)
    person = st.sampled_from([world.admin, world.admin, world.admin, world.member])
    media = st.sampled_from([media_of(service, route)] * 80 + MEDIA)
    versions = st.sampled_from(VERSIONS[service]) if service in LATEST else st.just("")

    @settings(
        max_examples=READS if route.method == "GET" else WRITES,
        deadline=None,
        database=None,
        derandomize=DERANDOMIZE,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def one(data: st.DataObject) -> None:
        path = path_of(service, route, data, world)
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
