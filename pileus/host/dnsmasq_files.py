"""One DHCP server's state and what it keeps on disk: its configuration, a file a port, what is needed to start it again."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import pwd
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from pileus.host.dhcp import Entry, static_routes
from pileus.messages import SubnetWiring

LOG_CAP = 1 << 20


class Facts(msgspec.Struct):
    """What must be known of a network to start its server again (kept in network.json)."""

    mtu: int
    subnets: dict[str, SubnetWiring] = {}


@dataclass
class Server:
    """One network's server. Everything here changes only under `lock`."""

    network_id: str
    folder: Path
    namespace: str
    facts: Facts
    entries: dict[str, Entry] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    holders: dict[str, str] = field(default_factory=dict)
    """MAC or address → port id."""
    uses: Counter[str] = field(default_factory=Counter)
    """Subnet id → entries in it."""
    unproven: dict[str, int] = field(default_factory=dict)
    """Port id → where in the log the proof may begin."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    device: str = ""
    config: str = ""
    pid: int = 0
    pidfd: int = -1
    socket: socket.socket | None = None
    stale: bool = False
    """The process still knows an entry whose file is gone."""
    gone: bool = False
    waiting: int = 0
    restoring: bool = False

    @property
    def hosts(self) -> Path:
        return self.folder / "hosts"

    @property
    def epoch(self) -> Path:
        return self.hosts / "epoch"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def log_end(self) -> int:
        try:
            return self.log.stat().st_size
        except FileNotFoundError:
            return 0

    def add(self, entry: Entry, file: Path) -> None:
        self.entries[entry.port_id] = entry
        self.files[entry.port_id] = file
        self.holders[entry.mac] = self.holders[entry.address] = entry.port_id
        self.uses[entry.subnet_id] += 1

    def drop(self, port_id: str) -> Entry:
        entry = self.entries.pop(port_id)
        del self.files[port_id]
        self.unproven.pop(port_id, None)
        for key in (entry.mac, entry.address):
            if self.holders.get(key) == port_id:
                del self.holders[key]
        self.uses[entry.subnet_id] -= 1
        return entry


def configuration(folder: Path, subnets: Iterable[SubnetWiring], mtu: int, lease: int, user: str) -> str:
    """The text of dnsmasq.conf for one network. The options of a subnet are tagged with its id."""
    lines = [
        "port=0",
        "no-resolv",
        "no-hosts",
        "no-ping",
        "except-interface=lo",
        "dhcp-authoritative",
        "dhcp-ignore=tag:!known",
        "leasefile-ro",
        "dhcp-lease-max=65536",
        f"dhcp-hostsdir={folder / 'hosts'}",
        f"log-facility={folder / 'log'}",
        f"pid-file={folder / 'pid'}",
        f"user={user}",
        f"dhcp-option-force=option:mtu,{mtu}",
    ]
    for subnet in sorted(subnets, key=lambda subnet: subnet.id):
        net = ipaddress.IPv4Network(subnet.cidr)
        routes = "".join(f",{destination},{nexthop}" for destination, nexthop in static_routes(subnet))
        servers = [address for address in subnet.dns if ":" not in address]
        lines.append(f"dhcp-range=set:{subnet.id},{net.network_address},static,{net.netmask},{lease}s")
        # Without a value an option is not sent: dnsmasq would otherwise name itself as router.
        lines.append(",".join([f"dhcp-option=tag:{subnet.id},option:router", *([subnet.gateway] if subnet.gateway else [])]))
        lines.append(",".join([f"dhcp-option=tag:{subnet.id},option:dns-server", *servers]))
        if routes:
            # 249 is what Windows asked for before it knew 121.
            lines += [f"dhcp-option=tag:{subnet.id},{number}{routes}" for number in (121, 249)]
    return "\n".join(lines) + "\n"


def host_line(entry: Entry) -> str:
    parts = [entry.mac, "id:*", entry.address, *([entry.hostname] if entry.hostname else [])]
    return ",".join(parts) + "\n"


def entry_from(network_id: str, file: Path) -> Entry:
    """What was written as `host_line` into a file named port, subnet, time. Raises ValueError."""
    mac, _, address, *rest = file.read_text().strip().split(",")
    port_id, subnet_id, _ = file.name.split(".")
    return Entry(port_id, network_id, mac, address, subnet_id, "".join(rest))


def read_all(folder: Path, namespace: Callable[[str], str]) -> list[Server]:
    """The servers that the folder tells of; entries cut off by a crash are left out and removed."""
    servers = []
    for home in sorted(path for path in folder.iterdir() if path.is_dir()):
        try:
            facts = msgspec.json.decode((home / "network.json").read_bytes(), type=Facts)
        except (OSError, msgspec.MsgspecError):
            facts = Facts(mtu=1500)
        server = Server(home.name, home, namespace(home.name), facts)
        for file in sorted(server.hosts.glob("*.*")) if server.hosts.is_dir() else []:
            try:
                entry = entry_from(home.name, file)
                if entry.subnet_id not in facts.subnets or entry.port_id in server.entries:
                    raise ValueError("not whole")
                server.add(entry, file)
            except ValueError:
                file.unlink(missing_ok=True)
        servers.append(server)
    return servers


def user_for(folder: Path) -> str:
    """Who dnsmasq runs as once it has its sockets: its own user, or nobody; root only where a parent folder keeps others out."""
    if any(not path.stat().st_mode & 0o001 for path in (folder, *folder.parents)):
        return "root"
    for name in ("dnsmasq", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return "root"


def prepare(server: Server, file: Path, config: str) -> None:
    server.hosts.mkdir(mode=0o755, parents=True, exist_ok=True)
    server.folder.chmod(0o755)
    server.hosts.chmod(0o755)
    server.epoch.touch()
    for old in server.folder.glob("*.conf"):
        if old != file:
            old.unlink()
    (server.folder / "pid").unlink(missing_ok=True)
    write(server.folder, file, config.encode())


def write(folder: Path, file: Path, data: bytes) -> None:
    """A whole file or none. The temporary name begins with a dot: dnsmasq passes over such names."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = file.with_name("." + file.name)
    temporary.write_bytes(data)
    temporary.chmod(0o644)
    temporary.rename(file)


def cap_log(server: Server) -> None:
    """Empty a log that has grown too long (dnsmasq appends, so it goes on at the start), unless somebody reads it."""
    if server.log_end > LOG_CAP and not server.waiting and not server.unproven:
        os.truncate(server.log, 0)


def unlink(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
