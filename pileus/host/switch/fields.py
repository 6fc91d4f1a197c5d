"""The fields of a packet that flows match and actions set, as bytes. Pure.

Sources: OpenFlow Switch Specification 1.5.0 (7.2.3), and Open vSwitch's extensions (registers, tunnel and conntrack fields, conjunctions;
ovs-fields(7)).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

_OPENFLOW, _NXM, _PACKET_REGISTERS = 0x8000, 0x0001, 0x8001

# name: (OXM class, field, bytes). In this order they are written, so that what a field needs comes before it.
FIELDS: dict[str, tuple[int, int, int]] = {
    "in_port": (_OPENFLOW, 0, 4),
    "metadata": (_OPENFLOW, 2, 8),
    "tun_id": (_OPENFLOW, 38, 8),
    "tun_src": (_NXM, 31, 4),
    "tun_dst": (_NXM, 32, 4),
    "tun_ipv6_src": (_NXM, 109, 16),
    "tun_ipv6_dst": (_NXM, 110, 16),
    **{f"reg{number}": (_NXM, number, 4) for number in range(8)},
    "conj_id": (_NXM, 37, 4),
    "ct_state": (_NXM, 105, 4),
    "ct_zone": (_NXM, 106, 2),
    "ct_mark": (_NXM, 107, 4),
    "eth_dst": (_OPENFLOW, 3, 6),
    "eth_src": (_OPENFLOW, 4, 6),
    "eth_type": (_OPENFLOW, 5, 2),
    "vlan_vid": (_OPENFLOW, 6, 2),
    "ip_frag": (_NXM, 26, 1),
    "ip_proto": (_OPENFLOW, 10, 1),
    "ipv4_src": (_OPENFLOW, 11, 4),
    "ipv4_dst": (_OPENFLOW, 12, 4),
    "ipv6_src": (_OPENFLOW, 26, 16),
    "ipv6_dst": (_OPENFLOW, 27, 16),
    "tcp_src": (_OPENFLOW, 13, 2),
    "tcp_dst": (_OPENFLOW, 14, 2),
    "udp_src": (_OPENFLOW, 15, 2),
    "udp_dst": (_OPENFLOW, 16, 2),
    "sctp_src": (_OPENFLOW, 17, 2),
    "sctp_dst": (_OPENFLOW, 18, 2),
    "icmpv4_type": (_OPENFLOW, 19, 1),
    "icmpv4_code": (_OPENFLOW, 20, 1),
    "arp_op": (_OPENFLOW, 21, 2),
    "arp_spa": (_OPENFLOW, 22, 4),
    "arp_tpa": (_OPENFLOW, 23, 4),
    "arp_sha": (_OPENFLOW, 24, 6),
    "icmpv6_type": (_OPENFLOW, 29, 1),
    "icmpv6_code": (_OPENFLOW, 30, 1),
    "nd_target": (_OPENFLOW, 31, 16),
    "nd_sll": (_OPENFLOW, 32, 6),
    "nd_tll": (_OPENFLOW, 33, 6),
}
_ORDER = {name: position for position, name in enumerate(FIELDS)}
_BY_CODE = {(kind, number): name for name, (kind, number, _) in FIELDS.items()}

VLAN_PRESENT = 0x1000
"""Set in `vlan_vid` for a tagged frame; 0 matches the untagged ones."""

NEW, ESTABLISHED, RELATED, REPLY, INVALID, TRACKED = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
"""Bits of `ct_state`. New and established are no opposites: a connection of which no answer was seen is new, kept or not."""

Value = int | tuple[int, int]
"""A field's value, or value and mask."""
Match = Mapping[str, Value]


def encode_field(name: str, value: Value) -> bytes:
    """Header and value (and mask)."""
    kind, number, size = FIELDS[name]
    if isinstance(value, tuple):
        plain, mask = value
        return struct.pack("!HBB", kind, number << 1 | 1, 2 * size) + plain.to_bytes(size, "big") + mask.to_bytes(size, "big")
    return struct.pack("!HBB", kind, number << 1, size) + value.to_bytes(size, "big")


def header(name: str) -> bytes:
    """A field named, without a value."""
    kind, number, size = FIELDS[name]
    return struct.pack("!HBB", kind, number << 1, size)


def size_of(name: str) -> int:
    """In bytes."""
    return FIELDS[name][2]


def encode_match(match: Match) -> bytes:
    """The match of a flow, padded."""
    fields = b"".join(encode_field(name, match[name]) for name in sorted(match, key=_ORDER.__getitem__))
    return padded(struct.pack("!HH", 1, 4 + len(fields)) + fields)


def read_match(data: bytes) -> Iterator[tuple[str, Value]]:
    """The fields of a match (without its head) that we know; unmasked ones as plain numbers."""
    while len(data) >= 4:
        kind, code, length = struct.unpack_from("!HBB", data)
        value, data = data[4 : 4 + length], data[4 + length :]
        size = length // 2 if code & 1 else length
        plain, mask = int.from_bytes(value[:size], "big"), int.from_bytes(value[size:], "big") if code & 1 else None
        if kind == _PACKET_REGISTERS:
            yield from _read_registers(code >> 1, plain, (1 << 64) - 1 if mask is None else mask)
        elif (kind, code >> 1) in _BY_CODE:
            yield _BY_CODE[kind, code >> 1], plain if mask is None else (plain, mask)


def _read_registers(number: int, plain: int, mask: int) -> Iterator[tuple[str, Value]]:
    """The switch reports our registers in pairs, as the 64-bit registers of OpenFlow 1.5."""
    for name, shift in ((f"reg{2 * number}", 32), (f"reg{2 * number + 1}", 0)):
        part, covered = plain >> shift & 0xFFFFFFFF, mask >> shift & 0xFFFFFFFF
        if covered:
            yield name, part if covered == 0xFFFFFFFF else (part, covered)


def padded(data: bytes) -> bytes:
    """To a multiple of 8 bytes, as most parts of OpenFlow's messages are."""
    return data + bytes(-len(data) % 8)
