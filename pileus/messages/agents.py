"""What the network service and network agents say to one another: of ports, of agents themselves, and of who shares a network."""

from __future__ import annotations

from typing import Literal

import msgspec

from pileus.messages.wiring import PortWiring


class PortLevel(msgspec.Struct, frozen=True):
    """Agent → network service: what the agent made of a port. `failed` says why wiring did not work."""

    port_id: str
    host: str
    generation: int
    level: Literal["plugged", "wired", "failed", "gone"]
    cause: str = ""


class AgentFacts(msgspec.Struct, frozen=True):
    """Network agent → network rpc worker: what HostFacts are for the compute side, which may be another process."""

    host: str
    availability_zone: str = "nova"
    physical_networks: list[str] = []
    network_types: list[str] = []
    address: str = ""
    """Where other hosts' tunnels reach it."""
    started_at: float = 0.0
    mark: int = 0


class AgentBeat(msgspec.Struct, frozen=True):
    """Network agent → network rpc worker: what HostBeat is for the compute side."""

    host: str
    mark: int
    started_at: float


class DeviceDetailsRequest(msgspec.Struct, frozen=True):
    """Agent → network rpc worker (`get_devices_details_list`): what are these ports meant to be?"""

    host: str
    port_ids: list[str]


class DeviceDetails(msgspec.Struct, frozen=True):
    """Those of the ports that are bound to the asking host; the others exist no more or are bound elsewhere."""

    ports: list[PortWiring]


class DeviceLevels(msgspec.Struct, frozen=True):
    """Agent → network rpc worker (`update_device_list`), a batch."""

    host: str
    levels: list[PortLevel]


class Taken(msgspec.Struct, frozen=True):
    """The answer to `DeviceLevels`: written down."""

    count: int


class PortsChanged(msgspec.Struct, frozen=True):
    """Network service → agent: desired wiring of bound ports changed (new allowed pairs, admin state, subnet options)."""

    ports: list[PortWiring]


class MembersRequest(msgspec.Struct, frozen=True):
    """Network agent → network rpc worker (`get_network_members`): which other hosts have ports in these networks? `networks`: id →
    the version that the host knows, -1 for none. `address`: where the host's own tunnels end."""

    host: str
    address: str
    networks: dict[str, int]


class NetworkMembers(msgspec.Struct, frozen=True):
    """A tunnel network at a version: where the tunnels of the other hosts that have ports in it end."""

    network_id: str
    version: int
    addresses: list[str]


class Members(msgspec.Struct, frozen=True):
    """Those of the networks that the host has ports in and whose version is another than the one it knows."""

    networks: list[NetworkMembers]


class MembersChange(msgspec.Struct, frozen=True):
    """What has changed of one network since the version `before`."""

    network_id: str
    before: int
    version: int
    joined: list[str]
    left: list[str]


class MembersChanged(msgspec.Struct, frozen=True):
    """Network rpc worker → agent: hosts have joined or left networks that this host has ports in."""

    changes: list[MembersChange]
