"""The switch seam: what a host asks of whatever moves its guests' packets. Implementations: `openvswitch`, `simulated`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pileus.messages import PortWiring, SecurityRule

FlowDeletion = Literal["deferred", "bundled", "blocking"]
"""`network.flow_deletion`. For the switch: `blocking` is one call a flow, each answered before the next; the others are one bundle."""


class SwitchError(Exception):
    """A port could not be plugged or wired. The text names the cause in one line."""


@dataclass(frozen=True)
class Tap:
    """A guest's network device. `fd` is open on it (no vnet header) and belongs to whoever called `open_tap`; -1 when simulated, and
    where the port's guest holds it already."""

    name: str
    fd: int


@dataclass(frozen=True)
class SwitchPort:
    """A port found on the switch. `wired` is the generation its flows stand for (0: none yet)."""

    port_id: str
    tap: str
    generation: int
    wired: int


@dataclass(frozen=True)
class Filter:
    """What a port's security groups let pass, all of them together. `stateful`: answers to what passed pass, too (conntrack)."""

    stateful: bool = True
    rules: tuple[SecurityRule, ...] = ()


class Taps(Protocol):
    """What the compute side of a host makes for itself: the switch's own process need not be the one that starts guests."""

    async def open_tap(self, port_id: str, mtu: int) -> Tap:
        """The port's TAP, made if it is not there. Raises SwitchError."""


class Switch(Protocol):
    """Every call is idempotent and safe to cancel. Work touches the named ports' rows and flows only (law 4)."""

    tunnel_address: str
    """Where tunnels of other hosts end here; empty: networks do not leave this host by tunnels."""

    on_reset: Callable[[], None] | None
    """Called when the switch itself was restarted and has lost its flows: every port must be wired again."""

    async def start(self) -> None:
        """Connect (starting the daemons where they are ours), make the bridge and its tables. Raises StartupError in one line."""

    async def close(self) -> None:
        """Let go; ports go on working."""

    async def open_tap(self, port_id: str, mtu: int) -> Tap:
        """The port's TAP, made if it is not there. Raises SwitchError."""

    async def plug(self, port: PortWiring) -> None:
        """The TAP becomes a switch port that carries port id and generation. Returns when the switch has applied it."""

    async def wire(self, port: PortWiring, rules: Filter | None = None) -> None:
        """Local tag and flows: when this returns, packets pass that `rules` allow (None: all). Sets that rules name were told by
        `address_set` before. Raises SwitchError (no such port: `plug` first)."""

    async def address_set(self, set_id: str, addresses: Collection[str]) -> None:
        """The addresses and CIDRs of a set that rules name: flows of the set's own, whatever ports and rules there are. Only what
        has changed is sent. Raises SwitchError."""

    async def change_set(self, set_id: str, joined: Collection[str], left: Collection[str]) -> None:
        """Some come into a set that `address_set` told of, and some leave it: the work is for these alone, however many there are.
        Raises SwitchError, also where the set does not stand: it must be told whole."""

    async def drop_sets(self, set_ids: Collection[str]) -> None:
        """No rule of a port here names these any more."""

    async def members(self, network_id: str, addresses: Collection[str]) -> None:
        """The other hosts that have ports in a tunnel network, by their tunnel addresses: what is for all goes to all of these, and
        to no other. A network that has no wired port here: nothing. Raises SwitchError."""

    async def unplug(self, port_ids: Sequence[str], *, deletion: FlowDeletion = "deferred") -> None:
        """Flows, switch ports and TAPs of these go, in one batch; a network's tag goes with its last port."""

    async def ports(self) -> list[SwitchPort]:
        """What is really there."""

    async def drop_taps(self, spared: Collection[str]) -> None:
        """TAPs of no port that no guest holds go, but for those of the `spared` port ids."""

    def watch(self) -> AsyncIterator[SwitchPort]:
        """Each port as it appears or changes its generation, from now on; those that stand are given first. (What the agent of
        the `callback` signal learns its work from.)"""

    async def dhcp_device(self, network_id: str, namespace: str, mac: str, mtu: int) -> str:
        """A device of this network for its DHCP server, inside a network namespace; its name. Made if it is not there."""

    async def remove_dhcp_device(self, network_id: str, namespace: str) -> None: ...
