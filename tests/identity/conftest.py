"""An identity service with an admin, and clients that speak to its face in this process."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from pileus.http.face import Limits
from pileus.identity import passwords
from pileus.identity.api.face import face
from pileus.identity.bootstrap import Bootstrapped
from pileus.identity.service import Identity
from pileus.settings import Settings
from pileus.store.sqlite import SqliteStore

BASE = "http://cloud.test"
ADMIN_PASSWORD = "correct horse"
MAX_BODY = 200_000


@dataclass
class Clock:
    """Real time plus what the test has let pass."""

    passed: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.passed


@dataclass
class Cloud:
    identity: Identity
    boot: Bootstrapped
    http: httpx.AsyncClient
    clock: Clock
    keys_folder: Path
    headers: dict[str, str] = field(default_factory=dict)
    """The admin's."""

    async def login(self, user: dict[str, Any] | None = None, scope: Any = None, **more: Any) -> httpx.Response:
        """POST /v3/auth/tokens for a user (with its password inside)."""
        identity: dict[str, Any] = {"methods": ["password"], "password": {"user": user}} if user is not None else {"methods": []}
        body = {"auth": {"identity": identity | more}}
        if scope is not None:
            body["auth"]["scope"] = scope
        return await self.http.post("/v3/auth/tokens", json=body)

    async def headers_of(self, user_id: str, password: str, project_id: str | None = None) -> dict[str, str]:
        scope = {"project": {"id": project_id}} if project_id is not None else "unscoped"
        answer = await self.login({"id": user_id, "password": password}, scope)
        assert answer.status_code == 201, answer.text
        return {"X-Auth-Token": answer.headers["X-Subject-Token"]}

    async def make(self, kind: str, **values: Any) -> dict[str, Any]:
        """POST /v3/{kind}s as the admin; what was made."""
        answer = await self.http.post(f"/v3/{kind}s", json={kind: values}, headers=self.headers)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()[kind]
        return made

    async def role(self, name: str) -> str:
        found = (await self.http.get("/v3/roles", params={"name": name}, headers=self.headers)).json()["roles"]
        return str(found[0]["id"])

    async def assign(self, user_id: str, role: str, *, project: str | None = None, domain: str | None = None) -> None:
        path = f"projects/{project}" if project is not None else f"domains/{domain}"
        answer = await self.http.put(f"/v3/{path}/users/{user_id}/roles/{await self.role(role)}", headers=self.headers)
        assert answer.status_code == 204, answer.text

    async def member(
        self, name: str = "alice", password: str = "wonderland", role: str = "member"
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A user with a role on a project of the user's own: user and project."""
        project = await self.make("project", name=f"{name}s")
        user = await self.make("user", name=name, password=password)
        await self.assign(user["id"], role, project=project["id"])
        return user, project


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture
async def cloud(store: SqliteStore, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cloud]:
    monkeypatch.setattr(passwords, "ROUNDS", 1)  # what a hash costs is tests/identity/test_passwords.py's matter
    monkeypatch.setattr(passwords, "MEMORY", 8)
    clock = Clock()
    keys_folder = tmp_path / "keys" / "fernet"
    identity = Identity(store, settings, keys_folder, BASE, now=clock)
    await identity.start()
    boot = await identity.bootstrap(ADMIN_PASSWORD)
    app = face(identity, Limits(max_body=MAX_BODY, max_limit=5))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE) as http:
        made = Cloud(identity, boot, http, clock, keys_folder)
        made.headers = await made.headers_of(boot.admin_id, ADMIN_PASSWORD, boot.admin_project_id)
        yield made
    await identity.close()
