"""The compute face over a service with stand-ins. A token is a name: `admin`, `member`, `reader`, `service`, `other` (elsewhere)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from pileus.compute.api.face import face
from pileus.compute.service import Compute
from pileus.context import Context
from pileus.errors import Unauthorized
from pileus.http.face import Limits
from pileus.store.sqlite import SqliteStore
from tests.compute import parts

READER = frozenset({"reader"})
MEMBER = READER | {"member"}
CALLERS = {
    "admin": Context("admin-user", project_id="admin-project", roles=MEMBER | {"admin"}),
    "member": Context("user", project_id="project", roles=MEMBER),
    "reader": Context("reading", project_id="project", roles=READER),
    "other": Context("stranger", project_id="elsewhere", roles=MEMBER),
    "service": Context("service-user", project_id="services", roles=MEMBER | {"service"}),
}


async def authenticate(token: str) -> Context:
    if token not in CALLERS:
        raise Unauthorized("The token is unknown or has expired.")
    return CALLERS[token]


@pytest.fixture
async def compute(store: SqliteStore) -> AsyncIterator[Compute]:
    """One host, one flavor."""
    made = parts.compute_with(store)
    await parts.add_host(made)
    await parts.add_flavor(made)
    yield made
    await made.bus.close()


@pytest.fixture
async def api(compute: Compute) -> AsyncIterator[Api]:
    app = face(compute, authenticate, "http://pileus/identity", "http://pileus", Limits(max_limit=100))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pileus") as session:
        yield Api(session)


class Api:
    """Calls by version and caller: `await api.get("/servers", "2.96")`."""

    def __init__(self, session: httpx.AsyncClient) -> None:
        self.session = session

    async def call(
        self, method: str, path: str, version: str = "2.96", body: Any = None, token: str = "member", **more: Any
    ) -> httpx.Response:
        headers = {"X-Auth-Token": token, "OpenStack-API-Version": f"compute {version}", **more.pop("headers", {})}
        return await self.session.request(method, "/v2.1" + path, json=body, headers=headers, **more)

    async def get(self, path: str, version: str = "2.96", token: str = "member") -> Any:
        answer = await self.call("GET", path, version, token=token)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def refused(self, status: int, method: str, path: str, body: Any = None, version: str = "2.96", token: str = "member") -> str:
        """The call is refused with this status; its message."""
        answer = await self.call(method, path, version, body, token)
        assert answer.status_code == status, (answer.status_code, answer.text)
        (fault,) = answer.json().values()
        assert fault["code"] == status
        return str(fault["message"])

    async def make(self, version: str = "2.96", token: str = "member", **values: Any) -> str:
        """A new server's id."""
        server = {"name": "one", "flavorRef": "1", **({"networks": "none"} if _minor(version) >= 37 else {}), **values}
        answer = await self.call("POST", "/servers", version, {"server": server}, token)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["server"]["id"])


def _minor(version: str) -> int:
    return 96 if version == "latest" else int(version.partition(".")[2])
