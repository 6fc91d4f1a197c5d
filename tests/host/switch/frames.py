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
    return _packet(source, destination, sender.packed, receiver.packed, 17, datagram)


def icmpv6(source: str, destination: str, address: str, target: str, kind: int, body: bytes) -> bytes:
    sender, receiver = ipaddress.ip_address(address).packed, ipaddress.ip_address(target).packed
    packet = struct.pack("!BBH", kind, 0, 0) + body
    pseudo = sender + receiver + struct.pack("!II", len(packet), 58)
    packet = packet[:2] + struct.pack("!H", _checksum(pseudo + packet)) + packet[4:]
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
