"""What a guest may send: as its own MAC and addresses, and as its allowed address pairs. Pure.

DHCP servers and routers do not live in guests, so their packets do not leave them; IPv6 neighbours are told of own addresses only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pileus.host.switch.fields import Value
from pileus.messages import PortWiring

_ARP, _IPV4, _IPV6, _UDP, _ICMPV6 = 0x0806, 0x0800, 0x86DD, 17, 58
_ROUTER_SOLICITATION, _ROUTER_ADVERTISEMENT, _NEIGHBOUR_SOLICITATION, _NEIGHBOUR_ADVERTISEMENT = 133, 134, 135, 136
_LISTENER_TYPES = (131, 132, 143)
_BROADCAST_ADDRESS = 0xFFFFFFFF


@dataclass(frozen=True)
class Rule:
    """Packets that match, the highest priority first."""

    priority: int
    match: Mapping[str, Value]


_ICMP: Mapping[str, Value] = {"eth_type": _IPV6, "ip_proto": _ICMPV6}

FORBIDDEN = (
    # To a DHCP client's port only servers send.
    Rule(100, {"eth_type": _IPV4, "ip_proto": _UDP, "udp_dst": 68}),
    Rule(100, {"eth_type": _IPV6, "ip_proto": _UDP, "udp_dst": 546}),
    Rule(100, {**_ICMP, "icmpv6_type": _ROUTER_ADVERTISEMENT}),
    *(Rule(90, {**_ICMP, "icmpv6_type": kind}) for kind in (_NEIGHBOUR_SOLICITATION, _NEIGHBOUR_ADVERTISEMENT)),
)
"""What no secured port may send, but for what `rules` allows it by a higher priority."""


def rules(port: PortWiring) -> Iterator[Rule]:
    """What a secured port may send; what no rule names is dropped."""
    mac = number_of_mac(port.mac)
    v4, v6 = _senders(port)

    dhcp = {"eth_type": _IPV4, "ip_proto": _UDP, "ipv4_src": 0, "ipv4_dst": _BROADCAST_ADDRESS, "udp_src": 68, "udp_dst": 67}
    yield Rule(90, {"eth_src": mac, **dhcp})
    for source, (address, mask) in v4:
        yield Rule(80, {"eth_src": source, "eth_type": _IPV4, **_masked("ipv4_src", address, mask, 32)})
        arp: dict[str, Value] = {"eth_src": source, "eth_type": _ARP, "arp_sha": source}
        yield Rule(80, {**arp, **_masked("arp_spa", address, mask, 32)})
        # A probe (RFC 5227) asks for the own address with no sender.
        yield Rule(80, {**arp, "arp_op": 1, "arp_spa": 0, **_masked("arp_tpa", address, mask, 32)})
    for kind in (_ROUTER_SOLICITATION, *_LISTENER_TYPES):
        yield Rule(80, {"eth_src": mac, **_ICMP, "ipv6_src": 0, "icmpv6_type": kind})
    for source, (address, mask) in v6:
        sender = {"eth_src": source, "eth_type": _IPV6, **_masked("ipv6_src", address, mask, 128)}
        yield Rule(80, sender)
        target = _masked("nd_target", address, mask, 128)
        solicit = {**_ICMP, "icmpv6_type": _NEIGHBOUR_SOLICITATION}
        # Duplicate address detection (RFC 4862) asks for the own address with no sender.
        yield Rule(95, {**solicit, "eth_src": source, "ipv6_src": 0, **target})
        for link_address in (source, 0):
            yield Rule(95, {**solicit, **sender, "nd_sll": link_address})
            advertise = {**_ICMP, "icmpv6_type": _NEIGHBOUR_ADVERTISEMENT, **sender, **target}
            yield Rule(95, {**advertise, "nd_tll": link_address})


_Sender = tuple[int, tuple[int, int]]


def _senders(port: PortWiring) -> tuple[list[_Sender], list[_Sender]]:
    """MAC and (address, mask) that the port may send as: IPv4, IPv6. Each MAC has its link-local address (RFC 4291, appendix A)."""
    own = number_of_mac(port.mac)
    pairs = [(own, ipaddress.ip_network(fixed.address)) for fixed in port.fixed_ips]
    pairs += [(number_of_mac(pair.mac), ipaddress.ip_network(pair.ip, strict=False)) for pair in port.allowed_pairs]
    v4 = [(mac, (int(net.network_address), int(net.netmask))) for mac, net in pairs if net.version == 4]
    v6 = [(mac, (int(net.network_address), int(net.netmask))) for mac, net in pairs if net.version == 6]
    v6 += [(mac, (_link_local(mac), (1 << 128) - 1)) for mac in {own, *(mac for mac, _ in v6)}]
    return list(dict.fromkeys(v4)), list(dict.fromkeys(v6))


def _masked(name: str, address: int, mask: int, bits: int) -> dict[str, Value]:
    if mask == 0:
        return {}
    return {name: address if mask == (1 << bits) - 1 else (address, mask)}


def _link_local(mac: int) -> int:
    high, low = (mac >> 24) ^ 0x020000, mac & 0xFFFFFF
    return 0xFE80 << 112 | high << 40 | 0xFFFE << 24 | low


def number_of_mac(text: str) -> int:
    """A MAC as OpenFlow fields hold it."""
    return int(text.replace(":", ""), 16)
