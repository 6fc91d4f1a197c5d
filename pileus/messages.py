"""What control plane, hosts and agents say to one another. Every message is a hint: the database is the truth.

Encoded as msgpack by the bus, so nothing here may hold a live object. Times are Unix seconds (float).
"""

from __future__ import annotations

from typing import Literal

import msgspec

Goal = Literal["running", "paused", "stopped", "absent"]
"""What a host is asked to make of a guest."""

PowerState = Literal["running", "paused", "stopped", "crashed", "absent"]
"""What a guest is found to be."""

PlugSignal = Literal["local", "callback"]

NetworkType = Literal["geneve", "vxlan", "vlan", "local"]

DiskFormat = Literal["raw", "qcow2", "aki", "ari", "ami"]


class FixedIP(msgspec.Struct, frozen=True):
    subnet_id: str
    address: str


class HostRoute(msgspec.Struct, frozen=True):
    destination: str
    nexthop: str


class SubnetWiring(msgspec.Struct, frozen=True):
    """What a host must know of a subnet: for DHCP, and for a guest's config drive."""

    id: str
    cidr: str
    ip_version: int
    gateway: str | None
    enable_dhcp: bool
    dhcp_address: str | None
    """The address that the network's DHCP server uses in this subnet; None without DHCP."""
    dns: list[str] = []
    routes: list[HostRoute] = []


class AddressPair(msgspec.Struct, frozen=True):
    ip: str
    """An address or a CIDR."""
    mac: str


class PortWiring(msgspec.Struct, frozen=True):
    """All that a host needs to plug and wire one port. `generation` is the binding's: wired means wired at that generation."""

    port_id: str
    generation: int
    network_id: str
    network_type: NetworkType
    physical_network: str | None
    segmentation_id: int | None
    mtu: int
    mac: str
    fixed_ips: list[FixedIP]
    subnets: list[SubnetWiring]
    allowed_pairs: list[AddressPair] = []
    port_security: bool = True
    admin_up: bool = True
    dns_name: str = ""
    network_name: str = ""
    security_groups: list[str] = []
    """Ids of the groups whose rules say what passes; none: nothing but what every guest needs (ARP, DHCP, ND)."""


class ImageRef(msgspec.Struct, frozen=True):
    """An image as a host fetches it. Sizes in bytes; `virtual_size` is the disk that a guest sees."""

    id: str
    disk_format: DiskFormat
    size: int
    checksum: str
    """SHA-512, hex: the host refuses data that does not match."""
    virtual_size: int
    ticket: str = ""
    """What the host shows when it fetches the data. Good for a while only, so it is kept nowhere."""


class BootSource(msgspec.Struct, frozen=True):
    """What a guest starts from. No image at all: a blank disk."""

    image: ImageRef | None = None
    kernel: ImageRef | None = None
    ramdisk: ImageRef | None = None
    command_line: str = ""


class GuestSpec(msgspec.Struct, frozen=True):
    """The whole of one guest. Kept beside the guest on the host, so that a restarted host knows what it holds."""

    server_id: str
    name: str
    hostname: str
    project_id: str
    vcpus: int
    memory_mb: int
    disk_gb: int
    """Size of the root disk; 0: as large as the image, no disk without an image."""
    boot: BootSource
    ports: list[PortWiring]
    config_drive: bool = False
    user_data: str | None = None
    """Base64, as the API took it."""
    metadata: dict[str, str] = {}
    public_keys: dict[str, str] = {}
    availability_zone: str = "nova"
    launch_index: int = 0


class Desired(msgspec.Struct, frozen=True):
    """Control plane → host: make this server so. Sent again until answered; a host takes each generation once."""

    server_id: str
    generation: int
    goal: Goal
    action: str
    """The action's name (create, reboot, …): `reboot` with goal `running` restarts a guest that already runs."""
    spec: GuestSpec | None = None
    hard: bool = False
    """Without asking the guest (hard reboot, stop at once)."""
    signal: PlugSignal = "local"
    plug_timeout: float = 300.0
    plug_fatal: bool = True


class Observed(msgspec.Struct, frozen=True):
    """Host → control plane: this is how the server is, at the generation that the host has reached."""

    server_id: str
    host: str
    generation: int
    power: PowerState
    failed_step: str = ""
    cause: str = ""
    retry: bool = False
    """With a failure: another host may succeed where this one did not."""
    stamps: dict[str, float] = {}


class Progress(msgspec.Struct, frozen=True):
    """Host → control plane, once: everything is done but what `waits_for` says. `stamps`: the steps until now."""

    server_id: str
    host: str
    generation: int
    stamps: dict[str, float]
    waits_for: str


class PortLevel(msgspec.Struct, frozen=True):
    """Agent → network service: what the agent made of a port. `failed` says why wiring did not work."""

    port_id: str
    host: str
    generation: int
    level: Literal["plugged", "wired", "failed", "gone"]
    cause: str = ""


class HostFacts(msgspec.Struct, frozen=True):
    """Compute side → control plane: what a host has. Told at its start, when it changes and when it is asked for (`FactsWanted`).
    Memory in MiB, disk in GiB."""

    host: str
    hypervisor_type: str
    hypervisor_version: int
    vcpus: int
    memory_mb: int
    disk_gb: int
    cpu_info: dict[str, str]
    acceleration: str
    acceleration_reason: str
    address: str
    availability_zone: str = "nova"
    physical_networks: list[str] = []
    network_types: list[str] = []
    guests: int = 0
    started_at: float = 0.0
    mark: int = 0
    """Tells these facts from others: a beat carries it, so that whoever has other ones written down asks for them."""


