"""The integration bridge's tables: from a port's wiring to flows, and back from marker flows to what is wired. Pure.

    CLASSIFY    in_port (untagged frames only)  → registers: source port, network's tag, conntrack zone
    ANTI_SPOOF  a secured port's own MAC, IP, ARP, ND and DHCP-client packets pass; no DHCP server, no router advertisement
    EGRESS      security of what a port sends: passes for now
    L2          a known MAC → destination port · broadcast and multicast → the network's flood group · else → its unknown group, in a
                tunnel network by way of:
    LEARNED     MACs that were seen to come from another host, or from a port that may own several
    DELIVER     to the host or port that LEARNED has found, else → the unknown group
    UNKNOWN     which ports may take a unicast that no port of this host owns: unsecured ones, and owners of address pairs with that MAC
    INGRESS     security of what a port receives, once for each destination port: passes for now
    UPLINK      out to the physical network with the local tag, but for what stays on this host
    TUNNEL      out to the hosts that share a tunnel network (its remote group, one bucket a host), but for what stays on this host, and
                what came from another one
    OUTPUT      to the destination register's port

How a broadcast gets its ingress stage: the flood group has one bucket for each port, which sets the destination register and searches
INGRESS; a copy that would go back where it came from is dropped by the switch. Wiring or removing a port inserts or removes
its own bucket by its own id, so nothing lists all ports. A unicast to a MAC that lives elsewhere goes to the physical network (and
to ports that may own any MAC), never to the other guests. The switch's limit of 4096 table searches a packet allows 2000 ports
of one network on one host. Sources of a conntrack stage: EGRESS has the source port in `reg0`, INGRESS the destination in `reg2`, and the
zone of the network stands in `reg3`.

A tunnel network's packets carry its VNI. Which host a MAC is on is learned from its packets and forgotten after a time, so that nobody
has to be told of ports (docs/decisions/0013). What came by a tunnel goes to ports of this host only: tunnels are a full mesh.

A DHCP server serves its own host's guests only, and has the same MAC and address on every host: what it sends does not leave the
host, what comes from outside does not reach it (register `ORIGIN`), and what is meant for it goes through no tunnel.

Every flow has a cookie: its kind in the high byte, then 56 bits of the id. What is wired is written into flows as well: a
MARKER flow, which no packet reaches, stands and falls with the flows of its port, for it is in the same bundle.
"""

from __future__ import annotations

import hashlib
import ipaddress
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
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
    Learn,
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

CLASSIFY, ANTI_SPOOF, EGRESS, L2, LEARNED, DELIVER, UNKNOWN = 0, 10, 20, 30, 32, 34, 35
INGRESS, UPLINK, TUNNEL, OUTPUT, MARKER = 40, 45, 46, 50, 250
SOURCE, NETWORK, DESTINATION, ZONE, ORIGIN, FOUND = "reg0", "reg1", "reg2", "reg3", "reg4", "reg5"

PORT_KIND, NETWORK_KIND, DHCP_KIND, UPLINK_KIND, BASE_KIND, TUNNEL_KIND, LEARNED_KIND = 1, 2, 3, 4, 5, 6, 7
LAYOUT = 3
"""Version of these tables. A bridge that holds another one is emptied and wired anew."""

_KIND_SHIFT = 56
_LARGEST_GENERATION = (1 << 64) - 1
_MULTICAST = (0x010000000000, 0x010000000000)

_FLOOD, _TAKES_UNKNOWN = 1, 2
_OUTSIDE, _HOST_ONLY = 1, 2
_FAR, _NEAR = 1, 2
LEARNED_FOR = 300
"""Seconds after the last packet of a MAC from which it is no more known where that MAC is."""


@dataclass(frozen=True)
class Tunnel:
    """How a network leaves this host: by the switch's port for tunnels of its type, with its VNI. `ipv6`: the underlay's version."""

    port: int
    vni: int
    ipv6: bool = False


