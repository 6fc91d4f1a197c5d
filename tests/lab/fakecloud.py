"""A make-believe OpenStack cloud behind httpx: what it refuses, how long it takes and how it pages can be said."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import httpx

from pileus.lab.clouds import Access

URL = "http://cloud.test"
ACCESS = Access("test", "password", {"auth_url": f"{URL}/identity/v3", "username": "ann", "password": "x", "project_name": "web"})


class FakeCloud:
    """`fate` of the nth server: its status when `takes` seconds are over, or the answer that refuses it."""

    def __init__(self) -> None:
        self.takes = 0.0
        self.page = 1000
        self.fate: Callable[[int], str | httpx.Response] = lambda n: "ACTIVE"
        self.networks = [{"id": "net-1", "name": "private", "subnets": ["s"], "project_id": "p1"}]
        self.images: list[dict[str, Any]] = [{"id": "img-1", "name": "blank", "status": "active", "disk_format": "raw"}]
        self.servers: dict[str, dict[str, Any]] = {}
        self.tokens_left = 10**6
        self.lists: Callable[[], httpx.Response | None] = lambda: None
        """What the list of servers is answered with instead."""
        self.password = "x"
        self.asked: list[str] = []
        self._number = itertools.count()

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.answer)

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.asked.append(f"{request.method} {path}")
        if path == "/identity/v3/auth/tokens":
            return self._token(json.loads(request.content))
        self.tokens_left -= 1
        if self.tokens_left == 0:
            return httpx.Response(401, json={"error": {"message": "The request you have made requires authentication."}})
        if path == "/compute/v2.1/servers" and request.method == "POST":
            return self._create(json.loads(request.content)["server"])
        if path == "/compute/v2.1/servers/detail":
            return self.lists() or self._list(request)
        if request.method == "DELETE":
            return httpx.Response(204 if self.servers.pop(path.rsplit("/", 1)[1], None) else 404)
        return httpx.Response(200, json=self._lists()[path])

    def _token(self, body: Any) -> httpx.Response:
        if body["auth"]["identity"]["password"]["user"]["password"] != self.password:
            return httpx.Response(401, json={"error": {"code": 401, "message": "The request you have made requires authentication."}})
        kinds = {"compute": "compute/v2.1", "network": "network", "image": "image"}
        catalogue = [
            {"type": kind, "endpoints": [{"interface": "public", "region": "r", "url": f"{URL}/{path}"}]} for kind, path in kinds.items()
        ]
        return httpx.Response(201, json={"token": {"project": {"id": "p1"}, "catalog": catalogue}}, headers={"X-Subject-Token": "t"})

    def _lists(self) -> dict[str, Any]:
        flavors = [
            {"id": "f2", "name": "large", "ram": 4096, "vcpus": 4, "disk": 40},
            {"id": "f1", "name": "small", "ram": 512, "vcpus": 1, "disk": 1},
        ]
        return {
            "/compute/v2.1/flavors/detail": {"flavors": flavors},
            "/network/v2.0/networks": {"networks": self.networks},
            "/image/v2/images": {"images": self.images},
        }

    def _create(self, wanted: dict[str, Any]) -> httpx.Response:
        number = next(self._number)
        fate = self.fate(number)
        if isinstance(fate, httpx.Response):
            return fate
        server_id = f"00000000-0000-0000-0000-{number:012d}"
        self.servers[server_id] = {"id": server_id, "name": wanted["name"], "fate": fate, "at": time.time(), "wanted": wanted}
        return httpx.Response(202, json={"server": {"id": server_id}})

    def _list(self, request: httpx.Request) -> httpx.Response:
        found = [self._shown(one) for one in self.servers.values() if request.url.params["name"] in one["name"]]
        marker = request.url.params.get("marker")
        if marker:
            found = found[[one["id"] for one in found].index(marker) + 1 :]
        links = []
        if len(found) > self.page:
            found = found[: self.page]
            href = str(request.url.copy_set_param("marker", found[-1]["id"]))
            links = [{"rel": "next", "href": href}]
        return httpx.Response(200, json={"servers": found, "servers_links": links})

    def _shown(self, one: dict[str, Any]) -> dict[str, Any]:
        over = time.time() - one["at"] >= self.takes
        shown = {"id": one["id"], "name": one["name"], "status": one["fate"] if over else "BUILD"}
        if shown["status"] == "ERROR":
            shown["fault"] = {"code": 500, "message": f"Build of instance {one['id']} aborted: no network"}
        return shown
