"""The compute API over HTTP, as the notifier uses it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx

from pileus.clients.compute import Delivery, ExternalEvent
from pileus.errors import Unavailable

PATH = "/os-server-external-events"


class HttpComputeEvents:
    """`url`: the compute endpoint. `token`: gives a token with the service role. `limit`: seconds of one request."""

    def __init__(
        self, url: str, token: Callable[[], Awaitable[str]], *, limit: float, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._url = url.rstrip("/") + PATH
        self._token = token
        self._client = httpx.AsyncClient(timeout=limit, transport=transport, trust_env=False)

    async def send(self, events: Sequence[ExternalEvent]) -> list[Delivery]:
        """See `ComputeEvents.send`. 200 and 207 carry a code for each event; 400 and 404 to the whole leave open whose
        fault it was, so the batch is sent in halves."""
        if not events:
            return []
        body = {"events": [_body(event) for event in events]}
        answer = await self._post(body)
        if answer.status_code == 401:
            answer = await self._post(body)  # the token had expired: the next one is new
        if answer.status_code in (200, 207):
            return _deliveries(events, answer)
        if answer.status_code in (400, 404) and len(events) == 1:
            return [Delivery(events[0], answer.status_code)]
        if answer.status_code in (400, 404):
            half = len(events) // 2  # halves find the bad one in few requests
            return [*await self.send(events[:half]), *await self.send(events[half:])]
        raise Unavailable(f"{self._url} answered {answer.status_code}")

    async def close(self) -> None:
        await self._client.aclose()

    async def _post(self, body: dict[str, Any]) -> httpx.Response:
        try:
            return await self._client.post(self._url, json=body, headers={"X-Auth-Token": await self._token()})
        except httpx.HTTPError as error:
            raise Unavailable(f"{self._url}: {str(error) or type(error).__name__}") from None


def _body(event: ExternalEvent) -> dict[str, str]:
    body = {"name": event.name, "server_uuid": event.server_id, "status": event.status}
    return body if event.tag is None else body | {"tag": event.tag}


def _deliveries(events: Sequence[ExternalEvent], answer: httpx.Response) -> list[Delivery]:
    """Each event with its code. The answer names events as the request did, in whatever order."""
    try:
        said = {(item["name"], item["server_uuid"], item.get("tag")): int(item["code"]) for item in answer.json()["events"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Unavailable(f"the answer of {answer.url} is not that of an events API") from None
    keys = [(event.name, event.server_id, event.tag) for event in events]
    return [Delivery(event, said[key]) for event, key in zip(events, keys, strict=True) if key in said]
