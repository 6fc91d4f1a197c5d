"""The compute service as its API sees it: the store, the other services, and the few things that need more than one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pileus.bus import Bus
from pileus.clients.image import ImageClient
from pileus.clients.network import NetworkClient, Requested
from pileus.clients.placement import PlacementClient
from pileus.compute import actions, creation, evacuation, servers
from pileus.compute.creation import Creation, NewServer
from pileus.compute.evacuation import Wish
from pileus.compute.lifecycle import VERBS
from pileus.context import Context
from pileus.errors import BadRequest
from pileus.messages import ACTIONS, ActionHint
from pileus.settings import Settings
from pileus.store import Store
from pileus.store.sql import Row
from pileus.together import Shared, Together

TOGETHER = 32
"""Most create requests of one transaction."""


@dataclass
class Compute:
    """What compute is made of. The worker (`pileus.compute.worker`) does the durable work."""

    store: Store
    bus: Bus
    settings: Settings
    image: ImageClient
    network: NetworkClient
    placement: PlacementClient

    def __post_init__(self) -> None:
        self._creations: Together[Creation, list[Row]] = Together(self._create, most=TOGETHER, name="creates")
        self._shared = Shared("create-questions")

    @property
    def create_limit(self) -> float:
        """Seconds from its turn after which a create that nobody finished is over: all limits of its steps, twice."""
        s = self.settings.compute
        return 2 * (s.schedule_limit + s.network_limit + s.image_limit + s.plug_limit + s.start_limit + s.vif_plugging_timeout)

    async def look_up(self, context: Context, wish: creation.Wish) -> tuple[dict[str, Any], dict[str, str]]:
        """See `creation.look_up`."""
        key = (context.user_id, context.project_id, context.roles, wish)
        return await self._shared.ask(key, lambda: self.store.read(creation.look_up, self.settings, context, wish))

    async def create(
        self, context: Context, wanted: NewServer, requested: Requested, *, count: int, security_groups: Sequence[str] = ()
    ) -> list[Row]:
        """Check networks, security groups (ids or names) and image, write servers and their actions down in one transaction, hint a worker.

        Raises what the image and network services raise, BadRequest for a flavor too small for the image, QuotaExceeded.
        """
        networks = self.network.check(context, requested, count=count, security_groups=security_groups)
        checked, _ = await asyncio.gather(networks, self._check_image(context, wanted))
        wish = Creation(context, replace(wanted, nics=checked.nics), count)
        if self.settings.quota.queued_creates >= 0:  # a queue with an end is counted one by one
            made = await self.store.write(creation.create, self.settings, wish, limit=self.settings.compute.queue_limit)
        else:
            made = await self._creations.call(context.project, wish)
        await self.bus.publish(ACTIONS, ActionHint(waiting=True))
        return made

    async def _create(self, wishes: Sequence[Creation]) -> list[list[Row] | Exception]:
        return await self.store.write(creation.create_together, self.settings, wishes, limit=self.settings.compute.queue_limit)

    async def act(self, context: Context, server_id: str, verb: str, *, hard: bool = False) -> None:
        """Accept a verb of the lifecycle (`start`, `delete`, …) and hint a worker. Raises NotFound or Conflict."""
        s = self.settings.compute
        limit = s.action_limit + s.shutdown_timeout
        if "allocate" in VERBS[verb].plan:
            limit += s.vif_plugging_timeout + s.image_limit
        action_id = await self.store.write(servers.act, context, server_id, verb, limit=limit, hard=hard)
        await self.bus.publish(ACTIONS, ActionHint(deletes=True) if verb == "delete" else ActionHint([action_id]))

    async def evacuate(self, context: Context, server_id: str, wish: Wish) -> None:
        """Accept the evacuation of a server whose host is down, and hint a worker. Raises NotFound, Conflict or BadRequest."""
        settings = self.settings.compute
        action_id = await self.store.write(evacuation.begin, settings, context, server_id, wish, limit=self.create_limit)
        await self.hint([action_id])

    async def changed(self, row: Row) -> None:
        """A host was forced down (what it was told and did not answer goes elsewhere at once), or an operator let it be used again."""
        if row["forced_down"]:
            due = await self.store.write(actions.ask_again, row["name"])
            if due:
                await self.hint(due)

    async def hint(self, ids: list[str]) -> None:
        """Actions are due. Only a hint: the sweep finds them as well."""
        await self.bus.publish(ACTIONS, ActionHint(ids))

    async def _check_image(self, context: Context, wanted: NewServer) -> None:
        """Raises BadRequest with what Nova would say of a flavor that is too small or an image that is not ready."""
        if wanted.image_id is None:
            return
        image = await self.image.show(context, wanted.image_id)
        flavor = wanted.flavor
        if image.status != "active":
            raise BadRequest(f"Image {image.id} is not active.")
        if flavor["ram"] < image.min_ram:
            raise BadRequest(f"Flavor's memory is too small for requested image: it needs {image.min_ram} MiB.")
        disk = flavor["disk"]
        if disk and disk < image.min_disk:
            raise BadRequest(
                f"Flavor's disk is too small for requested image. Flavor disk is {disk} GiB, min_disk is {image.min_disk} GiB."
            )
        if disk and disk << 30 < image.virtual_size and image.disk_format in ("raw", "qcow2"):
            raise BadRequest(
                f"Flavor's disk is too small for requested image. Flavor disk is {disk << 30} bytes, image is {image.virtual_size} bytes."
            )
