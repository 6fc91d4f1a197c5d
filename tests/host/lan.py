"""A stand-in for the switch, and a DHCP client: what the tests of DHCP need, made of namespaces and veth pairs."""

from __future__ import annotations

import asyncio
import ctypes
import secrets
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

from pileus.host.switch import Switch

T = TypeVar("T")


class Lan:
    """The part of the switch seam that DHCP uses. A network is a veth pair: one end is the server's device, at the other
    end `ask` speaks for any MAC."""

    def __init__(self) -> None:
        self.namespace = f"lan-{secrets.token_hex(3)}"
        self.macs: dict[str, str] = {}
        self.removed: list[str] = []
        ip("netns", "add", self.namespace)

    def as_switch(self) -> Switch:
        return cast(Switch, self)

    async def dhcp_device(self, network_id: str, namespace: str, mac: str, mtu: int) -> str:
        self.macs[network_id] = mac
        return await asyncio.to_thread(self._device, network_id, namespace, mac, mtu)

    async def remove_dhcp_device(self, network_id: str, namespace: str) -> None:
        self.removed.append(network_id)
        await asyncio.to_thread(ip, "-n", self.namespace, "link", "del", _peer(network_id), check=False)

    def _device(self, network_id: str, namespace: str, mac: str, mtu: int) -> str:
        name = f"d-{network_id[:8]}"
        if ip("-n", namespace, "link", "show", name, check=False) != 0:
            ip("-n", self.namespace, "link", "add", _peer(network_id), "mtu", str(mtu), "type", "veth",
               "peer", "name", name, "netns", namespace, "address", mac, "mtu", str(mtu))  # fmt: skip
            ip("-n", self.namespace, "link", "set", _peer(network_id), "up")
            ip("-n", namespace, "link", "set", name, "up")
        return name

    def tap(self, network_id: str) -> str:
        """A TAP in our namespace that is bridged with the network."""
        for arguments in (
            ("link", "add", "lan", "type", "bridge"),
            ("tuntap", "add", "tap0", "mode", "tap"),
            ("link", "set", "tap0", "master", "lan", "up"),
            ("link", "set", _peer(network_id), "master", "lan"),
            ("link", "set", "lan", "up"),
        ):
            ip("-n", self.namespace, *arguments)
        return "tap0"

    def client(self, network_id: str, mac: str, client_id: bytes = b"") -> Client:
        return Client(inside(self.namespace, lambda: _raw_socket(_peer(network_id))), mac, client_id)

    def close(self) -> None:
        ip("netns", "del", self.namespace)


@dataclass
class Answer:
    kind: int
    address: str
    server: str
    options: dict[int, bytes]


@dataclass
class Client:
    """A DHCP client (RFC 2131) on a raw socket, so that it can have any MAC."""

    socket: socket.socket
    mac: str
    client_id: bytes = b""
    lease: Answer | None = field(default=None)

    def lease_now(self, limit: float = 5.0) -> Answer:
        """DISCOVER, OFFER, REQUEST, ACK. Raises TimeoutError."""
        offer = self.exchange(1, {}, limit)
        assert offer.kind == 2
        self.lease = self.exchange(3, {50: socket.inet_aton(offer.address), 54: socket.inet_aton(offer.server)}, limit)
        return self.lease

    def exchange(self, kind: int, options: dict[int, bytes], limit: float) -> Answer:
        """Send one message, again after each half second, until its answer comes."""
        xid, deadline = secrets.randbits(32), time.monotonic() + limit
        while (left := deadline - time.monotonic()) > 0:
            self.socket.send(self._frame(kind, xid, options))
            again = time.monotonic() + min(left, 0.5)
            while (wait := again - time.monotonic()) > 0:
                self.socket.settimeout(wait)
                try:
                    answer = _parse(self.socket.recv(4096), xid)
                except TimeoutError:
                    break
                if answer is not None:
                    return answer
        raise TimeoutError(f"no answer to DHCP message {kind} of {self.mac}")

    def close(self) -> None:
        self.socket.close()

    def _frame(self, kind: int, xid: int, options: dict[int, bytes]) -> bytes:
        mac = bytes.fromhex(self.mac.replace(":", ""))
        options = {53: bytes([kind]), 55: bytes([1, 3, 6, 12, 26, 51, 121]), **options}
        if self.client_id:
            options[61] = self.client_id
        body = struct.pack("!BBBBIHH16x16s192x", 1, 1, 6, 0, xid, 0, 0, mac) + b"\x63\x82\x53\x63"
        body += b"".join(bytes([code, len(data)]) + data for code, data in options.items()) + b"\xff"
        udp = struct.pack("!HHHH", 68, 67, 8 + len(body), 0) + body
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), b"\xff" * 4)
        total = sum(struct.unpack("!10H", head))
        total = (total & 0xFFFF) + (total >> 16)
        head = head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:]
        return b"\xff" * 6 + mac + b"\x08\x00" + head + udp


def _parse(frame: bytes, xid: int) -> Answer | None:
    if frame[12:14] != b"\x08\x00" or frame[23] != 17 or frame[34:38] != b"\x00\x43\x00\x44":
        return None
    body = frame[42:]
    if struct.unpack("!I", body[4:8])[0] != xid:
        return None
    options, at = {}, 240
    while body[at] != 255:
        if body[at]:
            options[body[at]] = body[at + 2 : at + 2 + body[at + 1]]
            at += 1 + body[at + 1]
        at += 1
    return Answer(options[53][0], socket.inet_ntoa(body[16:20]), socket.inet_ntoa(options[54]), options)


def inside(namespace: str, work: Callable[[], T]) -> T:
    """Do something in a network namespace, in a thread that ends with it."""
    results: list[T] = []

    def run() -> None:
        with Path(f"/run/netns/{namespace}").open() as handle:
            assert ctypes.CDLL(None).setns(handle.fileno(), 0x40000000) == 0
        results.append(work())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


def ip(*arguments: str, check: bool = True) -> int:
    return subprocess.run(["ip", *arguments], check=check, capture_output=True).returncode


def _raw_socket(device: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    made.bind((device, 0))
    return made


def _peer(network_id: str) -> str:
    return f"p-{network_id[:8]}"
