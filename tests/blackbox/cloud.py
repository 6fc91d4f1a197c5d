"""A cloud as its users have it: `pileus up` in a process of its own, spoken to over HTTP alone."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

LIMIT = 60.0
PATHS = {
    "identity": "/identity",
    "image": "/image",
    "placement": "/placement",
    "compute": "/compute",
    "network": "/network",
}


@dataclass(frozen=True)
class Cloud:
    """A cloud under way. `greeting` is the first line that it printed, `clouds_yaml` is its own, `log` is what it wrote to stderr."""

    greeting: str
    url: str
    state: Path
    log: Path
    process: subprocess.Popen[str]

    @property
    def clouds_yaml(self) -> Path:
        return self.state / "clouds.yaml"

    @property
    def password(self) -> str:
        found = re.search(r'password: "(.*)"', self.clouds_yaml.read_text())
        assert found is not None
        return found[1]

    def login(self, user: str, password: str, project: str | None = None) -> Person:
        """Whoever can log in, in a project's scope or in none."""
        client = httpx.Client(base_url=self.url, timeout=LIMIT)
        auth: dict[str, Any] = {
            "identity": {"methods": ["password"], "password": {"user": {"name": user, "domain": {"id": "default"}, "password": password}}}
        }
        if project is not None:
            auth["scope"] = {"project": {"name": project, "domain": {"id": "default"}}}
        answer = client.post("/identity/v3/auth/tokens", json={"auth": auth})
        assert answer.status_code == 201, answer.text
        token = answer.json()["token"]
        return Person(
            client,
            answer.headers["X-Subject-Token"],
            user,
            password,
            token["user"]["id"],
            project or "",
            token.get("project", {}).get("id", ""),
        )

    def admin(self) -> Person:
        return self.login("admin", self.password, "admin")


@dataclass(frozen=True)
class Person:
    """A user with a token, who calls the five services."""

    http: httpx.Client
    token: str
    name: str
    password: str
    user_id: str
    project: str
    project_id: str

    def call(
        self,
        method: str,
        service: str,
        path: str,
        body: Any = None,
        *,
        version: str | None = None,
        content: bytes | Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
        params: Any = None,
    ) -> httpx.Response:
        sent = {"X-Auth-Token": self.token, **(headers or {})}
        if version is not None:
            sent["OpenStack-API-Version"] = f"{service} {version}"
        url = PATHS[service] + path
        if content is not None:
            return self.http.request(method, url, content=content, headers=sent, params=params)
        return self.http.request(method, url, json=body, headers=sent, params=params)

    def ask(self, method: str, service: str, path: str, body: Any = None, **more: Any) -> Any:
        """The answer's JSON (None without a body); fails unless it is a 2xx."""
        answer = self.call(method, service, path, body, **more)
        assert answer.is_success, (method, path, answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def get(self, service: str, path: str, **more: Any) -> Any:
        return self.ask("GET", service, path, **more)

    def post(self, service: str, path: str, body: Any, **more: Any) -> Any:
        return self.ask("POST", service, path, body, **more)

    def delete(self, service: str, path: str) -> None:
        self.ask("DELETE", service, path)

    def network(self, cidr: str | None = "10.77.0.0/24", **more: Any) -> dict[str, Any]:
        """A network of a name of its own, with a subnet if there is a cidr; the network."""
        made: dict[str, Any] = self.post("network", "/v2.0/networks", {"network": {"name": fresh("net"), **more}})["network"]
        if cidr is not None:
            self.post("network", "/v2.0/subnets", {"subnet": {"network_id": made["id"], "cidr": cidr, "ip_version": 4}})
        return made

    def image(self, data: bytes = b"\x55" * 4096, **more: Any) -> str:
        """An active raw image's id."""
        body = {"name": fresh("image"), "disk_format": "raw", "container_format": "bare", **more}
        image_id: str = self.post("image", "/v2/images", body)["id"]
        sent = self.call("PUT", "image", f"/v2/images/{image_id}/file", content=data, headers={"Content-Type": "application/octet-stream"})
        assert sent.status_code == 204, sent.text
        return image_id

    def server(self, *, version: str | None = None, **more: Any) -> dict[str, Any]:
        """A server, when it is no longer being built."""
        body = {"name": fresh("server"), "flavorRef": "1", "networks": "none", **more}
        made = self.post("compute", "/v2.1/servers", {"server": body}, version=version or "2.37")["server"]
        return self.settled(made["id"])

    def settled(self, server_id: str) -> dict[str, Any]:
        """The server when nothing is under way on it."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            server: dict[str, Any] = self.get("compute", f"/v2.1/servers/{server_id}")["server"]
            if server["status"] != "BUILD" and server["OS-EXT-STS:task_state"] is None:
                return server
            time.sleep(0.01)
        raise AssertionError(f"server {server_id} is still {server['status']}")

    def gone(self, *server_ids: str) -> None:
        """Delete servers and wait until they are away."""
        for server_id in server_ids:
            self.delete("compute", f"/v2.1/servers/{server_id}")
        self.gone_by_itself(*server_ids)

    def gone_by_itself(self, *server_ids: str) -> None:
        """Wait until servers are away that somebody has deleted."""
        deadline = time.monotonic() + LIMIT
        for server_id in server_ids:
            while self.call("GET", "compute", f"/v2.1/servers/{server_id}").status_code != 404:
                assert time.monotonic() < deadline, f"server {server_id} is still there"
                time.sleep(0.01)


def fresh(kind: str) -> str:
    """A name that nothing else has."""
    return f"{kind}-{uuid.uuid4().hex[:8]}"


def hire(cloud: Cloud, admin: Person, roles: dict[str, str]) -> dict[str, Person]:
    """A new project and a user for each of `roles` (label → role): label → Person."""
    project = fresh("project")
    project_id = admin.post("identity", "/v3/projects", {"project": {"name": project}})["project"]["id"]
    known = {role["name"]: role["id"] for role in admin.get("identity", "/v3/roles")["roles"]}
    people = {}
    for label, role in roles.items():
        user, password = fresh(label), "pass word"
        user_id = admin.post("identity", "/v3/users", {"user": {"name": user, "password": password}})["user"]["id"]
        admin.ask("PUT", "identity", f"/v3/projects/{project_id}/users/{user_id}/roles/{known[role]}")
        people[label] = cloud.login(user, password, project)
    return people


VLANS = {"PILEUS_NETWORK__VLAN_RANGES": "simulated:1:4094", "PILEUS_HOST__BRIDGE_MAPPINGS": "simulated=none"}
"""A physical network beside the tunnels."""


@contextlib.contextmanager
def running(folder: Path, *flags: str, **env: str) -> Iterator[Cloud]:
    """A simulated cloud until the end of the block. At its end: SIGTERM, exit code 0 and a log without an error."""
    state, log = folder / "state", folder / "up.log"
    command = [sys.executable, "-m", "pileus", "up", "--state", str(state), "--listen", "127.0.0.1:0", "--hypervisor", "simulated", *flags]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PILEUS_", "OS_"))}
    with log.open("a") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=clean | VLANS | env)
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], LIMIT)
        said = process.stdout.readline() if ready else ""
        found = re.search(r"Pileus is up: (http://\S+?),", said)
        assert found is not None, (said, log.read_text())
        yield Cloud(said.strip(), found[1], state, log, process)
        if process.returncode is None:  # the block has not ended it itself
            assert process.poll() is None, log.read_text()
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    told = log.read_text()
    assert "Traceback" not in told, told
    assert "request failed" not in told, told
