"""The integration bridge's tables: their numbers, the registers, and what a flow's cookie and a marker flow say. Pure.

    CLASSIFY    in_port (untagged frames only)  → registers: source port, network's tag, conntrack zone
    ANTI_SPOOF  a secured port's own MAC, IP, ARP, ND and DHCP-client packets pass; no DHCP server, no router advertisement
    EGRESS      security of what a port sends: which way it is judged · what every guest needs passes (ARP, DHCP, ND)
    EGRESS_STATE  answers to what was let pass, pass · what no connection fits is dropped · all else is judged
    EGRESS_RULES  the port's rules; what none allows is dropped
    L2          a known MAC → destination port · broadcast and multicast → the network's flood group · else → its unknown group, in a
                tunnel network by way of:
    LEARNED     MACs that were seen to come from another host, or from a port that may own several
    DELIVER     to the host or port that LEARNED has found, else → the unknown group
    UNKNOWN     which ports may take a unicast that no port of this host owns: unsecured ones, and owners of address pairs with that MAC
    INGRESS     security of what a port receives, once for each destination port, as in EGRESS
    INGRESS_STATE, INGRESS_RULES
    UPLINK      out to the physical network with the local tag, but for what stays on this host
    TUNNEL      out to the hosts that share a tunnel network (its remote group, one bucket a host), but for what stays on this host, and
                what came from another one
    OUTPUT      to the destination register's port
    CONFIRM     passed on the way out: the connection of what has passed all of this is kept

How a broadcast gets its ingress stage: the flood group has one bucket for each port, which sets the destination register and searches
INGRESS; a copy that would go back where it came from is dropped by the switch. Wiring or removing a port inserts or removes
its own bucket by its own id, so nothing lists all ports. A unicast to a MAC that lives elsewhere goes to the physical network (and
to ports that may own any MAC), never to the other guests. The switch's limit of 4096 table searches a packet allows 2000 ports
of one network on one host for ARP, and 1000 of them for a broadcast that their rules let pass.

`security` says how rules are kept; EGRESS has the source port in `reg0`, INGRESS the destination in `reg2`, the network's conntrack zone is
`reg3`.

A tunnel network's packets carry its VNI. Which host a MAC is on is learned from its packets and forgotten after a time, so that nobody
has to be told of ports (docs/decisions/0013). What came by a tunnel goes to ports of this host only: tunnels are a full mesh.

A DHCP server serves its own host's guests only, and has the same MAC and address on every host: what it sends does not leave the
host, what comes from outside does not reach it (register `ORIGIN`), and what is meant for it goes through no tunnel.

Every flow has a cookie: its kind in the high byte, then 56 bits of the id. What is wired is written into flows as well: a
MARKER flow, which no packet reaches, stands and falls with the flows of its port, for it is in the same bundle.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pileus.host.switch.actions import Action, Learn, SetField
from pileus.host.switch.fields import Value
from pileus.host.switch.openflow import Flow, FoundFlow

CLASSIFY, ANTI_SPOOF = 0, 10
EGRESS, EGRESS_STATE, EGRESS_RULES = 20, 21, 22
L2, LEARNED, DELIVER, UNKNOWN = 30, 32, 34, 35
INGRESS, INGRESS_STATE, INGRESS_RULES = 40, 41, 42
UPLINK, TUNNEL, OUTPUT, CONFIRM, MARKER = 45, 46, 50, 60, 250
TABLES = (
    *(CLASSIFY, ANTI_SPOOF, EGRESS, EGRESS_STATE, EGRESS_RULES, L2, LEARNED, DELIVER, UNKNOWN),
    *(INGRESS, INGRESS_STATE, INGRESS_RULES, UPLINK, TUNNEL, OUTPUT, CONFIRM, MARKER),
)
SOURCE, NETWORK, DESTINATION, ZONE, ORIGIN, FOUND = "reg0", "reg1", "reg2", "reg3", "reg4", "reg5"

PORT_KIND, NETWORK_KIND, DHCP_KIND, UPLINK_KIND, BASE_KIND, TUNNEL_KIND, LEARNED_KIND, SET_KIND = 1, 2, 3, 4, 5, 6, 7, 8
LAYOUT = 4
"""Version of these tables. A bridge that holds another one is emptied and wired anew."""

KIND_SHIFT = 56
KIND_MASK = 0xFF << KIND_SHIFT
WHOLE_COOKIE = (1 << 64) - 1
MULTICAST = (0x010000000000, 0x010000000000)

OUTSIDE, HOST_ONLY = 1, 2
FAR, NEAR = 1, 2
LEARNED_FOR = 300
"""Seconds after the last packet of a MAC from which it is no more known where that MAC is."""

_FLOOD, _TAKES_UNKNOWN = 1, 2


@dataclass(frozen=True)
class Mark:
    """What a marker flow says. Of a port: the generation it is wired at, its port number and which groups it has buckets in.
    Of a network only the tag; of its uplink or tunnel the patch or tunnel port's number too. Of an address set its number, as `ofport`."""

    generation: int
    ofport: int
    tag: int
    flood: bool = False
    unknown: bool = False


def cookie(kind: int, identity: str) -> int:
    """The cookie of all flows of one port, network, DHCP device or address set."""
    try:
        number = uuid.UUID(identity).int >> (128 - KIND_SHIFT)
    except ValueError:
        number = int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=7).digest(), "big")
    return kind << KIND_SHIFT | number


def kind_of(cookie: int) -> int:
    return cookie >> KIND_SHIFT


def base_cookie() -> int:
    """The cookie of the tables' own flows; it holds their version."""
    return BASE_KIND << KIND_SHIFT | LAYOUT


def registers(ofport: int, tag: int) -> tuple[Action, ...]:
    """What CLASSIFY says of a packet."""
    return SetField(SOURCE, ofport), SetField(NETWORK, tag), SetField(ZONE, tag)


def learn(own: int, load: Mapping[str, int | str]) -> Learn:
    """What is sent to the packet's sender in this network from now on."""
    return Learn(LEARNED, 10, own, LEARNED_FOR, {NETWORK: NETWORK, "eth_dst": "eth_src"}, load)


def learned_cookie(own: int) -> int:
    """The cookie of what is learned from the port or network with this cookie."""
    return LEARNED_KIND << KIND_SHIFT | own & (1 << KIND_SHIFT) - 1


def read_marks(found: Iterable[FoundFlow]) -> dict[int, Mark]:
    """Cookie → mark, from the flows of the MARKER table."""
    marks = {}
    for flow in found:
        if flow.table == MARKER and kind_of(flow.cookie) != BASE_KIND:
            generation, ofport, tag, flags = (flow.match.get(name, 0) for name in ("metadata", SOURCE, NETWORK, DESTINATION))
            assert isinstance(generation, int) and isinstance(ofport, int) and isinstance(tag, int) and isinstance(flags, int)
            marks[flow.cookie] = Mark(generation, ofport, tag, bool(flags & _FLOOD), bool(flags & _TAKES_UNKNOWN))
    return marks


def marker(own: int, mark: Mark) -> Flow:
    """The flow that says it."""
    flags = _FLOOD * mark.flood | _TAKES_UNKNOWN * mark.unknown
    match: dict[str, Value] = {"metadata": mark.generation, SOURCE: mark.ofport, NETWORK: mark.tag, DESTINATION: flags}
    return Flow(MARKER, 1, own, match)


def flood_group(tag: int) -> int:
    return tag


def unknown_group(tag: int) -> int:
    return 1 << 12 | tag


def remote_group(tag: int) -> int:
    return 2 << 12 | tag
