"""OpenFlow 1.5 as bytes: what we say to a bridge and what it answers. Pure; `bridge` holds the connection.

1.5 and not 1.4 because it can insert and remove a single bucket of a group: a flood list that is not rewritten with each port.
Sources: OpenFlow Switch Specification 1.5.0 (sections 7.1 to 7.3), and Open vSwitch's extensions under vendor 0x2320 (registers,
tunnel fields, `resubmit`, `output` to a register, `learn`; ovs-fields(7), ovs-actions(7)).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

VERSION = 6
HEADER = struct.Struct("!BBHI")

HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY = 0, 1, 2, 3
_FLOW_MOD, _GROUP_MOD = 14, 15
_MULTIPART_REQUEST, MULTIPART_REPLY = 18, 19
BUNDLE_CONTROL, _BUNDLE_ADD = 33, 34
_NICIRA = 0x2320

_ANY = 0xFFFFFFFF
_ALL_TABLES = 0xFF
_IN_PORT = 0xFFF8

# name: (OXM class, field, bytes). In this order they are written, so that what a field needs comes before it.
_FIELDS: dict[str, tuple[int, int, int]] = {
    "in_port": (0x8000, 0, 4),
    "metadata": (0x8000, 2, 8),
    "tun_id": (0x8000, 38, 8),
    "tun_src": (0x0001, 31, 4),
    "tun_dst": (0x0001, 32, 4),
    "tun_ipv6_src": (0x0001, 109, 16),
    "tun_ipv6_dst": (0x0001, 110, 16),
    **{f"reg{number}": (0x0001, number, 4) for number in range(8)},
    "eth_dst": (0x8000, 3, 6),
    "eth_src": (0x8000, 4, 6),
    "eth_type": (0x8000, 5, 2),
    "vlan_vid": (0x8000, 6, 2),
    "ip_proto": (0x8000, 10, 1),
    "ipv4_src": (0x8000, 11, 4),
    "ipv4_dst": (0x8000, 12, 4),
    "udp_src": (0x8000, 15, 2),
    "udp_dst": (0x8000, 16, 2),
    "arp_op": (0x8000, 21, 2),
    "arp_spa": (0x8000, 22, 4),
    "arp_tpa": (0x8000, 23, 4),
    "arp_sha": (0x8000, 24, 6),
    "ipv6_src": (0x8000, 26, 16),
    "ipv6_dst": (0x8000, 27, 16),
    "icmpv6_type": (0x8000, 29, 1),
    "nd_target": (0x8000, 31, 16),
    "nd_sll": (0x8000, 32, 6),
    "nd_tll": (0x8000, 33, 6),
}
_ORDER = {name: position for position, name in enumerate(_FIELDS)}
_BY_CODE = {(kind, number): name for name, (kind, number, _) in _FIELDS.items()}

VLAN_PRESENT = 0x1000
"""Set in `vlan_vid` for a tagged frame; 0 matches the untagged ones."""

Value = int | tuple[int, int]
"""A field's value, or value and mask."""
Match = Mapping[str, Value]


@dataclass(frozen=True)
class Output:
    port: int


@dataclass(frozen=True)
class OutputRegister:
    """To the port whose number stands in a register. Nothing happens where that is the port it came in by."""

    register: str


@dataclass(frozen=True)
class SetField:
    field: str
    value: int


@dataclass(frozen=True)
class PushVlan:
    """A new 802.1Q header; its id is set after it."""


@dataclass(frozen=True)
class PopVlan:
    pass


@dataclass(frozen=True)
class ToGroup:
    group: int


@dataclass(frozen=True)
class Resubmit:
    """Search another table and come back: the goto of a group's bucket."""

    table: int


@dataclass(frozen=True)
class Learn:
    """Make (or renew) a flow in `table`: what matches the packet's value of `match`, field → field of the packet, is loaded with
    `load`, field → number, or the packet's field. It ends when nothing has renewed it for `lasts` seconds."""

    table: int
    priority: int
    cookie: int
    lasts: int
    match: Mapping[str, str]
    load: Mapping[str, int | str]


Action = Output | OutputRegister | SetField | PushVlan | PopVlan | ToGroup | Resubmit | Learn


