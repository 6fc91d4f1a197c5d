"""The network service over HTTP, as compute uses it: any Neutron's v2.0 API, in the requests and with the meaning that Nova gives them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import structlog

from pileus.clients import address_pattern
from pileus.clients.network import CheckedNics, PortReadiness, Requested, RequestedNic, SecurityGroup, ServerAddress, ServerPort
from pileus.clients.rest import Rest
from pileus.compute import neutron_checks as checks
from pileus.compute import neutron_facts as facts
from pileus.compute import neutron_security as security
from pileus.compute.neutron_api import NeutronApi
from pileus.compute.neutron_facts import DETAILS, HOST, PROFILE, VIF_TYPE, Json, Mark, OnNetwork
from pileus.compute.neutron_healing import Healing
from pileus.context import Context
from pileus.errors import Conflict, NotFound, PileusError, Unavailable
from pileus.messages import PortWiring
from pileus.together import Shared

log = structlog.get_logger(__name__)

READINESS = ("id", "status", "admin_state_up", HOST, PROFILE, DETAILS, VIF_TYPE)


@dataclass
class _Change:
    """One port that an attempt has made (`before` None) or bound: what undoes it."""

    port_id: str
    before: Json | None


P = ParamSpec("P")
R = TypeVar("R")
Call = Callable[Concatenate["HttpNetwork", P], Coroutine[Any, Any, R]]


def _limited(call: Call[P, R]) -> Call[P, R]:
    """What a user waits for: all its requests and their tries together are over within the limit, or Unavailable."""

    @functools.wraps(call)
    async def within(self: HttpNetwork, /, *given: P.args, **named: P.kwargs) -> R:
        try:
            async with asyncio.timeout(self._limit):
                return await call(self, *given, **named)
        except TimeoutError:
            raise Unavailable(f"Neutron: {self._base} did not answer within {self._limit:g} s") from None

    return within


class HttpNetwork:
    """See `pileus.clients.network.NetworkClient`. It calls as a service, so what the caller may use is judged here.

    `only_ours`: the plug signal is `local`, so our own agents must take the generations that we are given. Nothing is remembered:
    the ports themselves say whose they are (`neutron_facts.Mark`), so an attempt that was cut off is found by the next one. `limit`: of a
    call that a user waits for (s); those of workers have their own.
    """

    addresses_together = 1

    def __init__(self, rest: Rest, *, only_ours: bool = False, limit: float | None = None) -> None:
        self._api = NeutronApi(rest)
        self._base = rest.base
        self._only_ours = only_ours
        self._limit = limit
        self._shared = Shared("network-questions")
        self._healing = Healing(self._api)
        self._device_marker = ("", "")

    async def close(self) -> None:
        await self._api.close()

    @_limited
    async def check(self, context: Context, requested: Requested, *, count: int, security_groups: Sequence[str] = ()) -> CheckedNics:
        asked = requested if isinstance(requested, str) else tuple(requested)
        groups = tuple(security_groups)
        key = ("check", context.user_id, context.project_id, context.roles, asked, count, groups)
        return await self._shared.ask(key, lambda: checks.check(self._api, context, requested, count, groups))

    async def constraint(self, nics: Sequence[RequestedNic]) -> CheckedNics:
        return await self._shared.ask(("constraint", *nics), lambda: checks.constraint(self._api, nics))

    async def allocate(
        self, context: Context, server_id: str, nics: Sequence[RequestedNic], *, host: str, key: str, hostname: str, zone: str
    ) -> list[PortWiring]:
        """What was done of it is undone where the other side refuses the rest; where it does not answer, it stays for the next try."""
        if not nics:
            return []
        mine, twice = facts.of_server(server_id, await self._api.ports_of(server_id))
        for port in twice:
            await self._api.delete_port(port["id"])
        known = {port["id"] for port in mine.values()}
        given = await self._api.by_ids("ports", {nic.port_id for nic in nics if nic.port_id} - known)
        for nic in nics:
            if nic.port_id and nic.port_id not in known:
                checks.check_given(context, given.get(nic.port_id), nic.port_id, server_id)
        held = {port["network_id"] for port in [*mine.values(), *given.values()]}
        on = await checks.on_networks(self._api, held | {nic.network_id for nic in nics if nic.network_id and not nic.port_id})
        owner = {"device_id": server_id, "device_owner": f"compute:{zone}"}
        done: list[_Change] = []
        found: list[Json] = []
        try:
            for index, nic in enumerate(nics):
                mark = Mark(server_id, index, key, 1, hostname)
                there = mine.get(index) or (given[nic.port_id] if nic.port_id else None)
                if there is None:
                    there = await self._make(context, on, nic, owner, mark, host, done)
                elif facts.mark_of(there).key != key or there.get(HOST) != host:
                    there = await self._bind(there, owner, facts.bound_again(there, mark, host), host, done)
                self._check_bound(there, host)
                found.append(there)
            return [facts.wiring(port, on[port["network_id"]], hostname) for port in found]
        except Unavailable:
            raise
        except PileusError:
            await self._undo(done)
            raise

    async def release(self, server_id: str, *, keep: Collection[str]) -> None:
        """A port that is kept counts its bindings on; nothing else of us stays at it."""
        mine, twice = facts.of_server(server_id, await self._api.ports_of(server_id))
        for port in [*mine.values(), *twice]:
            if port["id"] in keep:
                body = {"device_id": "", "device_owner": "", HOST: None, PROFILE: facts.marked(port, facts.released(port))}
                await self._update_if_there(port["id"], body)
            else:
                await self._api.delete_port(port["id"])

    async def unbind(self, server_id: str) -> None:
        mine, _ = facts.of_server(server_id, await self._api.ports_of(server_id))
        for port in mine.values():
            if port.get(HOST):
                await self._update_if_there(port["id"], {HOST: None, PROFILE: facts.marked(port, facts.unbound(port))})

    @_limited
    async def addresses(self, server_ids: Sequence[str]) -> dict[str, list[ServerAddress]]:
        """In the requests that Nova makes to heal a server (`neutron_healing`)."""
        return await self._healing.addresses(server_ids)

    @_limited
    async def ports(self, server_id: str) -> list[ServerPort]:
        mine, _ = facts.of_server(server_id, await self._api.ports_of(server_id))
        return [facts.server_port(port) for port in mine.values()]

    @_limited
    async def security_groups(self, server_ids: Sequence[str]) -> dict[str, list[SecurityGroup]]:
        return await security.of_servers(self._api, server_ids)

    @_limited
    async def security_groups_of(self, server_id: str) -> list[SecurityGroup]:
        return await security.with_rules(self._api, server_id)

    @_limited
    async def add_security_group(self, context: Context, server_id: str, group: str) -> None:
        await security.add(self._api, context, server_id, group)

    @_limited
    async def remove_security_group(self, context: Context, server_id: str, group: str) -> None:
        await security.remove(self._api, context, server_id, group)

    @_limited
    async def servers_at(self, address: str, version: int) -> list[str]:
        pattern = address_pattern.parse(address)
        substr = {"fixed_ips": f"ip_address_substr={pattern.part}"} if pattern.part else {}
        found: set[str] = set()
        async for page in self._api.pages("ports", {**substr, "fields": ["id", "fixed_ips", PROFILE]}):
            for port in page:
                server_id = facts.mark_of(port).server
                those = [each["ip_address"] for each in port["fixed_ips"] if (":" in each["ip_address"]) == (version == 6)]
                if server_id and any(pattern.matches(each) for each in those):
                    found.add(server_id)
        return sorted(found)

    async def readiness(self, port_ids: Sequence[str], *, host: str) -> list[PortReadiness]:
        found = await self._api.by_ids("ports", port_ids, READINESS) if port_ids else {}
        return [facts.readiness(port) for port in found.values() if port.get(HOST) == host]

    async def devices(self, *, after: str = "", most: int | None = None) -> set[str]:
        """Ports are read in the order of their devices; where a page ended, the next one goes on."""
        known, marker = self._device_marker
        if known != after or not after:
            marker = ""
        query = {"sort_key": ["device_id", "id"], "sort_dir": ["asc", "asc"], "fields": ["id", "device_id", PROFILE]}
        found: set[str] = set()
        async for page in self._api.pages("ports", query, marker=marker):
            for port in page:
                server_id = facts.mark_of(port).server
                if server_id and server_id > after and server_id not in found:
                    if most is not None and len(found) == most:
                        self._device_marker = (max(found), marker)
                        return found
                    found.add(server_id)
                marker = port["id"]
        return found

    async def _make(
        self, context: Context, on: dict[str, OnNetwork], nic: RequestedNic, owner: Json, mark: Mark, host: str, done: list[_Change]
    ) -> Json:
        network_id = nic.network_id or ""
        await checks.check_seen(self._api, context, on, network_id)
        checks.check_wish(context, on[network_id].network, nic)
        wish: Json = {"fixed_ips": [{"ip_address": nic.fixed_ip}]} if nic.fixed_ip is not None else {}
        if nic.security_groups:
            wish["security_groups"] = list(nic.security_groups)
        whose = {"network_id": network_id, "tenant_id": context.project, "admin_state_up": True, **owner}
        port = await self._api.create_port({**whose, **wish, HOST: host, PROFILE: facts.marked({}, mark)})
        done.append(_Change(port["id"], None))
        return port

    async def _bind(self, port: Json, owner: Json, mark: Mark, host: str, done: list[_Change]) -> Json:
        before = {name: port.get(name) for name in ("device_id", "device_owner", HOST)}
        done.append(_Change(port["id"], {**before, PROFILE: facts.marked(port, facts.mark_of(port))}))
        return await self._api.update_port(port["id"], {**owner, HOST: host, PROFILE: facts.marked(port, mark)})

    def _check_bound(self, port: Json, host: str) -> None:
        if facts.bind_failed(port):
            raise Conflict(f"Port {port['id']} could not be bound on host {host}: its network agent is dead or refuses", kind="HostTaken")
        if self._only_ours and not facts.is_ours(port):
            raise Conflict(
                f"{self._base} is no network service of ours, so the agent on host {host} cannot say by itself that a port is ready: "
                "set compute.plug_signal = callback"
            )

    async def _undo(self, done: Sequence[_Change]) -> None:
        for change in reversed(done):
            try:
                if change.before is None:
                    await self._api.delete_port(change.port_id)
                else:
                    await self._api.update_port(change.port_id, {**change.before, HOST: change.before[HOST] or None})
            except PileusError as error:  # the server's end, or the look for leaks, gives it back
                log.warning("a port stays as a failed attempt left it", port=change.port_id, cause=error.message)

    async def _update_if_there(self, port_id: str, body: Json) -> None:
        try:
            await self._api.update_port(port_id, body)
        except NotFound:
            log.info("a port that was to be let go is gone", port=port_id)
