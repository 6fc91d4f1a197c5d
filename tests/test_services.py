"""Which seams the settings choose, and a whole cloud whose compute and network services speak over HTTP alone."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from pileus.bus.inprocess import InProcessBus
from pileus.choice import Choice
from pileus.cli.client import Client
from pileus.cli.statefolder import login
from pileus.cloud import Cloud
from pileus.compute.client import InProcessEvents
from pileus.compute.network_http import HttpNetwork
from pileus.context import Context
from pileus.errors import PileusError, StartupError
from pileus.messages import PortLevel
from pileus.network import levels, networks, ports, subnets
from pileus.network.client import InProcessNetwork
from pileus.network.compute_http import HttpComputeEvents
from pileus.services import Services, assemble
from pileus.settings import Settings
from pileus.store import Tx
from pileus.store.sqlite import SqliteStore
from tests.serving import served

NEUTRON, KEYSTONE = "http://127.0.0.1:9/network", "http://127.0.0.1:9/v3"
AUTH = {"auth_url": KEYSTONE, "username": "nova", "password": "secret"}
LIMIT = 20.0


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = await asyncio.to_thread(SqliteStore.open, tmp_path / "pileus.db")
    yield made
    await made.close()


def put_together(store: SqliteStore, tmp_path: Path, base_url: str = "http://pileus", **sections: dict[str, Any]) -> Services:
    return assemble(msgspec.convert(sections, Settings), tmp_path, store, InProcessBus(), base_url)


async def test_the_settings_choose_the_seams(store: SqliteStore, tmp_path: Path) -> None:
    plain = put_together(store, tmp_path)
    assert isinstance(plain.compute.network, InProcessNetwork) and isinstance(plain.events(), InProcessEvents)
    assert not plain.network.config.notify and not plain.calls_with_our_tokens
    own = put_together(store, tmp_path, compute={"network_url": NEUTRON, "plug_signal": "callback"})
    assert isinstance(own.compute.network, HttpNetwork) and own.calls_with_our_tokens and own.network.config.notify
    assert isinstance(own.events(), HttpComputeEvents)
    foreign = put_together(store, tmp_path, compute={"network_url": NEUTRON, "plug_signal": "callback"}, service_auth=AUTH)
    assert isinstance(foreign.compute.network, HttpNetwork) and not foreign.calls_with_our_tokens
    nova = put_together(store, tmp_path, network={"nova_url": "http://127.0.0.1:9/v2.1"}, service_auth=AUTH)
    assert isinstance(nova.compute.network, InProcessNetwork) and isinstance(nova.events(), HttpComputeEvents)
    assert nova.network.config.notify  # a Nova waits for its ports whatever our own compute does
    for services in (plain, own, foreign, nova):
        await services.close()


@pytest.mark.parametrize(
    ("base_url", "sections", "words"),
    [
        ("http://p", {"compute": {"network_url": NEUTRON}, "service_auth": AUTH}, "set compute.plug_signal = callback"),
        ("http://p", {"service_auth": {"auth_url": KEYSTONE}}, "service_auth.username and service_auth.password must be set"),
        ("", {"compute": {"plug_signal": "callback"}}, "set api.public_url"),
        (
            "http://p",
            {"compute": {"network_url": "https://neutron"}, "service_auth": {"ca": "/no/such.pem"}},
            "service_auth.ca: /no/such.pem",
        ),
    ],
)
async def test_settings_that_cannot_work_are_one_line(
    store: SqliteStore, tmp_path: Path, base_url: str, sections: dict[str, Any], words: str
) -> None:
    with pytest.raises(StartupError) as refused:
        put_together(store, tmp_path, base_url, **sections).events()
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(("section", "name"), [("compute", "network_url"), ("network", "nova_url"), ("service_auth", "auth_url")])
def test_a_url_of_another_cloud_holds_no_password(section: str, name: str) -> None:
    """It stands in logs, in faults that users see, and in `pileus config`."""
    assert msgspec.convert({section: {name: "https://cloud.example:5000/v3"}}, Settings)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({section: {name: "https://ann:sekret@cloud.example:5000/v3"}}, Settings)


async def test_limits_and_retries_are_the_settings(store: SqliteStore, tmp_path: Path) -> None:
    """A server that takes connections and says nothing, then one that is not there."""
    asked = 0

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    compute = {"network_url": f"http://{host}:{port}", "network_request_timeout": 0.1, "network_retries": 2, "plug_signal": "callback"}
    services = put_together(store, tmp_path, compute=compute)
    await services.identity.start()
    await services.identity.bootstrap("correct horse", "here")
    before = time.monotonic()
    with pytest.raises(PileusError, match=r"Neutron: \S+ did not answer"):
        await services.compute.network.ports("s1")
    assert asked == 3 and 0.3 <= time.monotonic() - before < LIMIT
    await services.close()
    await services.identity.close()
    in_all = put_together(store, tmp_path, compute=compute | {"network_request_timeout": 30.0, "network_limit": 0.2})
    await in_all.identity.start()
    before = time.monotonic()
    with pytest.raises(PileusError, match=r"Neutron: \S+ did not answer within 0\.2 s"):
        await in_all.compute.network.check(Context("u", project_id="p", roles=frozenset({"member"})), "auto", count=1)
    assert time.monotonic() - before < LIMIT
    await in_all.close()
    await in_all.identity.close()
    server.close()


class Other:
    """The Keystone and the Nova of another cloud."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.logins = 0
        self.refuse_token = ""

    def face(self, url: str) -> ASGIApp:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            body = b""
            while (message := await receive()).get("body") is not None:
                body += message["body"]
                if not message.get("more_body"):
                    break
            status, headers, reply = self._reply(scope["path"], dict(scope["headers"]), json.loads(body))
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": json.dumps(reply).encode()})

        return answer

    def _reply(self, path: str, headers: dict[bytes, bytes], body: Any) -> tuple[int, list[tuple[bytes, bytes]], Any]:
        if path == "/v3/auth/tokens":
            assert body["auth"]["identity"]["password"]["user"]["name"] == "neutron"
            self.logins += 1
            ends = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
            return 201, [(b"x-subject-token", b"token-%d" % self.logins)], {"token": {"expires_at": ends}}
        assert path == "/v2.1/os-server-external-events"
        token = headers[b"x-auth-token"].decode()
        if token == self.refuse_token:
            return 401, [], {}
        self.heard += [(token, event) for event in body["events"]]
        return 200, [], {"events": [event | {"code": 200} for event in body["events"]]}