@dataclass(frozen=True)
class Flow:
    """Added, or put in place of the flow with the same table, priority and match. Without actions and goto: drop."""

    table: int
    priority: int
    cookie: int
    match: Match = field(default_factory=dict)
    actions: tuple[Action, ...] = ()
    goto: int | None = None


@dataclass(frozen=True)
class DeleteFlows:
    """All flows of all tables whose cookie is this in the bits of the mask."""

    cookie: int
    mask: int = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True)
class AddGroup:
    """A group that sends a copy to each of its buckets; none yet."""

    group: int


@dataclass(frozen=True)
class DeleteGroup:
    """With its buckets and the flows that point to it. Unknown: nothing. None: every group."""

    group: int | None


@dataclass(frozen=True)
class InsertBucket:
    group: int
    bucket: int
    actions: tuple[Action, ...]


@dataclass(frozen=True)
class RemoveBucket:
    """An error where there is no such bucket. None: all of the group."""

    group: int
    bucket: int | None


Message = Flow | DeleteFlows | AddGroup | DeleteGroup | InsertBucket | RemoveBucket


@dataclass(frozen=True)
class FoundFlow:
    """A flow as the bridge reports it; of the match, the fields that we know, unmasked ones as plain numbers."""

    table: int
    priority: int
    cookie: int
    match: Match


def message(kind: int, xid: int, body: bytes = b"") -> bytes:
    """A whole OpenFlow message."""
    return HEADER.pack(VERSION, kind, HEADER.size + len(body), xid) + body


def hello(xid: int) -> bytes:
    """The greeting; the version in its header is the one that we speak."""
    return message(HELLO, xid)


def encode(change: Message, xid: int) -> bytes:
    """A change as a message of its own."""
    return _ENCODERS[type(change)](change, xid)


BUNDLE_OPEN, BUNDLE_COMMIT, BUNDLE_COMMITTED = 0, 4, 5
_ATOMIC_ORDERED = 3


def bundle_control(bundle: int, kind: int, xid: int) -> bytes:
    """Open, or commit, an atomic and ordered bundle."""
    return message(BUNDLE_CONTROL, xid, struct.pack("!IHH", bundle, kind, _ATOMIC_ORDERED))


def bundle_add(bundle: int, change: Message, xid: int) -> bytes:
    """One change as a part of a bundle. Its error, if any, carries `xid`."""
    return message(_BUNDLE_ADD, xid, struct.pack("!I2xH", bundle, _ATOMIC_ORDERED) + encode(change, xid))


def bundle_kind(body: bytes) -> int:
    """What a bundle control message says."""
    return int(struct.unpack_from("!IH", body)[1])


def flow_request(xid: int, *, table: int | None = None, cookie: int = 0, mask: int = 0) -> bytes:
    """Asks for the flows of a table (None: of all) whose cookie is this in the bits of the mask."""
    where = struct.pack("!B3xII4xQQ", _ALL_TABLES if table is None else table, _ANY, _ANY, cookie, mask)
    return message(_MULTIPART_REQUEST, xid, struct.pack("!HH4x", _FLOW_STATS, 0) + where + _match({}))


_FLOW_STATS = 1
_MORE = 1
_FLOW_DESCRIPTION = struct.Struct("!H2xBxH8xQ2xH")
_MATCH_AT = 24


def flow_reply(body: bytes) -> tuple[list[FoundFlow], bool]:
    """The flows of one part of an answer, and whether more parts follow."""
    flows, offset = [], 8
    while offset + _FLOW_DESCRIPTION.size <= len(body):
        length, table, priority, cookie, match_length = _FLOW_DESCRIPTION.unpack_from(body, offset)
        match = dict(_read_match(body[offset + _FLOW_DESCRIPTION.size : offset + _MATCH_AT + match_length]))
        flows.append(FoundFlow(table, priority, cookie, match))
        offset += length
    return flows, bool(struct.unpack_from("!HH", body)[1] & _MORE)


