"""OpenFlow 1.5 as bytes: what we say to a bridge and what it answers. Pure; `bridge` holds the connection.

1.5 and not 1.4 because it can insert and remove a single bucket of a group: a flood list that is not rewritten with each port.
Sources: OpenFlow Switch Specification 1.5.0 (sections 7.1 to 7.3), and Open vSwitch's nicira-ext.h (flushing connections, fragments).
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pileus.host.switch.actions import NICIRA, Action, encode_actions
from pileus.host.switch.fields import Match, encode_match, padded, read_match, size_of

VERSION = 6
HEADER = struct.Struct("!BBHI")

HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY, _EXPERIMENTER = 0, 1, 2, 3, 4
_FLOW_MOD, _GROUP_MOD = 14, 15
_MULTIPART_REQUEST, MULTIPART_REPLY = 18, 19
_SET_CONFIG, _BARRIER_REQUEST, BARRIER_REPLY = 9, 20, 21
BUNDLE_CONTROL, _BUNDLE_ADD = 33, 34

_ANY = 0xFFFFFFFF
_ALL_TABLES = 0xFF


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
class DeleteFlow:
    """The one flow with this table, priority and match, or with the match's bytes as the bridge told them. None: nothing."""

    table: int
    priority: int
    match: Match | bytes


@dataclass(frozen=True)
class Each:
    """The same flow for each value of one field, of the full width: thousands cost little more than one."""

    flow: Flow | DeleteFlow
    field: str
    values: tuple[int, ...]


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


Message = Flow | DeleteFlows | DeleteFlow | Each | AddGroup | DeleteGroup | InsertBucket | RemoveBucket


@dataclass(frozen=True)
class FoundFlow:
    """A flow as the bridge reports it; of the match, the fields that we know, unmasked ones as plain numbers."""

    table: int
    priority: int
    cookie: int
    match: Match
    written: bytes = field(default=b"", compare=False, repr=False)
    """The match as the bridge wrote it."""


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
    if isinstance(change, Each):
        return _bundle_each(bundle, change, xid)
    return message(_BUNDLE_ADD, xid, struct.pack("!I2xH", bundle, _ATOMIC_ORDERED) + encode(change, xid))


def _bundle_each(bundle: int, change: Each, xid: int) -> bytes:
    """They differ in the field's bytes only, so these are all that is written anew."""
    assert not isinstance(change.flow.match, bytes)
    size = size_of(change.field)
    gap = (_PLACEHOLDER >> 8 * (16 - size)).to_bytes(size, "big")
    match = {**change.flow.match, change.field: int.from_bytes(gap, "big")}
    head, tail = bundle_add(bundle, replace(change.flow, match=match), xid).split(gap)
    return b"".join([head + value.to_bytes(size, "big") + tail for value in change.values])


_PLACEHOLDER = 0xB7E5A1C93D60F284_96D3587B0E4FAC12


def bundle_kind(body: bytes) -> int:
    """What a bundle control message says."""
    return int(struct.unpack_from("!IH", body)[1])


def barrier(xid: int) -> bytes:
    """Answered (`BARRIER_REPLY`) when all that was sent before is done."""
    return message(_BARRIER_REQUEST, xid)


def see_fragments(xid: int) -> bytes:
    """Flows may match `ip_frag`, and ports match first fragments: without this all fragments have ports of 0."""
    return message(_SET_CONFIG, xid, struct.pack("!HH", _FRAGMENTS_MATCH, 0))


_FRAGMENTS_MATCH = 3


def flush_zone(zone: int, xid: int) -> bytes:
    """Forget all connections of a conntrack zone."""
    return message(_EXPERIMENTER, xid, struct.pack("!II6xH", NICIRA, _FLUSH_ZONE, zone))


_FLUSH_ZONE = 29


def flush_address(zone: int, address: str, xid: int) -> bytes:
    """Forget the connections of a conntrack zone that an address began, or that were begun with it: two messages with one number. Open
    vSwitch 3.1 and later; others answer with an error."""
    there = ipaddress.ip_address(address)
    packed = there.packed if there.version == 6 else bytes(10) + b"\xff\xff" + there.packed
    of_zone = struct.pack("!HHH2x", _CT_ZONE, 6, zone)
    both = b""
    for end in (_CT_SOURCE, _CT_DESTINATION):
        tuple_of = struct.pack("!HH4x", _CT_ORIGINAL, 32) + struct.pack("!HH", end, 20) + packed + bytes(4)
        both += message(_EXPERIMENTER, xid, struct.pack("!II8x", NICIRA, _FLUSH) + tuple_of + of_zone)
    return both


