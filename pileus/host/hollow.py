"""What hollow hosts hold, kept on disk: a killed process finds guests and ports again, as on a real machine.

One SQLite file for all hosts of a process, written as things happen. It is not synchronised: what a killed process had written is in the
kernel's cache, and a machine that loses power loses its hollow guests, too. A write takes tens of microseconds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from pileus.errors import StartupError
from pileus.host.hypervisor.simulated import SimulatedGuest
from pileus.host.hypervisor.simulated import World as Guests
from pileus.host.switch import SwitchPort
from pileus.host.switch.simulated import World as Ports
from pileus.messages import GuestSpec

TABLES = """
create table if not exists guests (
    host text, server text, spec blob, generation int, power text, boots int, booted int, primary key (host, server)
) without rowid;
create table if not exists ports (
    host text, port text, network text, tap text, generation int, wired int, primary key (host, port)
) without rowid;
create table if not exists flows (host text, port text, count int, sets text, primary key (host, port)) without rowid;
create table if not exists members (host text, name text, address text, primary key (host, name, address)) without rowid;
"""
_GUEST = "insert or replace into guests values (?, ?, ?, ?, ?, ?, ?)"
_GUEST_GONE = "delete from guests where host = ? and server = ?"
_PORT = "insert or replace into ports values (?, ?, ?, ?, ?, ?)"
_PORT_GONE = "delete from ports where host = ? and port = ?"
_FLOWS = "insert or replace into flows values (?, ?, ?, ?)"
_FLOWS_GONE = "delete from flows where host = ? and port = ?"
_MEMBER = "insert or ignore into members values (?, ?, ?)"
_MEMBER_GONE = "delete from members where host = ? and name = ? and address = ?"


class Ledger:
    """The file. Its calls block, for less than a thread would take to be asked."""

    def __init__(self, path: Path) -> None:
        """Raises StartupError."""
        self._users = 0
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
            self._database.execute("pragma journal_mode = wal")
            self._database.execute("pragma synchronous = off")
            # One process at a time: the second one would think that it has the same guests.
            self._database.execute("pragma locking_mode = exclusive")
            self._database.executescript(TABLES)
        except (sqlite3.Error, OSError) as error:
            raise StartupError(f"hollow hosts' file {path}: {error}") from None
        self._decode = msgspec.msgpack.Decoder(GuestSpec).decode
        self._encode = msgspec.msgpack.Encoder().encode

    def join(self) -> None:
        """One more host that is kept here."""
        self._users += 1

    def leave(self) -> None:
        """With its last host the file is closed."""
        self._users -= 1
        if self._users == 0:
            self._database.close()

    def guests(self, host: str) -> KeptGuests:
        """The guests of one host, as they were left."""
        world = KeptGuests(self, host)
        found = self._database.execute("select server, spec, generation, power, boots, booted from guests where host = ?", (host,))
        for server, spec, generation, power, boots, booted in found:
            world.guests[server] = SimulatedGuest(self._decode(spec), generation, power, bool(booted), boots)
        return world

    def ports(self, host: str) -> KeptPorts:
        """The switch of one host, as it was left."""
        world = KeptPorts(self, host)
        found = self._database.execute("select port, network, tap, generation, wired from ports where host = ?", (host,))
        for port, network, tap, generation, wired in found:
            world.taps.add(tap)
            world.ports[port] = SwitchPort(port, tap, generation, wired)
            world.networks[port] = network
            if wired:
                world.wired_networks.add(network)
        for port, count, sets in self._database.execute("select port, count, sets from flows where host = ?", (host,)):
            world.port_flows[port] = count
            world.named[port] = frozenset(msgspec.json.decode(sets))
        members: dict[str, set[str]] = {}
        for name, address in self._database.execute("select name, address from members where host = ?", (host,)):
            members.setdefault(name, set()).add(address)
        needed = {name for named in world.named.values() for name in named}
        for name, addresses in members.items():
            if name in needed:
                world.sets[name] = addresses
            else:  # left by a process that was killed before it dropped them
                self.write_members(host, name, (), addresses)
        return world

    def write_guest(self, host: str, server: str, guest: SimulatedGuest | None) -> None:
        if guest is None:
            self._database.execute(_GUEST_GONE, (host, server))
            return
        values = (host, server, self._encode(guest.spec), guest.generation, guest.power, guest.boots, guest.booted)
        self._database.execute(_GUEST, values)

    def write_port(self, host: str, port_id: str, port: SwitchPort | None, network: str) -> None:
        if port is None:
            self._database.execute(_PORT_GONE, (host, port_id))
        else:
            self._database.execute(_PORT, (host, port_id, network, port.tap, port.generation, port.wired))

    def write_flows(self, host: str, port_id: str, count: int, named: Collection[str]) -> None:
        if count:
            self._database.execute(_FLOWS, (host, port_id, count, msgspec.json.encode(sorted(named))))
        else:
            self._database.execute(_FLOWS_GONE, (host, port_id))

    def write_members(self, host: str, set_id: str, joined: Collection[str], left: Collection[str]) -> None:
        self._database.execute("begin")
        self._database.executemany(_MEMBER_GONE, [(host, set_id, address) for address in left])
        self._database.executemany(_MEMBER, [(host, set_id, address) for address in joined])
        self._database.execute("commit")


class KeptGuests(Guests):
    def __init__(self, ledger: Ledger, host: str) -> None:
        super().__init__()
        self._ledger, self._host = ledger, host

    def changed(self, server_id: str) -> None:
        self._ledger.write_guest(self._host, server_id, self.guests.get(server_id))


class KeptPorts(Ports):
    def __init__(self, ledger: Ledger, host: str) -> None:
        super().__init__()
        self._ledger, self._host = ledger, host

    def changed(self, port_ids: Sequence[str]) -> None:
        for port_id in port_ids:
            self._ledger.write_port(self._host, port_id, self.ports.get(port_id), self.networks.get(port_id, ""))
            self._ledger.write_flows(self._host, port_id, self.port_flows.get(port_id, 0), self.named.get(port_id, frozenset()))

    def set_changed(self, set_id: str, joined: Collection[str], left: Collection[str]) -> None:
        self._ledger.write_members(self._host, set_id, joined, left)

    def lost(self) -> None:
        for set_id, addresses in self.sets.items():
            self._ledger.write_members(self._host, set_id, (), addresses)
        super().lost()
