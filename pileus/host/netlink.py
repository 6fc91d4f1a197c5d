"""The few things we ask of the kernel's rtnetlink, over a raw socket: make, change, delete and find links, add an address.

Importing pyroute2 takes 200 ms and 25 MB, several boots' worth, and its calls take longer than these packets. Every call here is
one request and one answer in the network namespace of the calling thread. All raise OSError with the kernel's errno. (rtnetlink(7))
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator

_NEW_LINK, _DELETE_LINK, _GET_LINK, _SET_LINK, _NEW_ADDRESS = 16, 17, 18, 19, 20
_REQUEST, _ACK, _DUMP, _REPLACE, _EXCLUSIVE, _CREATE = 0x1, 0x4, 0x300, 0x100, 0x200, 0x400
_ERROR, _DONE = 2, 3
_LINK_ADDRESS, _LINK_NAME, _LINK_MTU, _LINK_INFO, _LINK_GROUP, _LINK_NAMESPACE_FD = 1, 3, 4, 18, 27, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_ADDRESS, _LOCAL = 1, 2
_UP = 1
_NO_DAD = 0x02
_LIMIT = 5.0


def create_veth(name: str, peer: str, peer_namespace_fd: int) -> None:
    """Make a pair of devices: what goes into one comes out of the other. The peer is made in another network namespace."""
    other = _attribute(_LINK_NAME, peer.encode() + b"\0") + _attribute(_LINK_NAMESPACE_FD, struct.pack("=i", peer_namespace_fd))
    data = _attribute(_INFO_DATA, _attribute(_VETH_PEER, _link_header() + other))
    attributes = _attribute(_LINK_NAME, name.encode() + b"\0")
    attributes += _attribute(_LINK_INFO, _attribute(_INFO_KIND, b"veth") + data)
    _ask(_NEW_LINK, _ACK | _CREATE | _EXCLUSIVE, _link_header() + attributes)


def set_link(
    name: str,
    *,
    mac: str | None = None,
    mtu: int | None = None,
    up: bool | None = None,
    group: int | None = None,
    namespace_fd: int | None = None,
) -> None:
    """Change a link by name; with `namespace_fd` it moves into that network namespace (and goes down)."""
    attributes = _attribute(_LINK_NAME, name.encode() + b"\0")
    if mac is not None:
        attributes += _attribute(_LINK_ADDRESS, bytes.fromhex(mac.replace(":", "")))
    if mtu is not None:
        attributes += _attribute(_LINK_MTU, struct.pack("=I", mtu))
    if group is not None:
        attributes += _attribute(_LINK_GROUP, struct.pack("=I", group))
    if namespace_fd is not None:
        attributes += _attribute(_LINK_NAMESPACE_FD, struct.pack("=i", namespace_fd))
    _ask(_SET_LINK, _ACK, _link_header(flags=_UP if up else 0, change=0 if up is None else _UP) + attributes)


def delete_link(name: str) -> None:
    """Remove one link. A TAP goes even while a process holds it open."""
    _ask(_DELETE_LINK, _ACK, _link_header() + _attribute(_LINK_NAME, name.encode() + b"\0"))


def delete_group(group: int) -> None:
    """Remove all links of a link group in one go: the kernel waits for its readers once, not once a link."""
    _ask(_DELETE_LINK, _ACK, _link_header() + _attribute(_LINK_GROUP, struct.pack("=I", group)))


def link_names() -> list[str]:
    """The names of all links here."""
    names = []
    for kind, payload in _ask(_GET_LINK, _DUMP, _link_header()):
        if kind == _NEW_LINK:
            names += [value.rstrip(b"\0").decode() for key, value in _attributes(payload[16:]) if key == _LINK_NAME]
    return names


def add_address(name: str, address: str, prefix: int) -> None:
    """Give a link an address (nothing happens if it has it). IPv6 addresses skip duplicate detection: they are ours to give."""
    packed = ipaddress.ip_address(address).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    flags = _NO_DAD if family == socket.AF_INET6 else 0
    header = struct.pack("=BBBBi", family, prefix, flags, 0, socket.if_nametoindex(name))
    _ask(_NEW_ADDRESS, _ACK | _REPLACE | _CREATE, header + _attribute(_ADDRESS, packed) + _attribute(_LOCAL, packed))


def _link_header(*, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 0, 0, flags, change)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            return
        yield kind, data[4:length]
        data = data[length + 3 & ~3 :]


def _ask(kind: int, flags: int, payload: bytes) -> list[tuple[int, bytes]]:
    """One request; the answers' types and payloads."""
    answers: list[tuple[int, bytes]] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as channel:
        channel.settimeout(_LIMIT)
        channel.send(struct.pack("=IHHII", 16 + len(payload), kind, flags | _REQUEST, 1, 0) + payload)
        while True:
            data = channel.recv(1 << 18)
            while len(data) >= 16:
                length, answer = struct.unpack_from("=IH", data)
                if answer == _DONE:
                    return answers
                if answer == _ERROR:
                    code = -struct.unpack_from("=i", data, 16)[0]
                    if code:
                        raise OSError(code, os.strerror(code))
                    return answers
                answers.append((answer, data[16:length]))
                data = data[length + 3 & ~3 :]