class HostBeat(msgspec.Struct, frozen=True):
    """Compute side → control plane, now and then: the host lives, and its facts are those with this mark."""

    host: str
    mark: int
    started_at: float
    guests: int = 0


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


class PortsOrder(msgspec.Struct, frozen=True):
    """Compute side → network agent of the same host: do something with these ports.

    `epoch`: when the compute side was started (Unix seconds); `number` counts its orders, a repeated one keeps it. So of two orders for
    one port it is known which is the later one, however they come.
    """

    host: str
    epoch: float
    number: int
    ports: list[PortWiring]


class PortsDone(msgspec.Struct, frozen=True):
    """The answer to `PortsOrder`. `levels`: port → the generation at which it is wired, and since when."""

    error: str = ""
    levels: dict[str, tuple[int, float]] = {}


class Holdings(msgspec.Struct, frozen=True):
    """Compute side → network agent of the same host: what it holds. All else that is plugged by orders before this one is nobody's.

    `running`: ports of guests that run; `idle`: of those that do not; `busy`: ids of ports of guests that are being worked on.
    """

    host: str
    epoch: float
    number: int
    running: list[PortWiring]
    idle: list[PortWiring]
    busy: list[str]


class HoldingsWanted(msgspec.Struct, frozen=True):
    """Network agent → compute side of the same host, again and again until it is told: what do you hold?"""

    host: str


class FactsWanted(msgspec.Struct, frozen=True):
    """Control plane → host: the facts of this part are not the ones written down (or none are): tell them."""

    part: Literal["compute", "network"]


class Echo(msgspec.Struct, frozen=True):
    """Control plane → itself, by the bus: whoever hears it can hear hosts, too."""

    at: float


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


class HostEvent(msgspec.Struct, frozen=True):
    """Compute API → host: an external event for a server that lives there."""

    server_id: str
    name: str
    status: str
    tag: str


class GuestNow(msgspec.Struct, frozen=True):
    generation: int
    power: PowerState


class HostReport(msgspec.Struct, frozen=True):
    """Host → control plane after its start and now and then: all the guests it holds, as they are."""

    host: str
    guests: dict[str, GuestNow]
    at: float


class ReadinessRequest(msgspec.Struct, frozen=True):
    """Host → compute: what level have these ports? Asked before a wait is given up."""

    host: str
    port_ids: list[str]


class Readiness(msgspec.Struct, frozen=True):
    """Port id → the generation at which it is wired, and at which it failed (0: never)."""

    wired: dict[str, int]
    failed: dict[str, int]


class ActionHint(msgspec.Struct, frozen=True):
    """There is work: these actions are due, or creates `waiting` to be let in, or `deletes`, or info caches that are `stale`."""

    ids: list[str] = []
    waiting: bool = False
    deletes: bool = False
    stale: bool = False


class OutboxHint(msgspec.Struct, frozen=True):
    """Network API → notifier: there is something that compute is to be told."""


class ConsoleRequest(msgspec.Struct, frozen=True):
    """Compute API → host: the end of a guest's serial log; `lines` None: all that is kept."""

    server_id: str
    lines: int | None


class ConsoleText(msgspec.Struct, frozen=True):
    text: str


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


ACTIONS = "compute.actions"
OUTBOX = "network.outbox"
COMPUTE_ECHO = "compute.echo"
NETWORK_ECHO = "network.echo"

# What hosts say and ask. Each has subjects of its own (`from_host`), so that it can speak for no other; the control plane
# listens to all of them (`from_hosts`). Every such message names its `host`.
DETAILS = "get_devices_details_list"
LEVELS = "update_device_list"
OBSERVED = "observed"
PROGRESS = "progress"
READINESS = "readiness"
MEMBERS = "get_network_members"
SECURITY = "get_security"
HEARTBEAT = "heartbeat"  # HostFacts
BEAT = "beat"  # HostBeat
AGENT = "agent"  # AgentFacts
AGENT_BEAT = "agentbeat"  # AgentBeat
REPORT = "report"


def from_host(host: str, kind: str) -> str:
    return f"from.{token(host)}.{kind}"


def from_hosts(kind: str) -> str:
    return f"from.*.{kind}"


def desired_subject(host: str) -> str:
    return f"host.{token(host)}.desired"


def event_subject(host: str) -> str:
    return f"host.{token(host)}.events"


def ports_subject(host: str) -> str:
    return f"host.{token(host)}.ports"


def members_subject(host: str) -> str:
    return f"host.{token(host)}.members"


def security_subject(host: str) -> str:
    return f"host.{token(host)}.security"


def facts_subject(host: str) -> str:
    return f"host.{token(host)}.facts"


def order_subject(host: str, kind: str) -> str:
    """Of orders from a host's compute side to its network agent: plug, wire, remove, left, levels, hold."""
    return f"host.{token(host)}.agent.{kind}"


def holdings_subject(host: str) -> str:
    return f"host.{token(host)}.holdings"


def console_subject(host: str) -> str:
    return f"host.{token(host)}.console"


def token(host: str) -> str:
    """A host's name as one token of a subject: a dot would part it, and the bus's wildcards would match."""
    return host.translate(_TOKEN)


_TOKEN = str.maketrans({sign: f"%{ord(sign):02X}" for sign in "%.*> "})
