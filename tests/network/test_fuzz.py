"""Whatever is sent to any route: never a 5xx, and a refusal always in Neutron's form."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pileus.network.api import address_groups, networks, ports, security_group_rules, security_groups, subnets
from pileus.network.api.face import ROUTES
from tests.network.conftest import Client

MODULES = (networks, subnets, ports, security_groups, security_group_rules, address_groups)
NAMES = sorted({attribute.name for module in MODULES for attribute in module.ATTRIBUTES})
FILTERS = sorted(
    {name for module in MODULES for name in module.RESOURCE.filters}
    | {"fields", "limit", "marker", "sort_key", "sort_dir", "page_reverse", "alive", "nonsense"}
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(
        [
            "10.0.0.9",
            "10.0.0.0/24",
            "10.0.0.0/8",
            "::/0",
            "2001:db8::/64",
            "fe80::1",
            "02:00:00:00:00:01",
            "vlan",
            "local",
            "physnet1",
            "GROUP",
            "ingress",
            "tcp",
            "IPv6",
        ]
    ),
)
keys = st.sampled_from(["ip_address", "subnet_id", "mac_address", "start", "end", "destination", "nexthop", "x", "port", "network"])
values = st.recursive(scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)), max_leaves=6)
bodies = st.dictionaries(st.sampled_from(NAMES), values, max_size=5)
ids = st.sampled_from(["NETWORK", "SUBNET", "GROUP", "PORT", "p-admin", "nowhere", "agent", "%00", "a b", "é"])
asked = st.one_of(st.text(max_size=6), st.sampled_from(["true", "id", "-1", "5"]))
queries = st.lists(
    st.tuples(st.sampled_from(FILTERS), st.one_of(st.text(max_size=6), st.sampled_from(["true", "id", "-1", "5"]))), max_size=4
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    route=st.sampled_from(ROUTES),
    one=ids,
    body=bodies,
    junk=st.one_of(st.none(), values),
    query=queries,
    token=st.sampled_from(["admin", "alice"]),
)
async def test_no_request_is_answered_with_a_5xx(
    client: Client, route: Any, one: str, body: dict[str, Any], junk: Any, query: list[tuple[str, Any]], token: str
) -> None:
    listed = await client.session.get("/v2.0/networks", params={"name": "fuzz"}, headers={"X-Auth-Token": "admin"})
    if not listed.json()["networks"]:
        net, sub = await client.network("fuzz")
        await client.port(net)
    else:
        net = listed.json()["networks"][0]
        sub = {"id": net["subnets"][0] if net["subnets"] else "gone"}
    group = (await client.get("/v2.0/security-groups", name="default"))["security_groups"][0]
    real = {"NETWORK": net["id"], "SUBNET": sub["id"], "GROUP": group["id"]}
    path = route.path
    for part in ("{id}", "{alias}", "{project_id}"):
        path = path.replace(part, real.get(one, one))
    kinds = ("network", "subnet", "port", "quota", "security_group_rule", "security_group", "address_group")
    singular = next((name for name in kinds if f"/{name.replace('_', '-')}s" in route.path), "network")
    body = {name: real.get(value, value) if isinstance(value, str) else value for name, value in body.items()}
    if route.method == "POST" and singular != "network" and "network_id" in body:
        body["network_id"] = net["id"]
    sent: Any = {singular: body} if junk is None else junk
    answer = await client.session.request(
        route.method,
        path,
        params=[*query],
        content=msgspec.json.encode(sent) if route.method in ("POST", "PUT") else None,
        headers={"X-Auth-Token": token, "Content-Type": "application/json"},
    )
    assert answer.status_code < 500, (route.method, path, query, sent, answer.text)
    if answer.status_code >= 400:
        assert answer.json()["NeutronError"].keys() == {"type", "message", "detail"}


async def test_bodies_that_are_no_json(client: Client) -> None:
    for content in (b"", b"{", b"\xff", b"[" * 5000, b'{"network": {"name": "\\u0000"}}', b'{"network": {"name": "\\ud800"}}', b"null"):
        answer = await client.session.post("/v2.0/networks", content=content, headers={"X-Auth-Token": "admin"})
        assert answer.status_code == 400, answer.text
    big = b'{"network": {"name": "' + b"x" * (1 << 20) + b'"}}'
    assert (await client.session.post("/v2.0/networks", content=big, headers={"X-Auth-Token": "admin"})).status_code == 413
    wrong = {"X-Auth-Token": "admin", "Content-Type": "text/plain"}
    assert (await client.session.post("/v2.0/networks", content=b"{}", headers=wrong)).status_code == 415


async def test_long_queries(client: Client) -> None:
    for name, value in (("name", "x"), ("dns_nameservers", "x"), ("sort_key", "name"), ("fixed_ips", "ip_address_substr=x")):
        for path in ("/v2.0/networks", "/v2.0/subnets", "/v2.0/ports"):
            answer = await client.session.get(path, params=[(name, value)] * 2000, headers={"X-Auth-Token": "admin"})
            assert answer.status_code in (200, 400), answer.text
