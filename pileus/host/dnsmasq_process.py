"""A running dnsmasq: finding it, setting up its namespace, starting it, and the proof in its log that it has done something."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import secrets
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from pileus.host import netlink
from pileus.host.dnsmasq_files import Facts, Server

COMMAND_LIMIT = 10.0
PROOF_LIMIT = 5.0


def release_packet(mac: str, address: str, server: str) -> bytes:
    """A DHCPRELEASE (RFC 2131, table 5) in the name of the client with this MAC."""
    head = struct.pack(
        "!BBBBIHH4s4s4s4s16s192x",
        1, 1, 6, 0, secrets.randbits(32), 0, 0,
        socket.inet_aton(address), bytes(4), bytes(4), bytes(4), bytes.fromhex(mac.replace(":", "")),
    )  # fmt: skip
    return head + b"\x63\x82\x53\x63" + b"\x35\x01\x07" + b"\x36\x04" + socket.inet_aton(server) + b"\xff"


def running(folder: Path) -> dict[str, list[tuple[int, Path]]]:
    """Network id → process ids, with their configuration files, of the servers started out of this folder."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "dnsmasq" in Path(arguments[0]).name:
                for argument in arguments[1:]:
                    file = Path(argument.removeprefix("--conf-file="))
                    if file.parent.parent == folder:
                        found.setdefault(file.parent.name, []).append((int(process.name), file))
    return found


def kill(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def let_go(server: Server) -> None:
    if server.pidfd >= 0:
        asyncio.get_running_loop().remove_reader(server.pidfd)
        os.close(server.pidfd)
    if server.socket is not None:
        server.socket.close()
    server.pid, server.pidfd, server.config, server.socket = 0, -1, "", None


def device_of(pid: int) -> str:
    """The one device, beside `lo`, of a process's network namespace. Raises OSError and ValueError."""
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    (name,) = {line.split(":")[0].strip() for line in lines} - {"lo"}
    return name


def reachable(server: Server) -> bool:
    """Whether the process's namespace still has the device, up and with its addresses. (A switch that is started anew can
    lose its internal devices.)"""
    try:
        return _wanted_routes(server.facts, server.device) <= _routes(Path(f"/proc/{server.pid}/net/route"))
    except OSError:
        return False


def has_strange_address(device: str, facts: Facts) -> bool:
    """Whether the device, in the calling thread's namespace, carries an address that no subnet of the server has."""
    routes = _routes(Path("/proc/thread-self/net/route"))
    return any(route[0] == device and route not in _wanted_routes(facts, device) for route in routes)


def equip(device: str, facts: Facts) -> socket.socket:
    """Give the device, in the calling thread's namespace, its addresses, and open the socket that releases leases: bound to
    the device, so that to dnsmasq its packets came in there. Raises OSError."""
    # A new namespace inherits forwarding from the machine: the server's must not join two subnets of its network.
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
    for subnet in facts.subnets.values():
        if subnet.dhcp_address:
            netlink.add_address(device, subnet.dhcp_address, ipaddress.IPv4Network(subnet.cidr).prefixlen)
    netlink.set_link(device, up=True)
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


def spawn(program: str, configuration: Path) -> None:
    """Start dnsmasq in the calling thread's namespace. It returns when the daemon it leaves, in a session of its own, has
    its sockets. Raises OSError with what it had to say."""
    try:
        done = subprocess.run([program, f"--conf-file={configuration}"], capture_output=True, timeout=COMMAND_LIMIT, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(f"dnsmasq did not start within {COMMAND_LIMIT:.0f} s") from None
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        said = words[-1] if words else f"dnsmasq ended with exit code {done.returncode}"
        # Each server needs one of these, and most systems allow a user no more than 128.
        raise OSError(f"{said}; raise the sysctl fs.inotify.max_user_instances" if "inotify" in said else said)


def _routes(file: Path) -> set[tuple[str, str]]:
    """Device and destination of each route. An address on a device that is up gives one to its subnet."""
    return {(row.split()[0], row.split()[1]) for row in file.read_text().splitlines()[1:]}


def _wanted_routes(facts: Facts, device: str) -> set[tuple[str, str]]:
    nets = [ipaddress.IPv4Network(subnet.cidr).network_address.packed for subnet in facts.subnets.values()]
    return {(device, f"{int.from_bytes(net, 'little'):08X}") for net in nets}


async def proof(server: Server, since: int, lines: Sequence[str], pid: int = 0) -> bool:
    """Wait until the log, from `since` on, holds all these lines, or until the process `pid` is no longer the server.

    The log is a file in the page cache: reading its end does not block.
    """
    deadline = time.monotonic() + PROOF_LIMIT
    missing, text, delay = set(lines), "", 0.0005
    server.waiting += 1
    try:
        with server.log.open("rb") as file:
            while True:
                file.seek(since)
                data = file.read()
                since += len(data)
                text += data.decode(errors="replace")
                missing = {line for line in missing if line not in text}
                if not missing:
                    return True
                if time.monotonic() > deadline or (pid and server.pid != pid):
                    return False
                text = text[text.rfind("\n") + 1 :]
                await asyncio.sleep(delay)
                delay = min(delay * 1.5, 0.02)
    except FileNotFoundError:
        return False
    finally:
        server.waiting -= 1


async def readable(fd: int, limit: float) -> bool:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        async with asyncio.timeout(limit):
            await ready.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return True
