"""The network service as compute sees it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pileus.context import Context
from pileus.messages import PortWiring


@dataclass(frozen=True)
class RequestedNic:
    """One entry of a server's `networks`: a network (with or without a fixed IP), or a port that exists. `security_groups`: ids of
    those that a port made for it gets (none: the project's default group); a port that exists keeps its own."""

    network_id: str | None = None
    port_id: str | None = None
    fixed_ip: str | None = None
    tag: str | None = None
    security_groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "security_groups", tuple(self.security_groups))  # what was written down as JSON is a list


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
class IngressRule:
    """A rule of a security group as Nova shows it. `remote_group`: name and project of the group that the other end is in."""

    id: str
    ip_version: int
    protocol: str | None
    port_min: int | None
    port_max: int | None
    remote_cidr: str | None = None
    remote_group: tuple[str, str] | None = None


@dataclass(frozen=True)
class SecurityGroup:
    """A security group of a server's ports. `ingress` is filled where one server's are asked for."""

    id: str
    name: str
    project_id: str
    description: str = ""
    ingress: tuple[IngressRule, ...] = ()


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

    async def check(self, context: Context, requested: Requested, *, count: int, security_groups: Sequence[str] = ()) -> CheckedNics:
        """May `count` servers have these, with these security groups (ids or names of the project's) on the ports that are made for
        them? The nics come back with the groups' ids. Raises BadRequest, NotFound, Conflict (port in use, address taken, a name that
        several groups have, groups that do not go together), Forbidden or QuotaExceeded with a sentence. No network at all with
        `auto`: an empty list."""
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

    async def security_groups(self, server_ids: Sequence[str]) -> dict[str, list[SecurityGroup]]:
        """The security groups of servers' ports, each once; servers without any are missing."""
        ...

    async def security_groups_of(self, server_id: str) -> list[SecurityGroup]:
        """The same of one server, with their rules."""
        ...

    async def add_security_group(self, context: Context, server_id: str, group: str) -> None:
        """Each port of the server gets the group, which is the caller's project's (id or name). Raises NotFound (no such group, no
        ports), BadRequest (a port without port security or address), Conflict (several of that name, stateful beside stateless)."""

    async def remove_security_group(self, context: Context, server_id: str, group: str) -> None:
        """The same away from each. Raises NotFound also where no port has it, Conflict."""

    async def servers_at(self, address: str, version: int) -> list[str]:
        """Ids of servers with a port whose address (of that IP version) contains the regular expression `address`."""
        ...

    async def readiness(self, port_ids: Sequence[str], *, host: str) -> list[PortReadiness]:
        """How far those of these ports are that are bound to the host."""
        ...

    async def devices(self, *, after: str = "", most: int | None = None) -> set[str]:
        """Ids of servers that own ports, where a leak would be seen: the first `most` (None: all) of those behind `after`."""
        ...
