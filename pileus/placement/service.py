"""The placement service in process: what the other services use (`PlacementClient`), and the store that its API reads."""

from __future__ import annotations

from collections.abc import Mapping

from pileus.clients.placement import Inventory, ProviderPicture, Resources
from pileus.placement import candidates, claims, providers
from pileus.store import Store


class Placement:
    """See `pileus.clients.placement.PlacementClient`."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def set_provider(self, provider_id: str, name: str, inventories: Mapping[str, Inventory]) -> None:
        """Raises BadRequest for an inventory that cannot be, Conflict where another provider has the name."""
        # Hosts tell this with every heartbeat; it is hardly ever new, and a read does not queue behind the claims.
        if not await self.store.read(providers.is_as_told, provider_id, name, inventories):
            await self.store.write(providers.tell, provider_id, name, inventories)

    async def pictures(self) -> list[ProviderPicture]:
        return await self.store.read(candidates.pictures)

    async def claim(self, consumer: str, provider_id: str, resources: Resources, *, project_id: str, user_id: str) -> bool:
        """False as well where the provider is gone."""
        try:
            await self.store.write(claims.claim, consumer, provider_id, resources, project_id=project_id, user_id=user_id)
        except (claims.DoesNotFit, claims.NoProvider):
            return False
        return True

    async def release(self, consumer: str) -> None:
        await self.store.write(claims.release, consumer)

    async def consumers(self, *, after: str = "", most: int | None = None) -> set[str]:
        return await self.store.read(claims.consumer_ids, after, most)
