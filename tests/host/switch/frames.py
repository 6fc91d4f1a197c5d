"""Ethernet frames by hand, and reading them from a TAP that a test holds as a guest would."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import struct

BROADCAST = "ff:ff:ff:ff:ff:ff"
LIMIT = 5.0


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ethernet(source: str, destination: str, kind: int, body: bytes) -> bytes:
    return mac(destination) + mac(source) + struct.pack("!H", kind) + body.ljust(46, b"\0")


def tagged(frame: bytes, vlan: int) -> bytes:
    return frame[:12] + struct.pack("!HH", 0x8100, vlan) + frame[12:]


def arp(
    source: str, address: str, target: str, *, claimed_mac: str | None = None, destination: str = BROADCAST, operation: int = 1
) -> bytes:
    """An ARP request (or reply) from `source` that claims `address`."""
    sender, receiver = ipaddress.ip_address(address).packed, ipaddress.ip_address(target).packed
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + mac(claimed_mac or source) + sender + bytes(6) + receiver
    return ethernet(source, destination, 0x0806, body)


def udp(source: str, destination: str, address: str, target: str, *, ports: tuple[int, int] = (5000, 5001), data: bytes = b"") -> bytes:
    """A UDP datagram over IPv4 or IPv6, as the addresses are."""
    sender, receiver = ipaddress.ip_address(address), ipaddress.ip_address(target)
    datagram = struct.pack("!HHHH", *ports, 8 + len(data), 0) + data
    if sender.version == 6:  # which takes none without a checksum
        datagram = _summed(sender.packed, receiver.packed, 17, datagram, at=6)
    return _packet(source, destination, sender.packed, receiver.packed, 17, datagram)


SYN, SYN_ACK, ACK = 0x02, 0x12, 0x10


def tcp(
    source: str, destination: str, address: str, target: str, *, ports: tuple[int, int], flags: int, at: tuple[int, int], data: bytes = b""
) -> bytes:
    """A TCP segment; `at`: sequence and acknowledgement numbers."""
    sender, receiver = ipaddress.ip_address(address).packed, ipaddress.ip_address(target).packed
    segment = struct.pack("!HHIIBBHHH", *ports, *at, 5 << 4, flags, 4096, 0, 0) + data
    return _packet(source, destination, sender, receiver, 6, _summed(sender, receiver, 6, segment, at=16))


def icmp(
    source: str, destination: str, address: str, target: str, kind: int = 8, code: int = 0, *, number: int = 1, data: bytes = b""
) -> bytes:
    """ICMP: an echo request, where nothing else is said. `number`: of the conversation."""
    packet = struct.pack("!BBHHH", kind, code, 0, number, 1) + data
    packet = packet[:2] + struct.pack("!H", _checksum(packet)) + packet[4:]
    return _packet(source, destination, ipaddress.ip_address(address).packed, ipaddress.ip_address(target).packed, 1, packet)


def unreachable(source: str, destination: str, address: str, target: str, about: bytes) -> bytes:
    """ICMP: nobody takes the datagram that this frame was."""
    inner = about[14 : 14 + 28]
    packet = struct.pack("!BBHI", 3, 3, 0, 0) + inner
    packet = packet[:2] + struct.pack("!H", _checksum(packet)) + packet[4:]
    return _packet(source, destination, ipaddress.ip_address(address).packed, ipaddress.ip_address(target).packed, 1, packet)


def ip_packet(source: str, destination: str, address: str, target: str, protocol: int, body: bytes) -> bytes:
    """Any protocol over IPv4 or IPv6."""
    return _packet(source, destination, ipaddress.ip_address(address).packed, ipaddress.ip_address(target).packed, protocol, body)


def fragments(frame: bytes, size: int) -> list[bytes]:
    """An IPv4 frame in pieces with so many bytes of its packet's body, a multiple of 8."""
    header, pieces = frame[14:34], []
    body = frame[34 : 14 + int.from_bytes(frame[16:18], "big")]
    for at in range(0, len(body), size):
        piece, more = body[at : at + size], at + size < len(body)
        cut = header[:2] + struct.pack("!HHH", 20 + len(piece), 0x4711, more << 13 | at >> 3) + header[8:10] + bytes(2) + header[12:]
        cut = cut[:10] + struct.pack("!H", _checksum(cut)) + cut[12:]
        pieces.append(frame[:14] + (cut + piece).ljust(46, b"\0"))
    return pieces


