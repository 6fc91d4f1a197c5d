"""A placement service on a store of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from pileus.context import Context
from pileus.errors import Unauthorized
from pileus.http.face import Limits
from pileus.placement.api.face import face
from pileus.placement.service import Placement
from tests.engines.stores import both, opened

pytest_generate_tests = both


@pytest.fixture
async def placement(request: pytest.FixtureRequest, engine: str, tmp_path: Path) -> AsyncIterator[Placement]:
    async with opened(request, engine, tmp_path) as store:
        yield Placement(store)


async def authenticate(token: str) -> Context:
    """A token is the name of the role it has."""
    if token not in ("admin", "service", "member", "reader"):
        raise Unauthorized("The token is unknown or has expired.")
    return Context(user_id=f"{token}-user", project_id="project", roles=frozenset({token}))


@pytest.fixture
async def client(placement: Placement) -> AsyncIterator[httpx.AsyncClient]:
    """Speaks the latest version as an admin, unless a test says otherwise."""
    app = face(placement, authenticate, "http://pileus/identity", "http://pileus", Limits())
    headers = {"X-Auth-Token": "admin", "OpenStack-API-Version": "placement 1.39"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pileus", headers=headers) as session:
        yield session


def at(version: str) -> dict[str, str]:
    return {"OpenStack-API-Version": f"placement {version}"}