_ERROR_TYPES = {
    0: "hello failed",
    1: "bad request",
    2: "bad action",
    3: "bad instruction",
    4: "bad match",
    5: "flow refused",
    6: "group refused",
    13: "out of range",
    17: "bundle refused",
    0xFFFF: "extension error",
}
_ERROR_CODES = {
    (1, 1): "message type not known",
    (1, 5): "not permitted",
    (1, 6): "wrong length",
    (4, 5): "field's value not allowed",
    (4, 6): "field not known",
    (4, 8): "field's value not allowed",
    (4, 9): "a field that it needs is missing",
    (5, 1): "table is full",
    (5, 2): "no such table",
    (6, 0): "group is there already",
    (6, 3): "no room for the group",
    (6, 8): "no such group",
    (6, 15): "no such bucket",
    (6, 16): "bucket is there already",
    (17, 2): "no such bundle",
    (17, 10): "message not possible in a bundle",
    (17, 13): "a message of the bundle failed",
    (17, 14): "bundle timed out",
}


def error_text(body: bytes) -> str:
    """An error message in words; its numbers are kept for those who look them up."""
    kind, code = struct.unpack_from("!HH", body)
    what = _ERROR_CODES.get((kind, code), "")
    return f"{_ERROR_TYPES.get(kind, 'error')}{': ' + what if what else ''} (OpenFlow error {kind}/{code})"


# --- Encoding ------------------------------------------------------------------------------------------------------------


def _field(name: str, value: Value) -> bytes:
    kind, number, size = _FIELDS[name]
    if isinstance(value, tuple):
        plain, mask = value
        return struct.pack("!HBB", kind, number << 1 | 1, 2 * size) + plain.to_bytes(size, "big") + mask.to_bytes(size, "big")
    return struct.pack("!HBB", kind, number << 1, size) + value.to_bytes(size, "big")


def _match(match: Match) -> bytes:
    fields = b"".join(_field(name, match[name]) for name in sorted(match, key=_ORDER.__getitem__))
    return _padded(struct.pack("!HH", 1, 4 + len(fields)) + fields)


def _read_match(data: bytes) -> Iterator[tuple[str, Value]]:
    while len(data) >= 4:
        kind, code, length = struct.unpack_from("!HBB", data)
        value, data = data[4 : 4 + length], data[4 + length :]
        size = length // 2 if code & 1 else length
        plain, mask = int.from_bytes(value[:size], "big"), int.from_bytes(value[size:], "big") if code & 1 else None
        if kind == _PACKET_REGISTERS:
            yield from _read_registers(code >> 1, plain, (1 << 64) - 1 if mask is None else mask)
        elif (kind, code >> 1) in _BY_CODE:
            yield _BY_CODE[kind, code >> 1], plain if mask is None else (plain, mask)


_PACKET_REGISTERS = 0x8001


def _read_registers(number: int, plain: int, mask: int) -> Iterator[tuple[str, Value]]:
    """The switch reports our registers in pairs, as the 64-bit registers of OpenFlow 1.5."""
    for name, shift in ((f"reg{2 * number}", 32), (f"reg{2 * number + 1}", 0)):
        part, covered = plain >> shift & 0xFFFFFFFF, mask >> shift & 0xFFFFFFFF
        if covered:
            yield name, part if covered == 0xFFFFFFFF else (part, covered)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def _set_field(action: SetField) -> bytes:
    data = _field(action.field, action.value)
    length = 4 + len(data) + -(4 + len(data)) % 8
    return _padded(struct.pack("!HH", 25, length) + data)


def _output_register(action: OutputRegister) -> bytes:
    kind, number, size = _FIELDS[action.register]
    source = struct.pack("!HBB", kind, number << 1, size)
    return struct.pack("!HHIHH4sH6x", 0xFFFF, 24, _NICIRA, 15, 8 * size - 1, source, 0)


_MATCH_FROM_FIELD, _LOAD_FROM_FIELD, _LOAD_NUMBER = 0x0000, 0x0800, 0x2800


def _learn(action: Learn) -> bytes:
    specs = b"".join(_learned(_MATCH_FROM_FIELD, name, source) for name, source in action.match.items())
    for name, value in action.load.items():
        specs += _learned(_LOAD_FROM_FIELD if isinstance(value, str) else _LOAD_NUMBER, name, value)
    length = 32 + len(specs)
    head = (0xFFFF, length + -length % 8, _NICIRA, 16, 0, action.lasts, action.priority, action.cookie, 0, action.table, 0, 0)
    return _padded(struct.pack("!HHIHHHHQHBxHH", *head) + specs)


