"""The integration bridge's tables: from a port's wiring to flows, and back from marker flows to what is wired. Pure.

    CLASSIFY    in_port (untagged frames only)  → registers: source port, network's tag, conntrack zone
    ANTI_SPOOF  a secured port's own MAC, IP, ARP, ND and DHCP-client packets pass; no DHCP server, no router advertisement
    EGRESS      security of what a port sends: passes for now
    L2          a known MAC → destination port · broadcast and multicast → the network's flood group · else → its unknown group
    UNKNOWN     which ports may take a unicast that no port of this host owns: unsecured ones, and owners of address pairs with that MAC
    INGRESS     security of what a port receives, once for each destination port: passes for now
    UPLINK      out to the physical network with the local tag, but for what stays on this host
    OUTPUT      to the destination register's port

How a broadcast gets its ingress stage: the flood group has one bucket for each port, which sets the destination register and searches
INGRESS; a copy that would go back where it came from is dropped by the switch. Wiring or removing a port inserts or removes
its own bucket by its own id, so nothing lists all ports. A unicast to a MAC that lives elsewhere goes to the physical network (and
to ports that may own any MAC), never to the other guests. The switch's limit of 4096 table searches a packet allows 2000 ports
of one network on one host. Sources of a conntrack stage: EGRESS has the source port in `reg0`, INGRESS the destination in `reg2`, and the
zone of the network stands in `reg3`.

A DHCP server serves its own host's guests only, and has the same MAC and address on every host: what it sends does not leave the
host, and what comes from outside does not reach it (register `ORIGIN`).

Every flow has a cookie: its kind in the high byte, then 56 bits of the id. What is wired is written into flows as well: a
MARKER flow, which no packet reaches, stands and falls with the flows of its port, for it is in the same bundle.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pileus.host.switch import antispoof
from pileus.host.switch.antispoof import number_of_mac
from pileus.host.switch.openflow import (
    VLAN_PRESENT,
    Action,
    AddGroup,
    DeleteFlows,
    DeleteGroup,
    Flow,
    FoundFlow,
    InsertBucket,
    Message,
    Output,
    OutputRegister,
    PopVlan,
    PushVlan,
    RemoveBucket,
    Resubmit,
    SetField,
    ToGroup,
    Value,
)
from pileus.messages import PortWiring

CLASSIFY, ANTI_SPOOF, EGRESS, L2, UNKNOWN, INGRESS, UPLINK, OUTPUT, MARKER = 0, 10, 20, 30, 35, 40, 45, 50, 250
SOURCE, NETWORK, DESTINATION, ZONE, ORIGIN = "reg0", "reg1", "reg2", "reg3", "reg4"

PORT_KIND, NETWORK_KIND, DHCP_KIND, UPLINK_KIND, BASE_KIND = 1, 2, 3, 4, 5
LAYOUT = 2
"""Version of these tables. A bridge that holds another one is emptied and wired anew."""

_KIND_SHIFT = 56
_LARGEST_GENERATION = (1 << 64) - 1
_MULTICAST = (0x010000000000, 0x010000000000)

_FLOOD, _TAKES_UNKNOWN = 1, 2
_OUTSIDE, _HOST_ONLY = 1, 2


@dataclass(frozen=True)
class Mark:
    """What a marker flow says. Of a port: the generation it is wired at, its port number and which groups it has buckets in.
    Of a network only the tag; of its uplink the patch port's number too."""

    generation: int
    ofport: int
    tag: int
    flood: bool = False
    unknown: bool = False


def cookie(kind: int, identity: str) -> int:
    """The cookie of all flows of one port, network or DHCP device."""
    try:
        number = uuid.UUID(identity).int >> (128 - _KIND_SHIFT)
    except ValueError:
        number = int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=7).digest(), "big")
    return kind << _KIND_SHIFT | number


def kind_of(cookie: int) -> int:
    return cookie >> _KIND_SHIFT


def base() -> list[Message]:
    """The flows of the tables themselves: a miss drops, said explicitly, and the output by register."""
    own = base_cookie()
    tables = (CLASSIFY, ANTI_SPOOF, EGRESS, L2, UNKNOWN, INGRESS, UPLINK, OUTPUT, MARKER)
    return [
        *(Flow(table, 0, own) for table in tables),
        Flow(UPLINK, 100, own, {ORIGIN: _HOST_ONLY}),
        Flow(OUTPUT, 1, own, actions=(OutputRegister(DESTINATION),)),
    ]


def base_cookie() -> int:
    """The cookie of the tables' own flows; it holds their version."""
    return BASE_KIND << _KIND_SHIFT | LAYOUT


