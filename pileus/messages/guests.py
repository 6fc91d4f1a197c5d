"""What the control plane and the compute side of a host say to one another, and what the two parts of a host do."""

from __future__ import annotations

from typing import Literal

import msgspec

from pileus.messages.wiring import PlugSignal, PortWiring

Goal = Literal["running", "paused", "stopped", "absent"]
"""What a host is asked to make of a guest."""


PowerState = Literal["running", "paused", "stopped", "crashed", "absent"]
"""What a guest is found to be."""


DiskFormat = Literal["raw", "qcow2", "aki", "ari", "ami"]


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