def _learned(kind: int, name: str, value: int | str) -> bytes:
    """One part of what is learned: header, source, and the whole of a field from its bit 0."""
    size = _FIELDS[name][2]
    source = _whole(value) if isinstance(value, str) else value.to_bytes(2 * -(-8 * size // 16), "big")
    return struct.pack("!H", kind | 8 * size) + source + _whole(name)


def _whole(name: str) -> bytes:
    kind, number, size = _FIELDS[name]
    return struct.pack("!HBBH", kind, number << 1, size, 0)


_ACTIONS: dict[type, Callable[..., bytes]] = {
    Output: lambda action: struct.pack("!HHIH6x", 0, 16, action.port, 0),
    OutputRegister: _output_register,
    SetField: _set_field,
    PushVlan: lambda action: struct.pack("!HHH2x", 17, 8, 0x8100),
    PopVlan: lambda action: struct.pack("!HH4x", 18, 8),
    ToGroup: lambda action: struct.pack("!HHI", 22, 8, action.group),
    Resubmit: lambda action: struct.pack("!HHIHHB3x", 0xFFFF, 16, _NICIRA, 14, _IN_PORT, action.table),
    Learn: _learn,
}


def _actions(actions: tuple[Action, ...]) -> bytes:
    return b"".join(_ACTIONS[type(action)](action) for action in actions)


_ADD, _DELETE = 0, 3
_NO_BUFFER = 0xFFFFFFFF
_FLOW = struct.Struct("!QQBBHHHIIIHH")


def _add_flow(flow: Flow, xid: int) -> bytes:
    instructions = b""
    if flow.actions:
        actions = _actions(flow.actions)
        instructions += struct.pack("!HH4x", 4, 8 + len(actions)) + actions
    if flow.goto is not None:
        instructions += struct.pack("!HHB3x", 1, 8, flow.goto)
    fixed = _FLOW.pack(flow.cookie, 0, flow.table, _ADD, 0, 0, flow.priority, _NO_BUFFER, _ANY, _ANY, 0, 0)
    return message(_FLOW_MOD, xid, fixed + _match(flow.match) + instructions)


def _delete_flows(change: DeleteFlows, xid: int) -> bytes:
    fixed = _FLOW.pack(change.cookie, change.mask, _ALL_TABLES, _DELETE, 0, 0, 0, _NO_BUFFER, _ANY, _ANY, 0, 0)
    return message(_FLOW_MOD, xid, fixed + _match({}))


_GROUP_ADD, _GROUP_DELETE, _GROUP_INSERT, _GROUP_REMOVE = 0, 2, 3, 5
_EVERY_GROUP = 0xFFFFFFFC
_LAST_BUCKET, _ALL_BUCKETS = 0xFFFFFFFE, 0xFFFFFFFF


def _group(xid: int, command: int, group: int, at: int, buckets: bytes = b"") -> bytes:
    body = struct.pack("!HBxIH2xI", command, 0, group, len(buckets), at) + buckets
    return message(_GROUP_MOD, xid, body)


def _insert_bucket(change: InsertBucket, xid: int) -> bytes:
    actions = _actions(change.actions)
    bucket = struct.pack("!HHI", 8 + len(actions), len(actions), change.bucket) + actions
    return _group(xid, _GROUP_INSERT, change.group, _LAST_BUCKET, bucket)


def _delete_group(change: DeleteGroup, xid: int) -> bytes:
    return _group(xid, _GROUP_DELETE, _EVERY_GROUP if change.group is None else change.group, _ALL_BUCKETS)


_ENCODERS: dict[type, Callable[..., bytes]] = {
    Flow: _add_flow,
    DeleteFlows: _delete_flows,
    AddGroup: lambda change, xid: _group(xid, _GROUP_ADD, change.group, _ALL_BUCKETS),
    DeleteGroup: _delete_group,
    InsertBucket: _insert_bucket,
    RemoveBucket: lambda change, xid: _group(xid, _GROUP_REMOVE, change.group, _ALL_BUCKETS if change.bucket is None else change.bucket),
}