def erase() -> list[Message]:
    """Everything goes, whoever made it."""
    return [DeleteFlows(0, 0), DeleteGroup(None)]


# --- Networks ------------------------------------------------------------------------------------------------------------


def add_network(network_id: str, tag: int) -> list[Message]:
    """A network without ports: its two groups, and the flows that lead to them."""
    own = cookie(NETWORK_KIND, network_id)
    return [
        DeleteFlows(own),
        *remove_groups(tag),
        *(AddGroup(group) for group in (_flood_group(tag), _unknown_group(tag))),
        Flow(L2, 90, own, {NETWORK: tag, "eth_dst": _MULTICAST}, (ToGroup(_flood_group(tag)),)),
        Flow(L2, 10, own, {NETWORK: tag}, (ToGroup(_unknown_group(tag)),)),
        _marker(own, Mark(0, 0, tag)),
    ]


def remove_network(network_id: str, tag: int) -> list[Message]:
    """The network's own flows and groups, and its uplink."""
    flows = [DeleteFlows(cookie(kind, network_id)) for kind in (NETWORK_KIND, UPLINK_KIND)]
    return [*flows, *remove_groups(tag)]


def remove_groups(tag: int) -> list[Message]:
    return [DeleteGroup(_flood_group(tag)), DeleteGroup(_unknown_group(tag))]


def add_uplink(network_id: str, tag: int, patch: int) -> list[Message]:
    """Join a network to the patch port of its physical bridge; on the patch its frames carry the local tag."""
    own = cookie(UPLINK_KIND, network_id)
    tagged = {"in_port": patch, "vlan_vid": VLAN_PRESENT | tag}
    take: tuple[Action, ...] = (PopVlan(), *_registers(patch, tag), SetField(ORIGIN, _OUTSIDE))
    send: tuple[Action, ...] = (PushVlan(), SetField("vlan_vid", VLAN_PRESENT | tag), Output(patch))
    return [
        _marker(own, Mark(0, patch, tag)),
        Flow(CLASSIFY, 100, own, tagged, take, goto=L2),
        Flow(UPLINK, 50, own, {NETWORK: tag}, send),
        *(InsertBucket(group, patch, (Resubmit(UPLINK),)) for group in (_flood_group(tag), _unknown_group(tag))),
    ]


def remove_uplink(own: int, mark: Mark) -> list[Message]:
    """The other way round, while the network stays; by cookie and mark, as the switch told them."""
    return [DeleteFlows(own), *(RemoveBucket(group, mark.ofport) for group in (_flood_group(mark.tag), _unknown_group(mark.tag)))]


def add_segment(network_id: str, tag: int, segmentation_id: int, patch: int, device: int) -> list[Message]:
    """A network's flows on its physical bridge: local tag ↔ the VLAN id that the physical network knows."""
    own = cookie(UPLINK_KIND, network_id)
    tagged, segment = VLAN_PRESENT | tag, VLAN_PRESENT | segmentation_id
    return [
        DeleteFlows(own),
        Flow(0, 100, own, {"in_port": patch, "vlan_vid": tagged}, (SetField("vlan_vid", segment), Output(device))),
        Flow(0, 100, own, {"in_port": device, "vlan_vid": segment}, (SetField("vlan_vid", tagged), Output(patch))),
    ]


def remove_segment(network_id: str) -> list[Message]:
    return [DeleteFlows(cookie(UPLINK_KIND, network_id))]


# --- Ports ---------------------------------------------------------------------------------------------------------------


def mark_of(port: PortWiring, ofport: int, tag: int) -> Mark:
    """What the port's marker will say. A port that is administratively down is in no group."""
    takes_unknown = not port.port_security or any(number_of_mac(pair.mac) != number_of_mac(port.mac) for pair in port.allowed_pairs)
    return Mark(port.generation, ofport, tag, flood=port.admin_up, unknown=port.admin_up and takes_unknown)


