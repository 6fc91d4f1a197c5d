"""The placement service as compute sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

Resources = Mapping[str, int]
"""Resource class → amount: VCPU, MEMORY_MB (MiB), DISK_GB (GiB)."""


@dataclass(frozen=True)
class Inventory:
    total: int
    reserved: int = 0
    allocation_ratio: float = 1.0
    min_unit: int = 1
    max_unit: int = 2**31 - 1
    step_size: int = 1


@dataclass(frozen=True)
class ProviderPicture:
    """What a provider could give when it was looked at: per class, capacity (total − reserved, times the ratio) and use."""

    id: str
    name: str
    capacity: Resources
    used: Resources


class PlacementClient(Protocol):
    async def set_provider(self, provider_id: str, name: str, inventories: Mapping[str, Inventory]) -> None:
        """Make or change a provider and its inventories. Usage stays."""

    async def pictures(self) -> list[ProviderPicture]:
        """All providers."""
        ...

    async def claim(self, consumer: str, provider_id: str, resources: Resources, *, project_id: str, user_id: str) -> bool:
        """Take resources for a server, atomically, never over the inventory. A claim that this consumer already has there counts as
        won; one it has elsewhere is moved. False: it does not fit (and what it had elsewhere is kept)."""
        ...

    async def release(self, consumer: str) -> None:
        """Give back whatever the consumer has. Nothing: fine."""

    async def consumers(self, *, after: str = "", most: int | None = None) -> set[str]:
        """Consumers that hold something, where a leak would be seen: the first `most` (None: all) of the ids behind `after`."""
        ...
