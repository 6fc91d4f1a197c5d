"""Tokens of another cloud's Keystone."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from pileus.clients.tokens import MARGIN, KeystoneTokens
from pileus.clients.trust import trust
from pileus.errors import StartupError, Unavailable
from pileus.http.face import Limits
from pileus.identity.api.face import face
from pileus.identity.service import Identity
from pileus.settings import ServiceAuth, Settings
from pileus.store.sqlite import SqliteStore

AUTH = ServiceAuth(auth_url="http://keystone/v3", username="nova", password="secret", project_name="service")


class Keystone:
    """Gives tokens k1, k2, … that live for `lifetime` seconds."""

    def __init__(self, lifetime: float = 3600) -> None:
        self.lifetime = lifetime
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        ends = (datetime.now(UTC) + timedelta(seconds=self.lifetime)).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
        return httpx.Response(201, json={"token": {"expires_at": ends}}, headers={"X-Subject-Token": f"k{len(self.asked)}"})


def tokens(keystone: object, auth: ServiceAuth = AUTH) -> KeystoneTokens:
    return KeystoneTokens(auth, transport=httpx.MockTransport(keystone))  # type: ignore[arg-type]


async def test_one_log_in_for_all_until_it_nears_its_end_or_is_refused() -> None:
    keystone = Keystone()
    found = tokens(keystone)
    assert await asyncio.gather(*[found.get() for _ in range(20)]) == ["k1"] * 20
    (request,) = keystone.asked
    assert str(request.url) == "http://keystone/v3/auth/tokens"
    user = {"name": "nova", "domain": {"name": "Default"}, "password": "secret"}
    assert json.loads(request.content) == {
        "auth": {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": "service", "domain": {"name": "Default"}}},
        }
    }
    found.refused("another")
    assert await found.get() == "k1"
    found.refused("k1")
    assert set(await asyncio.gather(found.get(), found.get())) == {"k2"}
    await found.close()


async def test_a_token_is_renewed_before_its_end() -> None:
    found = tokens(Keystone(lifetime=MARGIN - 1))
    assert [await found.get() for _ in range(2)] == ["k1", "k2"]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (httpx.Response(401), "refuses the user nova: check service_auth"),
        (httpx.Response(404), "must name a Keystone with its /v3"),
        (httpx.ConnectError("refused"), "did not answer: refused"),
    ],
)
async def test_no_token_is_a_sentence(answer: httpx.Response | Exception, text: str) -> None:
    def keystone(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(Unavailable, match=text):
        await tokens(keystone).get()


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"service_auth.username and service_auth.password must be set"):
        KeystoneTokens(ServiceAuth(auth_url="http://keystone/v3"))
    with pytest.raises(StartupError, match=r"service_auth.ca: .*No such file"):
        trust("https://keystone", str(tmp_path / "none.pem"))
    assert trust("http://keystone", str(tmp_path / "none.pem")) is False


async def test_our_identity_service_is_such_a_keystone(tmp_path: Path) -> None:
    store = await asyncio.to_thread(SqliteStore.open, tmp_path / "pileus.db")
    identity = Identity(store, Settings(), tmp_path / "keys", "http://pileus")
    await identity.start()
    await identity.bootstrap("correct horse", "here")
    app = face(identity, Limits())
    auth = ServiceAuth(auth_url="http://pileus/v3", username="admin", password="correct horse", project_name="admin")
    found = KeystoneTokens(auth, transport=httpx.ASGITransport(app))
    token = await found.get()
    assert (await identity.authenticate(token)).is_admin
    assert await found.get() == token
    await found.close()
    await identity.close()
    await store.close()
