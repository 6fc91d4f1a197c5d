"""The tokens that our services call others with: from our own identity service, or from the Keystone of another cloud.

Source: Keystone's api-ref, "Password authentication with scoped authorization".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Protocol

import httpx
import structlog

from pileus.clients.trust import trust
from pileus.errors import StartupError, Unavailable
from pileus.settings import ServiceAuth

log = structlog.get_logger(__name__)

LIMIT = 15.0
"""Seconds that a log-in may take; a Keystone hashes passwords slowly on purpose."""
MARGIN = 60.0
"""Seconds before its end from which on a token is not used any more: a request that has begun must be able to end."""


class Tokens(Protocol):
    async def get(self) -> str:
        """A token that is good for a while. Raises Unavailable."""
        ...

    def refused(self, token: str) -> None:
        """Somebody answered 401 to this token: the next one is another."""

    async def close(self) -> None: ...


class OwnTokens:
    """Those of our identity service, which looks at each before it gives it again."""

    def __init__(self, service_token: Callable[[], Awaitable[str]]) -> None:
        self._service_token = service_token

    async def get(self) -> str:
        return await self._service_token()

    def refused(self, token: str) -> None:
        pass

    async def close(self) -> None:
        pass


class KeystoneTokens:
    """Those of another cloud's Keystone, by user and password: one for all who ask, renewed before it ends."""

    def __init__(self, auth: ServiceAuth, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """Raises StartupError where the settings do not say who logs in."""
        missing = [name for name in ("username", "password", "project_name") if not getattr(auth, name)]
        if missing:
            needed = " and ".join(f"service_auth.{name}" for name in missing)
            raise StartupError(f"service_auth.auth_url is {auth.auth_url}, so {needed} must be set too: our services log in there")
        self._auth = auth
        self._url = auth.auth_url.rstrip("/") + "/auth/tokens"
        self._client = httpx.AsyncClient(timeout=LIMIT, verify=trust(self._url, auth.ca), transport=transport, trust_env=False)
        self._asking = asyncio.Lock()
        self._token, self._until = "", 0.0

    async def get(self) -> str:
        async with self._asking:
            if time.time() >= self._until:
                self._token, self._until = await self._log_in()
            return self._token

    def refused(self, token: str) -> None:
        if token == self._token:
            self._until = 0.0

    async def close(self) -> None:
        await self._client.aclose()

    async def _log_in(self) -> tuple[str, float]:
        """A new token, and until when it is used. Raises Unavailable."""
        try:
            async with asyncio.timeout(LIMIT):
                answer = await self._client.post(self._url, json=_body(self._auth))
        except (httpx.HTTPError, TimeoutError) as error:
            raise Unavailable(f"{self._url} did not answer: {str(error) or type(error).__name__}") from None
        if answer.status_code == 401:
            raise Unavailable(
                f"{self._url} refuses the user {self._auth.username}: check service_auth.username, .password and .project_name"
            )
        if answer.status_code != 201 or "x-subject-token" not in answer.headers:
            raise Unavailable(
                f"{self._url} answered {answer.status_code} to a log-in: service_auth.auth_url must name a Keystone with its /v3"
            )
        until = _ends(answer) - MARGIN
        if until <= time.time():
            log.warning("a Keystone gives tokens that end at once", url=self._url)
        return answer.headers["x-subject-token"], until


def _body(auth: ServiceAuth) -> dict[str, Any]:
    user = {"name": auth.username, "domain": {"name": auth.user_domain_name}, "password": auth.password}
    project = {"name": auth.project_name, "domain": {"name": auth.project_domain_name}}
    return {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": {"project": project}}}


def _ends(answer: httpx.Response) -> float:
    try:
        return datetime.fromisoformat(answer.json()["token"]["expires_at"]).timestamp()
    except (ValueError, KeyError, TypeError):
        return 0.0
