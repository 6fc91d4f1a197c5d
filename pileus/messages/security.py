"""What the network service and network agents say to one another of security groups."""

from __future__ import annotations

from typing import Literal

import msgspec


class SecurityRule(msgspec.Struct, frozen=True):
    """What may pass; whatever no rule allows does not. Numbers are those of the packet's headers, None is any."""

    direction: Literal["ingress", "egress"]
    ip_version: Literal[4, 6]
    protocol: int | None = None
    port_min: int | None = None
    """Of TCP, UDP and the like the first destination port, of ICMP the type."""
    port_max: int | None = None
    """The last destination port; of ICMP the code."""
    remote_cidr: str | None = None
    remote_set: str | None = None
    """An `AddressSet` that the other end must be in."""


class GroupRules(msgspec.Struct, frozen=True):
    """A security group at a version of its rules."""

    group_id: str
    version: int
    stateful: bool
    rules: list[SecurityRule]


class AddressSet(msgspec.Struct, frozen=True):
    """Addresses (or CIDRs) that rules name by one id: those of a security group's ports, or an address group's."""

    set_id: str
    version: int
    addresses: list[str]


class SecurityRequest(msgspec.Struct, frozen=True):
    """Network agent → network rpc worker (`get_security`): what have the groups of my ports, and the sets that their rules name?
    Each by id with the version that the host knows, -1 for none. The list is all that the host is to be told of from now on.
    `ports`: now and then also which groups each port there has, None where port security is off. `number`: larger with each question
    of a host; what one ends that comes after a later one stays as it is."""

    host: str
    groups: dict[str, int]
    sets: dict[str, int]
    ports: dict[str, list[str] | None] = msgspec.field(default_factory=dict)
    number: float = 0.0


class Security(msgspec.Struct, frozen=True):
    """Those whose version is another than the one that the host knows, and the sets that the rules of these groups name and the host did
    not. A group or set that is gone is told empty. `ports`: those that have other groups than the host said."""

    groups: list[GroupRules]
    sets: list[AddressSet]
    ports: list[str] = []


class SetChange(msgspec.Struct, frozen=True):
    """What has changed of one set since the version `before`."""

    set_id: str
    before: int
    version: int
    joined: list[str]
    left: list[str]


class SecurityChanged(msgspec.Struct, frozen=True):
    """Network rpc worker → agent: groups and sets that this host has asked for are others now."""

    groups: list[GroupRules]
    sets: list[SetChange]