def icmpv6(source: str, destination: str, address: str, target: str, kind: int, body: bytes, *, code: int = 0) -> bytes:
    sender, receiver = ipaddress.ip_address(address).packed, ipaddress.ip_address(target).packed
    packet = _summed(sender, receiver, 58, struct.pack("!BBH", kind, code, 0) + body, at=2)
    return _packet(source, destination, sender, receiver, 58, packet, hops=255)


def solicitation(source: str, address: str, target: str, *, claimed_mac: str | None = None) -> bytes:
    body = bytes(4) + ipaddress.ip_address(target).packed
    if ipaddress.ip_address(address) != ipaddress.ip_address("::"):
        body += struct.pack("!BB", 1, 1) + mac(claimed_mac or source)
    return icmpv6(source, "33:33:ff:00:00:01", address, "ff02::1:ff00:1", 135, body)


def advertisement(source: str, address: str, target: str, *, claimed_mac: str | None = None) -> bytes:
    body = struct.pack("!I", 0x20000000) + ipaddress.ip_address(target).packed
    return icmpv6(source, "33:33:00:00:00:01", address, "ff02::1", 136, body + struct.pack("!BB", 2, 1) + mac(claimed_mac or source))


def router_advertisement(source: str, address: str) -> bytes:
    return icmpv6(source, "33:33:00:00:00:01", address, "ff02::1", 134, struct.pack("!BBHII", 64, 0, 1800, 0, 0))


def dhcp_request(source: str) -> bytes:
    return udp(source, BROADCAST, "0.0.0.0", "255.255.255.255", ports=(68, 67), data=b"\1" + bytes(240))


def _packet(source: str, destination: str, sender: bytes, receiver: bytes, kind: int, body: bytes, *, hops: int = 64) -> bytes:
    if len(sender) == 16:
        header = struct.pack("!IHBB", 6 << 28, len(body), kind, hops) + sender + receiver
        return ethernet(source, destination, 0x86DD, header + body)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, hops, kind, 0) + sender + receiver
    header = header[:10] + struct.pack("!H", _checksum(header)) + header[12:]
    return ethernet(source, destination, 0x0800, header + body)


def udp_sum_is_right(frame: bytes) -> bool:
    """Whether an IPv4 UDP datagram carries the checksum of RFC 768: none does that was left to a network card to sum."""
    length = int.from_bytes(frame[16:18], "big") - 20
    datagram = frame[34 : 34 + length]
    return datagram[6:8] != bytes(2) and _checksum(frame[26:34] + struct.pack("!HH", 17, length) + datagram) == 0


def _summed(sender: bytes, receiver: bytes, kind: int, packet: bytes, *, at: int) -> bytes:
    """With the checksum of TCP, UDP and ICMPv6 at its place, over the addresses, too."""
    pseudo = sender + receiver + struct.pack("!II", len(packet), kind)
    return packet[:at] + struct.pack("!H", _checksum(pseudo + packet)) + packet[at + 2 :]


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def send(fd: int, frame: bytes) -> None:
    assert os.write(fd, frame) == len(frame)


async def receive(fd: int) -> bytes:
    """The next frame that comes out of a TAP."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(LIMIT):
        while True:
            try:
                return os.read(fd, 4096)
            except BlockingIOError:
                ready = asyncio.Event()
                loop.add_reader(fd, ready.set)
                try:
                    await ready.wait()
                finally:
                    loop.remove_reader(fd)


async def received_until(fd: int, last: bytes) -> list[bytes]:
    """All frames out of a TAP before `last`, which was sent after what the test asks about: so nothing else can still come."""
    frames = []
    while (frame := await receive(fd)) != last:
        frames.append(frame)
    return frames


async def pass_soon(sender: int, receiver: int, frame: bytes, *, arrives: bytes | None = None) -> list[bytes]:
    """Send until it arrives (as `arrives`), and give what came before: the switch's cache of paths is milliseconds behind its tables."""

    async def repeat() -> None:
        while True:
            send(sender, frame)
            await asyncio.sleep(0.002)

    repeating = asyncio.ensure_future(repeat())
    try:
        return await received_until(receiver, arrives or frame)
    finally:
        repeating.cancel()
        await asyncio.wait([repeating])