async def test_another_clouds_nova_is_told_with_a_token_of_its_keystone(store: SqliteStore, tmp_path: Path) -> None:
    other = Other()
    async with served(other.face) as url:
        auth = {"auth_url": f"{url}/v3", "username": "neutron", "password": "secret"}
        network = {"nova_url": f"{url}/v2.1", "send_events_interval": 0.0}
        services = put_together(store, tmp_path, network=network, service_auth=auth)
        other.refuse_token = "token-1"  # it ended sooner than it said
        events = services.events()
        services.network.notify_by(events)
        await services.network.start()
        port_id = await store.write(_bound_port, services)
        await store.write(levels.take, services.network.config, [PortLevel(port_id, "h1", 1, "wired")])
        await services.network.wake()
        async with asyncio.timeout(LIMIT):
            while not other.heard:
                await asyncio.sleep(0.01)
        event = {"name": "network-vif-plugged", "server_uuid": "s1", "status": "completed", "tag": port_id}
        assert other.heard == [("token-2", event)] and other.logins == 2
        await services.network.close()
        await events.close()
        await services.close()


def _bound_port(tx: Tx, services: Services) -> str:
    admin, config = Context("u", project_id="p", roles=frozenset({"admin", "member", "reader"})), services.network.config
    network = networks.create(tx, config, networks.NewNetwork("p"))
    subnets.create(tx, config, admin, subnets.NewSubnet(network["id"], "10.0.0.0/24", 4, "p"))
    new = ports.NewPort("p", device_id="s1", device_owner="compute:nova", host="h1")
    return str(ports.create_on(tx, config, admin, [(network["id"], new)])[0]["id"])


@pytest.mark.parametrize("signal", ["local", "callback"])
async def test_a_whole_cloud_over_http(tmp_path: Path, signal: str) -> None:
    """Compute knows the network service by its API alone; servers come, are shown and go, and nothing is left."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    tree = {
        "state": str(tmp_path),
        "api": {"listen": listen},
        "compute": {"network_url": f"http://{listen}/network", "plug_signal": signal},
        "network": {"send_events_interval": 0.0},
        "host": {"hosts": 2},
    }
    cloud = Cloud(msgspec.convert(tree, Settings), Choice("simulated", "a test"))
    await cloud.start()
    try:
        await asyncio.to_thread(_live, tmp_path)
    finally:
        await cloud.close()


def _is_told_of_a_change(client: Client, server: dict[str, Any]) -> None:
    """The network service tells compute that a port has changed, compute asks for its addresses anew, over HTTP."""
    port = client.get("network", "/v2.0/ports", device_id=server["id"])["ports"][0]
    more = [*port["fixed_ips"], {"subnet_id": port["fixed_ips"][0]["subnet_id"]}]
    client.request("PUT", "network", f"/v2.0/ports/{port['id']}", json={"port": {"fixed_ips": more}})
    ends = time.monotonic() + LIMIT
    while len(client.get("compute", f"/servers/{server['id']}")["server"]["addresses"]["private"]) < 2:
        assert time.monotonic() < ends
        time.sleep(0.02)


def _live(state: Path) -> None:
    with Client(login(state)) as client:

        def servers(wanted: set[str]) -> list[dict[str, Any]]:
            ends = time.monotonic() + LIMIT
            while time.monotonic() < ends:
                found: list[dict[str, Any]] = client.get("compute", "/servers/detail")["servers"]
                if {server["status"] for server in found} == wanted:
                    return found
                time.sleep(0.02)
            raise AssertionError(client.get("compute", "/servers/detail"))

        body = {"name": "a", "flavorRef": "1", "imageRef": "", "networks": "auto", "min_count": 4}
        client.post("compute", "/servers", {"server": body})
        active = servers({"ACTIVE"})
        assert len(active) == 4 and all(server["addresses"]["private"] for server in active)
        _is_told_of_a_change(client, active[0])
        found = [port for port in client.get("network", "/v2.0/ports")["ports"] if port["device_owner"] == "compute:nova"]
        assert {port["device_id"] for port in found} == {server["id"] for server in active}
        client.post("compute", f"/servers/{active[0]['id']}/action", {"os-stop": None})
        servers({"ACTIVE", "SHUTOFF"})
        client.post("compute", f"/servers/{active[0]['id']}/action", {"os-start": None})
        servers({"ACTIVE"})
        for server in active:
            client.delete("compute", f"/servers/{server['id']}")
        assert servers(set()) == []
        assert {port["device_owner"] for port in client.get("network", "/v2.0/ports")["ports"]} == {"network:dhcp"}
