"""The compute API over HTTP, as the notifier uses it: Nova's, or our own."""

from __future__ import annotations

from collections.abc import Sequence

import httpx

from pileus.clients.compute import Delivery, ExternalEvent
from pileus.clients.rest import Rest
from pileus.errors import Unavailable

PATH = "/os-server-external-events"


class HttpComputeEvents:
    """See `pileus.clients.compute.ComputeEvents`. `rest`: to the compute endpoint with its /v2.1, with tokens that have the service role.
    It tries nothing again: the notifier does, for as long as there is something to tell."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest

    async def send(self, events: Sequence[ExternalEvent]) -> list[Delivery]:
        """200 and 207 carry a code for each event; 400 to the whole leaves open whose fault it was, so the batch is sent in halves. An
        older Nova's 404 to the whole means that there is no server for any of them; somebody else's 404 means nothing."""
        if not events:
            return []
        answer = await self._rest.send("POST", PATH, body={"events": [_body(event) for event in events]})
        if answer.status_code in (200, 207):
            return _deliveries(events, answer)
        if answer.status_code == 404:
            if not _is_novas(answer):
                raise Unavailable(f"{self._rest.base}{PATH} is not there: network.nova_url is the compute endpoint with its /v2.1")
            return [Delivery(event, 404) for event in events]
        if answer.status_code == 400 and len(events) == 1:
            return [Delivery(events[0], 400)]
        if answer.status_code == 400:
            half = len(events) // 2  # halves find the bad one in few requests
            return [*await self.send(events[:half]), *await self.send(events[half:])]
        hint = ": check service_auth, or whose tokens it takes" if answer.status_code in (401, 403) else ""
        raise Unavailable(f"{self._rest.base}{PATH} answered {answer.status_code}{hint}")

    async def close(self) -> None:
        await self._rest.close()


def _body(event: ExternalEvent) -> dict[str, str]:
    body = {"name": event.name, "server_uuid": event.server_id, "status": event.status}
    return body if event.tag is None else body | {"tag": event.tag}


def _is_novas(answer: httpx.Response) -> bool:
    """Is this 404 said of servers? What has no such path says it in other words."""
    try:
        return "instances" in answer.json()["itemNotFound"]["message"]
    except (ValueError, KeyError, TypeError):
        return False


def _deliveries(events: Sequence[ExternalEvent], answer: httpx.Response) -> list[Delivery]:
    """Each event with its code. The answer names events as the request did, in whatever order."""
    try:
        said = {(item["name"], item["server_uuid"], item.get("tag")): int(item["code"]) for item in answer.json()["events"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Unavailable(f"the answer of {answer.url} is not that of an events API") from None
    keys = [(event.name, event.server_id, event.tag) for event in events]
    return [Delivery(event, said[key]) for event, key in zip(events, keys, strict=True) if key in said]