@dataclass(frozen=True)
class Mark:
    """What a marker flow says. Of a port: the generation it is wired at, its port number and which groups it has buckets in.
    Of a network only the tag; of its uplink or tunnel the patch or tunnel port's number too."""

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
    tables = (CLASSIFY, ANTI_SPOOF, EGRESS, L2, LEARNED, DELIVER, UNKNOWN, INGRESS, UPLINK, TUNNEL, OUTPUT, MARKER)
    return [
        *(Flow(table, 0, own) for table in tables),
        Flow(DELIVER, 50, own, {FOUND: _NEAR}, goto=INGRESS),
        Flow(UPLINK, 100, own, {ORIGIN: _HOST_ONLY}),
        *(Flow(TUNNEL, 100, own, {ORIGIN: origin}) for origin in (_HOST_ONLY, _OUTSIDE)),
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
    """The network's own flows and groups, and its uplink or tunnel."""
    flows = [DeleteFlows(cookie(kind, network_id)) for kind in (NETWORK_KIND, UPLINK_KIND, TUNNEL_KIND, LEARNED_KIND)]
    return [*flows, *remove_groups(tag)]


def remove_groups(tag: int) -> list[Message]:
    return [DeleteGroup(group(tag)) for group in (_flood_group, _unknown_group, _remote_group)]


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


def add_tunnel(network_id: str, tag: int, tunnel: Tunnel) -> list[Message]:
    """Join a network to the tunnels of its type; to which hosts, `change_members` says.

    Packets are taken from whoever knows the VNI: the underlay is the operator's, and a host that has just come is heard before we
    are told of it.
    """
    own = cookie(TUNNEL_KIND, network_id)
    far: dict[str, int | str] = {FOUND: _FAR}
    far |= {"tun_ipv6_dst": "tun_ipv6_src"} if tunnel.ipv6 else {"tun_dst": "tun_src"}
    take = (*_registers(tunnel.port, tag), SetField(ORIGIN, _OUTSIDE), _learn(cookie(LEARNED_KIND, network_id), far))
    send = (SetField("tun_id", tunnel.vni), Output(tunnel.port))
    return [
        _marker(own, Mark(0, tunnel.port, tag)),
        DeleteGroup(_remote_group(tag)),
        AddGroup(_remote_group(tag)),
        Flow(CLASSIFY, 100, own, {"in_port": tunnel.port, "tun_id": tunnel.vni, "vlan_vid": 0}, take, goto=L2),
        Flow(L2, 20, own, {NETWORK: tag}, (Resubmit(LEARNED), Resubmit(DELIVER))),
        Flow(DELIVER, 50, own, {NETWORK: tag, FOUND: _FAR, ORIGIN: 0}, send),
        Flow(DELIVER, 10, own, {NETWORK: tag, FOUND: 0}, (ToGroup(_unknown_group(tag)),)),
        Flow(TUNNEL, 50, own, {NETWORK: tag}, (ToGroup(_remote_group(tag)),)),
        *(InsertBucket(group, tunnel.port, (Resubmit(TUNNEL),)) for group in (_flood_group(tag), _unknown_group(tag))),
    ]


def remove_tunnel(own: int, mark: Mark) -> list[Message]:
    """The other way round, while the network stays; by cookie and mark, as the switch told them."""
    buckets = [RemoveBucket(group, mark.ofport) for group in (_flood_group(mark.tag), _unknown_group(mark.tag))]
    return [DeleteFlows(own), DeleteFlows(_learned(own)), *buckets, DeleteGroup(_remote_group(mark.tag))]


def change_members(
    network_id: str, tag: int, tunnel: Tunnel, before: Mapping[str, int] | None, addresses: Collection[str]
) -> tuple[list[Message], dict[str, int]]:
    """Send what is for all to the hosts with these tunnel addresses: the changes, and the buckets then, by address. `before`: those
    that stand; None: not known, so that all are made anew. What was learned is forgotten when a host goes: it may have been there."""
    group = _remote_group(tag)
    standing = dict(before or {})
    gone = sorted(standing.keys() - set(addresses))
    changes: list[Message] = [RemoveBucket(group, None)] if before is None else []
    changes += [RemoveBucket(group, standing.pop(address)) for address in gone]
    if gone or before is None:
        changes.append(DeleteFlows(cookie(LEARNED_KIND, network_id)))
    free = max(standing.values(), default=0) + 1
    for bucket, address in enumerate(sorted(set(addresses) - standing.keys()), free):
        where = ipaddress.ip_address(address)
        target = SetField("tun_dst" if where.version == 4 else "tun_ipv6_dst", int(where))
        changes.append(InsertBucket(group, bucket, (SetField("tun_id", tunnel.vni), target, Output(tunnel.port))))
        standing[address] = bucket
    return changes, standing


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
    flows: list[Message] = [*remove_port(own), _marker(own, mark)]
    if not port.admin_up:
        return [*flows, Flow(CLASSIFY, 100, own, {"in_port": ofport})]
    # A MAC that several may own moves with whoever sends by it, from other hosts, too.
    wanders = mark.unknown and port.network_type in ("geneve", "vxlan")
    learns = (_learn(_learned(own), {FOUND: _NEAR, DESTINATION: SOURCE}),) if wanders else ()
    classified = (*_registers(ofport, tag), *(() if port.port_security else learns))
    flows.append(Flow(CLASSIFY, 100, own, {"in_port": ofport, "vlan_vid": 0}, classified, goto=ANTI_SPOOF if port.port_security else L2))
    flows += _delivery(own, ofport, tag, number_of_mac(port.mac))
    if port.port_security:
        flows += [
            Flow(ANTI_SPOOF, rule.priority, own, {"in_port": ofport, **rule.match}, goto=EGRESS if rule.passes else None)
            for rule in antispoof.rules(port)
        ]
        flows.append(Flow(EGRESS, 50, own, {SOURCE: ofport}, learns, goto=L2))
        macs = {number_of_mac(pair.mac) for pair in port.allowed_pairs} - {number_of_mac(port.mac)}
        flows += [Flow(UNKNOWN, 50, own, {DESTINATION: ofport, "eth_dst": mac}, goto=INGRESS) for mac in sorted(macs)]
    else:
        flows.append(Flow(UNKNOWN, 50, own, {DESTINATION: ofport}, goto=INGRESS))
    return flows


def remove_port(own: int) -> list[Message]:
    """The flows of a port or DHCP device, by its cookie; its buckets are `change_buckets`."""
    return [DeleteFlows(own), DeleteFlows(_learned(own))]


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
        Flow(TUNNEL, 90, own, {NETWORK: tag, "eth_type": 0x0800, "ip_proto": 17, "udp_dst": 67}),
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


def _learn(own: int, load: Mapping[str, int | str]) -> Learn:
    """What is sent to the packet's sender in this network from now on."""
    return Learn(LEARNED, 10, own, LEARNED_FOR, {NETWORK: NETWORK, "eth_dst": "eth_src"}, load)


def _learned(own: int) -> int:
    """The cookie of what is learned from the port or network with this cookie."""
    return LEARNED_KIND << _KIND_SHIFT | own & (1 << _KIND_SHIFT) - 1


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


def _remote_group(tag: int) -> int:
    return 2 << 12 | tag
