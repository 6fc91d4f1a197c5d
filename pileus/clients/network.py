"""The network service as compute sees it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pileus.context import Context
from pileus.messages import PortWiring


@dataclass(frozen=True)
class RequestedNic:
    """One entry of a server's `networks`: a network (with or without a fixed IP), or a port that exists."""

    network_id: str | None = None
    port_id: str | None = None
    fixed_ip: str | None = None
    tag: str | None = None


Requested = list[RequestedNic] | Literal["auto", "none"]


@dataclass(frozen=True)
class CheckedNics:
    """A request found good, `auto` resolved. `host`: the only host that has these networks (None: any host). `network_types`: what a
    host must offer, since others have ports in these networks already."""

    nics: list[RequestedNic]
    host: str | None = None
    physical_networks: frozenset[str] = frozenset()
    network_types: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ServerAddress:
    network_name: str
    address: str
    ip_version: int
    mac: str
    port_id: str


@dataclass(frozen=True)
class ServerPort:
    """A server's port as it is. `index`: which of the server's nics; `fixed_ips`: subnet id and address, each."""

    port_id: str
    network_id: str
    mac: str
    status: str
    index: int
    fixed_ips: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class PortReadiness:
    """The level of a port: wired or failed at a generation (0: never)."""

    port_id: str
    generation: int
    wired: int
    failed: int
    cause: str = ""


class NetworkClient(Protocol):
    addresses_together: int
    """Of how many servers `addresses` is one question; 1: each is asked for by itself."""

    async def check(self, context: Context, requested: Requested, *, count: int) -> CheckedNics:
        """May `count` servers have these? Raises BadRequest, NotFound, Conflict (port in use, address taken), Forbidden or
        QuotaExceeded with a sentence. No network at all with `auto`: an empty list."""
        ...

    async def constraint(self, nics: Sequence[RequestedNic]) -> CheckedNics:
        """The same nics with `host`, `physical_networks` and `network_types` as they are now (the scheduler's question)."""
        ...

    async def allocate(
        self, context: Context, server_id: str, nics: Sequence[RequestedNic], *, host: str, key: str, hostname: str, zone: str
    ) -> list[PortWiring]:
        """Make the missing ports of a server, bind all of them to the host, in the order of `nics`, in one transaction.

        Idempotent by `key`: the same key again changes nothing; a new key binds anew (each port's generation grows). Raises
        what `check` raises, and Conflict with kind `HostTaken` where the host cannot have a network that lives on others.
        """
        ...

    async def release(self, server_id: str, *, keep: Collection[str]) -> None:
        """Delete the server's ports; those in `keep` (given by the user) are unbound instead. No ports: fine."""

    async def unbind(self, server_id: str) -> None:
        """The server's ports stay its own and are on no host until `allocate` binds them anew."""

    async def addresses(self, server_ids: Sequence[str]) -> dict[str, list[ServerAddress]]:
        """Fixed addresses of servers' ports; servers without any are missing. Order: as the ports were asked for."""
        ...

    async def ports(self, server_id: str) -> list[ServerPort]:
        """A server's ports, in the order of its nics."""
        ...

    async def servers_at(self, address: str, version: int) -> list[str]:
        """Ids of servers with a port whose address (of that IP version) contains the regular expression `address`."""
        ...

    async def readiness(self, port_ids: Sequence[str], *, host: str) -> list[PortReadiness]:
        """How far those of these ports are that are bound to the host."""
        ...

    async def devices(self, *, after: str = "", most: int | None = None) -> set[str]:
        """Ids of servers that own ports, where a leak would be seen: the first `most` (None: all) of those behind `after`."""
        ...
