"""Requests of our services to another service's REST API: with tokens, limits, few connections, and tries again where that is safe."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import msgspec
import structlog

from pileus.clients.tokens import Tokens
from pileus.clients.trust import trust
from pileus.errors import BadRequest, Conflict, Forbidden, NotFound, PileusError, QuotaExceeded, TooLarge, Unavailable

log = structlog.get_logger(__name__)

CONNECTIONS = 32
"""Most connections of one process to one service; a request waits for one within its limit."""
IDLE = 30.0
"""Seconds that an idle connection is kept."""
FIRST_PAUSE, LAST_PAUSE = 0.1, 2.0
SAFE = frozenset({"GET", "PUT", "DELETE"})
"""Methods that come to the same when they are done twice, as all that we send by them does."""
PASSING = frozenset({502, 503, 504})
"""Answers of something between us and the service, or of one that is just starting."""

Params = Mapping[str, str | Sequence[str]]

_ERRORS: dict[int, type[PileusError]] = {400: BadRequest, 403: Forbidden, 404: NotFound, 409: Conflict, 413: TooLarge}


class Rest:
    """`base`: URL without a slash at its end. `name`: the service's, for sentences. `limit`: seconds of one try. `retries`: tries after the
    first. `ca`: see `trust`. The tokens stay the caller's to close."""

    def __init__(
        self,
        base: str,
        tokens: Tokens,
        *,
        name: str,
        limit: float,
        retries: int = 0,
        ca: str = "",
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.base = base.rstrip("/")
        self._tokens = tokens
        self._name = name
        self._limit = limit
        self._retries = retries
        self._client = httpx.AsyncClient(
            timeout=limit,
            verify=trust(self.base, ca),
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=IDLE),
            transport=transport,
            trust_env=False,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def call(self, method: str, path: str, *, params: Params | None = None, body: Any = None) -> Any:
        """The answer's JSON (None where there is none).

        Raises what the other side refused as an error of ours with its own sentence and `kind`, and Unavailable where it does not
        answer, answers nonsense or does not take our token.
        """
        answer = await self.send(method, path, params=params, body=body)
        if answer.status_code >= 300:
            raise self._error(answer)
        if not answer.content:
            return None
        try:
            return msgspec.json.decode(answer.content)
        except msgspec.DecodeError:
            raise Unavailable(f"{self._name}: {self.base} did not answer in JSON; is it the right URL?") from None

    async def send(self, method: str, path: str, *, params: Params | None = None, body: Any = None) -> httpx.Response:
        """The answer, whatever its status. A refused token is renewed once. Raises Unavailable."""
        token = await self._tokens.get()
        answer = await self._tried(method, path, params, body, token)
        if answer.status_code != 401:
            return answer
        self._tokens.refused(token)
        return await self._tried(method, path, params, body, await self._tokens.get())

    async def _tried(self, method: str, path: str, params: Params | None, body: Any, token: str) -> httpx.Response:
        for left in range(self._retries, -1, -1):
            try:
                async with asyncio.timeout(self._limit):
                    answer = await self._once(method, path, params, body, token)
                if answer.status_code not in PASSING or method not in SAFE or not left:
                    return answer
                cause = f"answered {answer.status_code}"
            except (httpx.HTTPError, TimeoutError) as error:
                cause = str(error) or type(error).__name__
                # A request that reached nobody can be sent again whatever it says.
                if not left or not (method in SAFE or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)):
                    raise Unavailable(f"{self._name}: {self.base} did not answer: {cause}") from None
            log.info("asking again", service=self._name, method=method, path=path, cause=cause)
            pause = min(LAST_PAUSE, FIRST_PAUSE * 2.0 ** (self._retries - left))
            await asyncio.sleep(pause * random.uniform(0.75, 1.0))  # noqa: S311 - spreads retries, guards nothing
        raise AssertionError("the last try returns or raises")

    async def _once(self, method: str, path: str, params: Params | None, body: Any, token: str) -> httpx.Response:
        headers = {"X-Auth-Token": token, "Accept": "application/json"}
        content = None
        if body is not None:
            content, headers["Content-Type"] = msgspec.json.encode(body), "application/json"
        return await self._client.request(method, self.base + path, params=params, content=content, headers=headers)

    def _error(self, answer: httpx.Response) -> PileusError:
        kind, message = _refusal(answer)
        status = answer.status_code
        if kind == "OverQuota":
            return QuotaExceeded(message or "The project's quota is used up.")
        if status == 401:
            return Unavailable(f"{self._name}: {self.base} does not take our token: check service_auth, or whose tokens it takes")
        if status in _ERRORS:
            return _ERRORS[status](message or f"{self._name} answered {status}", kind=kind)
        return Unavailable(f"{self._name}: {self.base} answered {status}{': ' + message if message else ''}")


def _refusal(answer: httpx.Response) -> tuple[str, str]:
    """(Type, sentence) of a refusal as Neutron and Nova word them; each empty where it cannot be read."""
    try:
        found = msgspec.json.decode(answer.content)
        inner = next(iter(found.values()))
        if isinstance(inner, dict):
            return str(inner.get("type", "")), str(inner.get("message", ""))
        return "", str(inner)
    except (msgspec.DecodeError, AttributeError, StopIteration):
        return "", ""
