"""Compute as the network service sees it: the external events API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class ExternalEvent:
    """`tag` is the port's id. Source: Nova's api-ref, os-server-external-events."""

    name: str
    server_id: str
    status: str = "completed"
    tag: str | None = None


@dataclass(frozen=True)
class Delivery:
    """What the compute API said of one event: 200, 400, 404 or 422."""

    event: ExternalEvent
    code: int


class ComputeEvents(Protocol):
    async def send(self, events: Sequence[ExternalEvent]) -> list[Delivery]:
        """Deliver a batch. Raises Unavailable when the compute API did not take it (try again)."""
        ...

    async def close(self) -> None: ...
