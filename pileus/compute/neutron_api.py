"""Neutron's API as compute calls it: one function a question, each one request or one a page."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

from pileus.clients.rest import Params, Rest
from pileus.compute.neutron_facts import HOST, Json
from pileus.errors import NotFound, PileusError, Unavailable

PAGE = 200
FEW = 20
"""A page where one of the first is likely to do."""
IDS = 150
"""Ids of one query, as many as Nova asks for at once: a URL of them is shorter than the 8 KiB that servers take."""


class NeutronApi:
    """Each raises what `Rest.call` raises."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest

    async def close(self) -> None:
        await self._rest.close()

    async def listed(self, plural: str, params: Params) -> list[Json]:
        """One page; a question that needs more asks by `pages`."""
        found: list[Json] = await self._told(plural.replace("-", "_"), "GET", f"/v2.0/{plural}", params=params)
        return found

    async def pages(self, plural: str, params: Params, *, marker: str = "", size: int = PAGE) -> AsyncIterator[list[Json]]:
        while True:
            query = {**params, "limit": str(size), **({"marker": marker} if marker else {})}
            found = await self.listed(plural, query)
            if found:
                yield found
            if len(found) < size:
                return
            marker = found[-1]["id"]

    async def by_ids(self, plural: str, ids: Collection[str], fields: Sequence[str] = ()) -> dict[str, Json]:
        """Those that there are, by id."""
        wanted, found = sorted(ids), []
        for start in range(0, len(wanted), IDS):
            params: Params = {"id": wanted[start : start + IDS], **({"fields": fields} if fields else {})}
            found += await self.listed(plural, params)
        return {one["id"]: one for one in found}

    async def ports_of(self, server_id: str) -> list[Json]:
        return await self.listed("ports", {"device_id": server_id})

    async def create_port(self, body: Json) -> Json:
        port: Json = await self._told("port", "POST", "/v2.0/ports", body={"port": body})
        return port

    async def update_port(self, port_id: str, body: Json) -> Json:
        port: Json = await self._told("port", "PUT", f"/v2.0/ports/{port_id}", body={"port": body})
        return port

    async def delete_port(self, port_id: str) -> None:
        """It is gone afterwards, whoever deleted it."""
        with contextlib.suppress(NotFound):
            await self._rest.call("DELETE", f"/v2.0/ports/{port_id}")

    async def free_ports(self, project_id: str) -> int | None:
        """How many more ports the project may have; None: any number."""
        try:
            quota = (await self._told("quota", "GET", f"/v2.0/quotas/{project_id}/details.json"))["port"]
            limit, used = quota["limit"], quota["used"] + quota.get("reserved", 0)
        except NotFound:  # a Neutron without quota_details: limit and count, as Nova asks for them
            limit = (await self._told("quota", "GET", f"/v2.0/quotas/{project_id}")).get("port", -1)
            used = len(await self.listed("ports", {"tenant_id": project_id, "fields": ["id"]})) if limit >= 0 else 0
        return None if limit < 0 else int(limit - used)

    async def is_shared_with(self, network_id: str, project_id: str) -> bool:
        """By a policy (RBAC) for this project alone; one for all shows in the network itself."""
        params = {"object_type": "network", "object_id": network_id, "action": "access_as_shared", "target_tenant": project_id}
        try:
            return bool(await self.listed("rbac-policies", params))
        except PileusError as error:
            if error.status in (400, 404):  # nothing is shared there by policies
                return False
            raise

    async def network(self, network_id: str, fields: Sequence[str]) -> Json:
        network: Json = await self._told("network", "GET", f"/v2.0/networks/{network_id}", params={"fields": fields})
        return network

    async def extensions(self) -> frozenset[str]:
        return frozenset(one["alias"] for one in await self.listed("extensions", {}))

    async def a_host_of(self, network_id: str) -> str:
        """One that has a port of this network which is no network's own; empty: none has."""
        query: Params = {"network_id": network_id, "fields": ["id", "device_owner", HOST]}
        async for page in self.pages("ports", query, size=FEW):
            for port in page:
                if port.get(HOST) and not port["device_owner"].startswith("network:"):
                    return str(port[HOST])
        return ""

    async def _told(self, name: str, method: str, path: str, *, params: Params | None = None, body: Json | None = None) -> Any:
        """What the answer says under this name. Raises Unavailable also where it says nothing there."""
        answer = await self._rest.call(method, path, params=params, body=body)
        if not isinstance(answer, dict) or name not in answer:
            raise Unavailable(f"{self._rest.base}{path} answered without {name!r}; is it a Neutron's URL?")
        return answer[name]