_FLUSH = 32
_CT_ORIGINAL, _CT_ZONE = 0, 2
_CT_SOURCE, _CT_DESTINATION = 0, 1


def flow_request(xid: int, *, table: int | None = None, cookie: int = 0, mask: int = 0) -> bytes:
    """Asks for the flows of a table (None: of all) whose cookie is this in the bits of the mask."""
    where = struct.pack("!B3xII4xQQ", _ALL_TABLES if table is None else table, _ANY, _ANY, cookie, mask)
    return message(_MULTIPART_REQUEST, xid, struct.pack("!HH4x", _FLOW_STATS, 0) + where + encode_match({}))


_FLOW_STATS = 1
_MORE = 1
_FLOW_DESCRIPTION = struct.Struct("!H2xBxH8xQ2xH")
_MATCH_AT, _MATCH_HEAD = 24, 4


def flow_reply(body: bytes) -> tuple[list[FoundFlow], bool]:
    """The flows of one part of an answer, and whether more parts follow."""
    flows, offset = [], 8
    while offset + _FLOW_DESCRIPTION.size <= len(body):
        length, table, priority, cookie, match_length = _FLOW_DESCRIPTION.unpack_from(body, offset)
        match = body[offset + _MATCH_AT : offset + _MATCH_AT + match_length]
        flows.append(FoundFlow(table, priority, cookie, dict(read_match(match[_MATCH_HEAD:])), padded(match)))
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

_ADD, _DELETE, _DELETE_STRICT = 0, 3, 4
_NO_BUFFER = 0xFFFFFFFF
_FLOW = struct.Struct("!QQBBHHHIIIHH")


def _add_flow(flow: Flow, xid: int) -> bytes:
    instructions = b""
    if flow.actions:
        actions = encode_actions(flow.actions)
        instructions += struct.pack("!HH4x", 4, 8 + len(actions)) + actions
    if flow.goto is not None:
        instructions += struct.pack("!HHB3x", 1, 8, flow.goto)
    fixed = _FLOW.pack(flow.cookie, 0, flow.table, _ADD, 0, 0, flow.priority, _NO_BUFFER, _ANY, _ANY, 0, 0)
    return message(_FLOW_MOD, xid, fixed + encode_match(flow.match) + instructions)


def _delete_flows(change: DeleteFlows, xid: int) -> bytes:
    fixed = _FLOW.pack(change.cookie, change.mask, _ALL_TABLES, _DELETE, 0, 0, 0, _NO_BUFFER, _ANY, _ANY, 0, 0)
    return message(_FLOW_MOD, xid, fixed + encode_match({}))


def _delete_flow(change: DeleteFlow, xid: int) -> bytes:
    match = change.match if isinstance(change.match, bytes) else encode_match(change.match)
    fixed = _FLOW.pack(0, 0, change.table, _DELETE_STRICT, 0, 0, change.priority, _NO_BUFFER, _ANY, _ANY, 0, 0)
    return message(_FLOW_MOD, xid, fixed + match)


_GROUP_ADD, _GROUP_DELETE, _GROUP_INSERT, _GROUP_REMOVE = 0, 2, 3, 5
_EVERY_GROUP = 0xFFFFFFFC
_LAST_BUCKET, _ALL_BUCKETS = 0xFFFFFFFE, 0xFFFFFFFF


def _group(xid: int, command: int, group: int, at: int, buckets: bytes = b"") -> bytes:
    body = struct.pack("!HBxIH2xI", command, 0, group, len(buckets), at) + buckets
    return message(_GROUP_MOD, xid, body)


def _insert_bucket(change: InsertBucket, xid: int) -> bytes:
    actions = encode_actions(change.actions)
    bucket = struct.pack("!HHI", 8 + len(actions), len(actions), change.bucket) + actions
    return _group(xid, _GROUP_INSERT, change.group, _LAST_BUCKET, bucket)


def _delete_group(change: DeleteGroup, xid: int) -> bytes:
    return _group(xid, _GROUP_DELETE, _EVERY_GROUP if change.group is None else change.group, _ALL_BUCKETS)


_ENCODERS: dict[type, Callable[..., bytes]] = {
    Flow: _add_flow,
    DeleteFlows: _delete_flows,
    DeleteFlow: _delete_flow,
    AddGroup: lambda change, xid: _group(xid, _GROUP_ADD, change.group, _ALL_BUCKETS),
    DeleteGroup: _delete_group,
    InsertBucket: _insert_bucket,
    RemoveBucket: lambda change, xid: _group(xid, _GROUP_REMOVE, change.group, _ALL_BUCKETS if change.bucket is None else change.bucket),
}
