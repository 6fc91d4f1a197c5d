"""Nonsense for every route: no answer is a 5xx. Bodies are good ones bent by hypothesis, queries and paths are made up."""

from __future__ import annotations

import asyncio
import copy
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pileus.compute.api.face import ROUTES, face
from pileus.compute.api.server_filters import FILTERS, PAGING, SPECIAL
from pileus.http.face import Limits, Route
from pileus.store.sqlite import SqliteStore
from tests.compute import parts
from tests.compute.api.conftest import Api, authenticate
from tests.compute.test_keypairs import KEY

GOOD: dict[str, list[Any]] = {
    "/v2.1/servers": [
        {
            "server": {
                "name": "x",
                "flavorRef": "1",
                "imageRef": parts.IMAGE,
                "networks": [{"uuid": parts.NETWORK, "fixed_ip": "10.0.0.2", "tag": "t"}],
                "key_name": "k",
                "user_data": "QQ==",
                "metadata": {"a": "b"},
                "availability_zone": "nova:host1",
                "config_drive": True,
                "min_count": 1,
                "max_count": 2,
                "description": "d",
                "accessIPv4": "192.0.2.1",
                "block_device_mapping_v2": [{"source_type": "image", "uuid": parts.IMAGE}],
            },
            "os:scheduler_hints": {},
        }
    ],
    "/v2.1/servers/{id}": [{"server": {"name": "n", "description": "d", "hostname": "h", "accessIPv6": "::1"}}],
    "/v2.1/servers/{id}/action": [
        {"os-start": None},
        {"reboot": {"type": "HARD"}},
        {"lock": {"locked_reason": "r"}},
        {"os-getConsoleOutput": {"length": 5}},
        {"os-resetState": {"state": "error"}},
        {"unlock": None},
    ],
    "/v2.1/servers/{id}/metadata": [{"metadata": {"a": "b"}}],
    "/v2.1/servers/{id}/metadata/{key}": [{"meta": {"a": "b"}}],
    "/v2.1/flavors": [{"flavor": {"name": "f", "ram": 1, "vcpus": 1, "disk": 1, "id": "x", "rxtx_factor": 1.0, "description": "d"}}],
    "/v2.1/flavors/{id}": [{"flavor": {"description": "d"}}],
    "/v2.1/flavors/{id}/action": [{"addTenantAccess": {"tenant": "p"}}, {"removeTenantAccess": {"tenant": "p"}}],
    "/v2.1/flavors/{id}/os-extra_specs": [{"extra_specs": {"a": "b"}}],
    "/v2.1/flavors/{id}/os-extra_specs/{key}": [{"a": "b"}],
    "/v2.1/os-keypairs": [{"keypair": {"name": "k", "public_key": KEY, "type": "ssh", "user_id": "u"}}],
    "/v2.1/os-server-external-events": [{"events": [{"name": "network-changed", "server_uuid": parts.NOWHERE, "tag": "t"}]}],
    "/v2.1/os-services/{id}": [
        {"status": "disabled", "disabled_reason": "r", "forced_down": True},
        {"host": "host1", "binary": "nova-compute"},
    ],
    "/v2.1/os-quota-sets/{project}": [{"quota_set": {"instances": 5, "cores": "-1", "force": True}}],
}
QUERIES = sorted({*FILTERS, *SPECIAL, *PAGING, "user_id", "with_servers", "is_public", "minRam", "hypervisor_hostname_pattern"})
TEXTS = st.one_of(
    st.sampled_from(
        ["", "1", "-1", "true", "ACTIVE", "2025-01-01T00:00:00Z", "9" * 25, "1e400", "created_at", "asc", "%", "\\", "(a+)+$", "é"]
    ),
    st.text(max_size=20),
)
NONSENSE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=10), st.just("x" * 300)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)
VERSIONS = ["2.1", "2.10", "2.31", "2.36", "2.52", "2.57", "2.74", "2.83", "2.90", "2.96"]


@st.composite
def bodies(draw: st.DrawFn, route: Route[Any]) -> Any:
    """A good body with up to two places replaced, added or taken away; or nonsense."""
    known = GOOD.get(route.path, [])
    if not known or draw(st.integers(0, 9)) == 0:
        return draw(NONSENSE)
    body = copy.deepcopy(draw(st.sampled_from(known)))
    for _ in range(draw(st.integers(0, 2))):
        places = list(_places(body))
        holder, key = draw(st.sampled_from(places)) if places else (body, None)
        if key is None:
            continue
        change = draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "replace":
            holder[key] = draw(NONSENSE)
        elif change == "remove":
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw(st.text(max_size=8))] = draw(NONSENSE)
    return body


def _places(value: Any) -> Any:
    """Where something of a body can be changed."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, str, str, Any]:
    """Method, path with its query, version, body."""
    route = draw(st.sampled_from(ROUTES))
    segment = st.one_of(st.sampled_from(["SERVER", "1", "host1", "project", "a", parts.NOWHERE]), st.text(min_size=1, max_size=8))
    path = re.sub(r"{[^}]*}", lambda _: quote(draw(segment), safe=""), route.path)
    query = draw(st.lists(st.tuples(st.one_of(st.sampled_from(QUERIES), st.text(max_size=5)), TEXTS), max_size=3))
    text = "&".join(f"{quote(key)}={quote(value)}" for key, value in query)
    body = draw(bodies(route)) if route.method in ("POST", "PUT") else None
    return route.method, f"{path}?{text}" if text else path, draw(st.sampled_from(VERSIONS)), body


@pytest.mark.parametrize("token", ["member", "admin"])
def test_no_5xx(tmp_path: Path, token: str) -> None:
    loop = asyncio.new_event_loop()
    store = SqliteStore.open(tmp_path / "pileus.db")
    compute = parts.compute_with(store)
    app = face(compute, authenticate, "http://pileus/identity", "http://pileus", Limits(max_limit=20))
    session = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pileus")

    async def prepare() -> str:
        await parts.add_host(compute)
        await parts.add_flavor(compute)
        server_id = await Api(session).make(token=token)
        await parts.run(compute, server_id)
        return server_id

    server_id = loop.run_until_complete(prepare())

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(calls())
    def nonsense(call: tuple[str, str, str, Any]) -> None:
        method, path, version, body = call
        headers = {"X-Auth-Token": token, "OpenStack-API-Version": f"compute {version}"}
        path = path.replace("SERVER", server_id)
        answer = loop.run_until_complete(_send(session, method, path, headers, body))
        assert answer is None or answer.status_code < 500, answer.text

    try:
        nonsense()
    finally:
        loop.run_until_complete(session.aclose())
        loop.run_until_complete(compute.bus.close())
        loop.run_until_complete(store.close())
        loop.close()


async def _send(session: httpx.AsyncClient, method: str, path: str, headers: dict[str, str], body: Any) -> httpx.Response | None:
    content = None if body is None else json.dumps(body).encode(errors="replace")
    try:
        return await session.request(method, path, headers=headers, content=content)
    except httpx.InvalidURL:
        return None  # no client can send it
