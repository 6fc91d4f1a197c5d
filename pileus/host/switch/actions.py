"""What flows and buckets do with a packet, as bytes. Pure.

Sources: OpenFlow Switch Specification 1.5.0 (7.2.6), and Open vSwitch's extensions under vendor 0x2320 (`resubmit`, `output` to a register,
`learn`, `ct`, `conjunction`; ovs-actions(7)).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pileus.host.switch.fields import encode_field, header, padded, size_of

NICIRA = 0x2320
_VENDOR_ACTION = 0xFFFF
_IN_PORT = 0xFFF8


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


@dataclass(frozen=True)
class Track:
    """Find the packet's connection, in the zone that stands in a register, and go on in `table` with `ct_state` and `ct_mark` known."""

    zone: str
    table: int


@dataclass(frozen=True)
class Commit:
    """Keep the connection of a tracked packet, marked, in the zone that stands in a register."""

    zone: str
    mark: int


@dataclass(frozen=True)
class Conjunction:
    """One of the dimensions of a conjunctive match (from 1 on): where each has a flow that matches, `conj_id` is this."""

    number: int
    dimension: int
    of: int = 2


Action = Output | OutputRegister | SetField | PushVlan | PopVlan | ToGroup | Resubmit | Learn | Track | Commit | Conjunction


def encode_actions(actions: tuple[Action, ...]) -> bytes:
    """A list of actions."""
    return b"".join(_ACTIONS[type(action)](action) for action in actions)


def _vendor(subtype: int, body: bytes) -> bytes:
    """An action of Open vSwitch's own, padded."""
    length = 10 + len(body)
    return padded(struct.pack("!HHIH", _VENDOR_ACTION, length + -length % 8, NICIRA, subtype) + body)


def _set_field(action: SetField) -> bytes:
    data = encode_field(action.field, action.value)
    length = 4 + len(data) + -(4 + len(data)) % 8
    return padded(struct.pack("!HH", 25, length) + data)


def _output_register(action: OutputRegister) -> bytes:
    return _vendor(15, struct.pack("!H4sH6x", 8 * size_of(action.register) - 1, header(action.register), 0))


_MATCH_FROM_FIELD, _LOAD_FROM_FIELD, _LOAD_NUMBER = 0x0000, 0x0800, 0x2800


def _learn(action: Learn) -> bytes:
    specs = b"".join(_learned(_MATCH_FROM_FIELD, name, source) for name, source in action.match.items())
    for name, value in action.load.items():
        specs += _learned(_LOAD_FROM_FIELD if isinstance(value, str) else _LOAD_NUMBER, name, value)
    return _vendor(16, struct.pack("!HHHQHBxHH", 0, action.lasts, action.priority, action.cookie, 0, action.table, 0, 0) + specs)


def _learned(kind: int, name: str, value: int | str) -> bytes:
    """One part of what is learned: header, source, and the whole of a field from its bit 0."""
    size = size_of(name)
    source = _whole(value) if isinstance(value, str) else value.to_bytes(2 * -(-8 * size // 16), "big")
    return struct.pack("!H", kind | 8 * size) + source + _whole(name)


def _whole(name: str) -> bytes:
    return header(name) + bytes(2)


_COMMIT, _NO_TABLE, _ZONE_BITS = 1, 0xFF, 15


def _track(action: Track) -> bytes:
    return _ct(0, action.zone, action.table)


def _commit(action: Commit) -> bytes:
    return _ct(_COMMIT, action.zone, _NO_TABLE, _set_field(SetField("ct_mark", action.mark)))


def _ct(flags: int, zone: str, table: int, actions: bytes = b"") -> bytes:
    return _vendor(35, struct.pack("!H4sHB3xH", flags, header(zone), _ZONE_BITS, table, 0) + actions)


_ACTIONS: dict[type, Callable[..., bytes]] = {
    Output: lambda action: struct.pack("!HHIH6x", 0, 16, action.port, 0),
    OutputRegister: _output_register,
    SetField: _set_field,
    PushVlan: lambda action: struct.pack("!HHH2x", 17, 8, 0x8100),
    PopVlan: lambda action: struct.pack("!HH4x", 18, 8),
    ToGroup: lambda action: struct.pack("!HHI", 22, 8, action.group),
    Resubmit: lambda action: _vendor(14, struct.pack("!HB3x", _IN_PORT, action.table)),
    Learn: _learn,
    Track: _track,
    Commit: _commit,
    Conjunction: lambda action: _vendor(34, struct.pack("!BBI", action.dimension - 1, action.of, action.number)),
}