def add_port(port: PortWiring, ofport: int, tag: int) -> list[Message]:
    """A port's flows (those it had go in the same bundle); its buckets are `change_buckets`."""
    own = cookie(PORT_KIND, port.port_id)
    mark = mark_of(port, ofport, tag)
    flows: list[Message] = [DeleteFlows(own), _marker(own, mark)]
    if not port.admin_up:
        return [*flows, Flow(CLASSIFY, 100, own, {"in_port": ofport})]
    flows.append(_classify(own, ofport, tag, ANTI_SPOOF if port.port_security else L2))
    flows += _delivery(own, ofport, tag, number_of_mac(port.mac))
    if port.port_security:
        flows += [
            Flow(ANTI_SPOOF, rule.priority, own, {"in_port": ofport, **rule.match}, goto=EGRESS if rule.passes else None)
            for rule in antispoof.rules(port)
        ]
        flows.append(Flow(EGRESS, 50, own, {SOURCE: ofport}, goto=L2))
        macs = {number_of_mac(pair.mac) for pair in port.allowed_pairs} - {number_of_mac(port.mac)}
        flows += [Flow(UNKNOWN, 50, own, {DESTINATION: ofport, "eth_dst": mac}, goto=INGRESS) for mac in sorted(macs)]
    else:
        flows.append(Flow(UNKNOWN, 50, own, {DESTINATION: ofport}, goto=INGRESS))
    return flows


def add_dhcp_device(network_id: str, mac: str, ofport: int, tag: int) -> list[Message]:
    """The flows of a network's DHCP device: a port that may send what it likes, to guests of this host."""
    own = cookie(DHCP_KIND, network_id)
    registers = (*_registers(ofport, tag), SetField(ORIGIN, _HOST_ONLY))
    return [
        DeleteFlows(own),
        _marker(own, dhcp_mark(ofport, tag)),
        Flow(CLASSIFY, 100, own, {"in_port": ofport, "vlan_vid": 0}, registers, goto=L2),
        *_delivery(own, ofport, tag, number_of_mac(mac)),
        Flow(INGRESS, 60, own, {DESTINATION: ofport, ORIGIN: _OUTSIDE}),
    ]


def dhcp_mark(ofport: int, tag: int) -> Mark:
    return Mark(0, ofport, tag, flood=True)


def change_buckets(before: Mark | None, after: Mark | None) -> list[Message]:
    """From a port's buckets as they are to those it needs."""
    old, new = dict(_buckets(before)), dict(_buckets(after))
    removed = [RemoveBucket(group, bucket) for group, bucket in old if (group, bucket) not in new]
    added = [InsertBucket(*key, actions) for key, actions in new.items() if key not in old]
    return [*removed, *added]


def _buckets(mark: Mark | None) -> Iterator[tuple[tuple[int, int], tuple[Action, ...]]]:
    if mark is not None and mark.flood:
        yield (_flood_group(mark.tag), mark.ofport), (SetField(DESTINATION, mark.ofport), Resubmit(INGRESS))
    if mark is not None and mark.unknown:
        yield (_unknown_group(mark.tag), mark.ofport), (SetField(DESTINATION, mark.ofport), Resubmit(UNKNOWN))


def _classify(own: int, ofport: int, tag: int, next_table: int) -> Flow:
    return Flow(CLASSIFY, 100, own, {"in_port": ofport, "vlan_vid": 0}, _registers(ofport, tag), goto=next_table)


def _registers(ofport: int, tag: int) -> tuple[Action, ...]:
    return SetField(SOURCE, ofport), SetField(NETWORK, tag), SetField(ZONE, tag)


def _delivery(own: int, ofport: int, tag: int, mac: int) -> list[Flow]:
    return [
        Flow(L2, 100, own, {NETWORK: tag, "eth_dst": mac}, (SetField(DESTINATION, ofport),), goto=INGRESS),
        Flow(INGRESS, 50, own, {DESTINATION: ofport}, goto=OUTPUT),
    ]


# --- Markers -------------------------------------------------------------------------------------------------------------


def read_marks(found: Iterable[FoundFlow]) -> dict[int, Mark]:
    """Cookie → mark, from the flows of the MARKER table."""
    marks = {}
    for flow in found:
        if flow.table == MARKER and kind_of(flow.cookie) != BASE_KIND:
            generation, ofport, tag, flags = (flow.match.get(name, 0) for name in ("metadata", SOURCE, NETWORK, DESTINATION))
            assert isinstance(generation, int) and isinstance(ofport, int) and isinstance(tag, int) and isinstance(flags, int)
            marks[flow.cookie] = Mark(generation, ofport, tag, bool(flags & _FLOOD), bool(flags & _TAKES_UNKNOWN))
    return marks


def _marker(own: int, mark: Mark) -> Flow:
    flags = _FLOOD * mark.flood | _TAKES_UNKNOWN * mark.unknown
    match: dict[str, Value] = {"metadata": mark.generation, SOURCE: mark.ofport, NETWORK: mark.tag, DESTINATION: flags}
    return Flow(MARKER, 1, own, match)


def _flood_group(tag: int) -> int:
    return tag


def _unknown_group(tag: int) -> int:
    return 1 << 12 | tag
