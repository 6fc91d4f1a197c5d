"""The switch seam on Open vSwitch, userspace datapath: plug is a row in its database, wire is an OpenFlow bundle.

What stands is read back from the switch itself (Interface rows, marker flows), so another process can take over at any instant. A
supervisor holds the connections, starts our own daemons again when they die, and lays the tables anew when they were lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

import structlog

from pileus import settings
from pileus.errors import StartupError
from pileus.host import netlink, privileged
from pileus.host.chores import Chores
from pileus.host.privileged import Namespace, tap_name
from pileus.host.switch import Filter, FlowDeletion, SwitchError, SwitchPort, Tap, rows, underlay
from pileus.host.switch.bridge import BridgeError
from pileus.host.switch.daemons import borrow_device, database_socket, namespace_name, start_daemons
from pileus.host.switch.database import Database
from pileus.host.switch.networks import Tunnel
from pileus.host.switch.pipeline import Pipeline, Uplink
from pileus.host.switch.rows import Plugged
from pileus.host.switch.sockets import SwitchGone
from pileus.host.switch.tables import DHCP_KIND, PORT_KIND, cookie
from pileus.host.switch.taps import open_tap
from pileus.host.switch.watching import Watches
from pileus.messages import PortWiring

_CONNECT_LIMIT = 10.0
_BACK_LIMIT = 30.0
_TRIES = 5
_RETRY = 0.02
_PAUSE = 0.2

_DHCP_PREFIX = "dhcp"

T = TypeVar("T")

_log = structlog.get_logger()


class OpenVSwitch:
    """See `Switch`. With `settings.switch_db` a running Open vSwitch is used, in our network namespace; without, daemons of our own
    in `folder`, in a namespace of theirs. `open_tap` gives fd -1 where a guest already holds the TAP."""

    on_reset: Callable[[], None] | None = None

    def __init__(self, folder: Path, settings: settings.Host) -> None:
        self._underlay = underlay.read(settings)
        self.tunnel_address = self._underlay.address if self._underlay else ""
        self._folder = folder
        self._own = not settings.switch_db
        self._switch_db = settings.switch_db
        self._mappings = settings.bridge_mappings
        self._bridge = settings.bridge
        socket = database_socket(folder) if self._own else Path(settings.switch_db.removeprefix("unix:"))
        self._run_folder = socket.parent
        self._namespace = Namespace(namespace_name(folder) if self._own else "")
        self._greeted: set[str] = set()
        self._watches = Watches()
        self._pipeline = Pipeline(self._lost)
        self._database = Database(socket, self._bridge, on_port=self._port_changed, on_lost=self._lost)
        self._up = asyncio.Event()
        self._trouble = asyncio.Event()
        self._chores = Chores()

    # --- Coming and going

    async def start(self) -> None:
        if not self._own and not self._switch_db.startswith("unix:"):
            raise StartupError(f"host.switch_db: {self._switch_db!r} is no unix socket; write it as unix:PATH")
        if self._own:
            await start_daemons(self._folder)
        try:
            await self._database.start(limit=_CONNECT_LIMIT)
        except TimeoutError:
            raise StartupError(f"no Open vSwitch database answers at {self._run_folder}") from None
        except SwitchError as error:
            raise StartupError(f"Open vSwitch: {error}") from None
        try:
            await self._establish()
            await self._drop_strangers()
        except (SwitchError, BridgeError, OSError, TimeoutError) as error:
            await self.close()
            raise StartupError(f"Open vSwitch: {error}") from None
        except BaseException:
            await self.close()
            raise
        self._chores.start(self._supervise(), "switch-supervisor")

    async def close(self) -> None:
        await self._chores.close(patience=0)
        self._pipeline.close()
        await self._database.close()
        self._namespace.close()

    async def _make_bridges(self) -> None:
        await self._database.ensure_bridge(self._bridge, {})
        for bridge in self._database.bridges(prefix="br-"):
            if self._database.bridge_note(bridge, "pileus-physnet-of") == self._bridge and bridge not in self._physical_bridges():
                await self._database.remove_bridge(bridge)
        for physical, device in self._mappings.items():
            names = _physical_names(physical)
            await self._borrow(device, "host.bridge_mappings")
            await self._database.ensure_bridge(names.bridge, {"pileus-physnet-of": self._bridge})
            await self._database.ensure_port(names.bridge, device)
            await self._database.ensure_port(self._bridge, names.near, kind="patch", options={"peer": names.far})
            await self._database.ensure_port(names.bridge, names.far, kind="patch", options={"peer": names.near})
            if self._own:
                await self._namespace.run(netlink.set_link, device, up=True)
        if self._underlay is not None and self._underlay.device:
            await self._borrow(self._underlay.device, "host.tunnel_device")
        await underlay.ensure(self._database, self._namespace, self._bridge, self._underlay)
        await self._database.apply()

    async def _borrow(self, device: str, setting: str) -> None:
        if self._own and not await self._namespace.run(privileged.link_exists, device):
            await asyncio.to_thread(borrow_device, self._folder, device, setting)

    async def _establish(self) -> bool:
        """Connect to the bridges and learn what is wired; True when the tables had to be laid anew."""
        if self._pipeline.connected:
            self._up.set()
            return False
        self._greeted.clear()
        # When this returns the bridges are configured in full: port numbers mean what the database says.
        await self._make_bridges()
        try:
            await self._pipeline.connect(self._run_folder, self._bridge, self._physical_bridges(), limit=_CONNECT_LIMIT)
            lost = not await self._pipeline.read()
            if lost:
                await self._pipeline.reset()
        except BaseException:
            self._pipeline.close()
            raise
        self._up.set()
        if lost:
            await self._wire_dhcp_devices()
        return lost

    async def _wire_dhcp_devices(self) -> None:
        """They have no owner who does it when tables were lost: theirs is a server that knows nothing of flows."""
        for device in list(self._database.plugged.values()):
            if device.namespace and device.ofport > 0:
                try:
                    await self._pipeline.wire_dhcp(device)
                except SwitchError as error:
                    _log.warning("DHCP device is not back", network=device.network_id, cause=str(error))

    def _lost(self) -> None:
        self._up.clear()
        self._trouble.set()

    async def _supervise(self) -> None:
        while True:
            await self._trouble.wait()
            self._trouble.clear()
            self._up.clear()
            try:
                if self._own:
                    await start_daemons(self._folder)
                await self._database.connected(_CONNECT_LIMIT)
                reset = await self._establish()
            except (StartupError, SwitchError, BridgeError, OSError, TimeoutError) as error:
                _log.warning("switch is not back yet", cause=str(error))
                await asyncio.sleep(_PAUSE)
                self._trouble.set()
                continue
            _log.info("switch is back", tables_lost=reset)
            if reset and self.on_reset is not None:
                self.on_reset()

    async def _drop_strangers(self) -> None:
        """What a process left that was killed while it worked: flows without a port, TAPs without a port or a holder, pairs."""
        standing = self._database.plugged.values()
        await self._pipeline.drop_strangers(
            {_cookie(plugged) for plugged in standing},
            {(plugged.network_id, plugged.tag) for plugged in standing},
            tunnels=self._underlay is not None,
        )
        if self._own:
            await self._namespace.run(_delete_strays, {plugged.name for plugged in standing})

    async def _persist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something that needs the switch; where that goes away meanwhile, wait until it is back, and do it again."""
        with contextlib.suppress(TimeoutError):
            for _ in range(_TRIES):
                async with asyncio.timeout(_BACK_LIMIT):
                    await self._up.wait()
                try:
                    return await work()
                except SwitchGone:
                    # Whoever noticed it tells the supervisor, a moment later at most.
                    await asyncio.sleep(_RETRY)
        raise SwitchError(f"Open vSwitch was not there for {_BACK_LIMIT:.0f} s, or went away again and again")

    # --- Ports

    async def open_tap(self, port_id: str, mtu: int) -> Tap:
        return await open_tap(self._namespace, port_id, mtu)

    async def plug(self, port: PortWiring) -> None:
        await self._persist(lambda: self._plug(port))

    async def _plug(self, port: PortWiring) -> None:
        name = tap_name(port.port_id)
        index = await self._namespace.run(privileged.link_index, name)
        standing = self._database.plugged.get(name)
        if standing is not None and standing.port_id != port.port_id:
            raise SwitchError(f"TAP {name} belongs to port {standing.port_id} already: the two ids begin alike")
        await self._renew(name, index, cookie(PORT_KIND, port.port_id))
        await self._database.add_port(name, port.network_id, lambda tag: rows.port_notes(port, index, self._bridge, tag))

    async def wire(self, port: PortWiring, rules: Filter | None = None) -> None:
        await self._persist(lambda: self._wire(port, rules))

    async def _wire(self, port: PortWiring, rules: Filter | None) -> None:
        plugged = self._database.plugged.get(tap_name(port.port_id))
        if plugged is None or plugged.ofport <= 0:
            raise SwitchError(f"port {port.port_id} is not plugged here")
        await self._pipeline.wire(port, plugged.ofport, plugged.tag, self._way(port), rules)

    async def address_set(self, set_id: str, addresses: Collection[str]) -> None:
        await self._persist(lambda: self._pipeline.sets.tell(set_id, addresses))

    async def change_set(self, set_id: str, joined: Collection[str], left: Collection[str]) -> None:
        await self._persist(lambda: self._pipeline.sets.change(set_id, joined, left))

    async def drop_sets(self, set_ids: Collection[str]) -> None:
        await self._persist(lambda: self._pipeline.sets.drop(set_ids))

    async def members(self, network_id: str, addresses: Collection[str]) -> None:
        addresses = underlay.addresses(addresses)
        strangers = addresses - self._greeted
        if strangers and self._underlay is not None and self._underlay.device:
            self._greeted |= strangers
            await self._namespace.run(underlay.greet, strangers)
        await self._persist(lambda: self._pipeline.members(network_id, addresses))

    async def unplug(self, port_ids: Sequence[str], *, deletion: FlowDeletion = "deferred") -> None:
        names = [tap_name(port_id) for port_id in port_ids]
        cookies = [cookie(PORT_KIND, port_id) for port_id in port_ids]
        if deletion == "blocking":
            await self._persist(lambda: self._pipeline.delete_one_by_one(cookies))
        await self._persist(lambda: self._remove(names, cookies))
        try:
            await self._namespace.run(privileged.delete_links, names)
        except OSError as error:
            raise SwitchError(f"TAPs cannot be removed: {error.strerror or error}") from None

    async def ports(self) -> list[SwitchPort]:
        await self._persist(self._pipeline.refresh)
        return self._ports()

    async def drop_taps(self, spared: Collection[str]) -> None:
        if self._own:
            known = {plugged.name for plugged in self._database.plugged.values()} | {tap_name(port_id) for port_id in spared}
            await self._namespace.run(_delete_taps, known)

    def watch(self) -> AsyncIterator[SwitchPort]:
        return self._watches.add(port for port in self._ports() if self._database.number(port.tap) > 0)

    async def _remove(self, names: list[str], cookies: list[int]) -> None:
        await self._database.settled(names)
        with self._database.tags.leaving(names):
            await self._pipeline.unwire(cookies, lambda: self._database.unused_networks(names))
            await self._database.delete_ports(names)

    async def _renew(self, name: str, index: int, own: int) -> None:
        """Remove a row whose device the switch could not take, or has lost: it needs a fresh row then."""
        standing = self._database.plugged.get(name)
        if standing is not None and (standing.ofport < 0 or standing.device_index != index):
            await self._remove([name], [own])

    def _ports(self) -> list[SwitchPort]:
        return [self._switch_port(plugged) for plugged in self._database.plugged.values() if plugged.port_id]

    def _switch_port(self, plugged: Plugged) -> SwitchPort:
        mark = self._pipeline.marks.get(_cookie(plugged))
        stands = mark is not None and (mark.ofport, mark.tag) == (plugged.ofport, plugged.tag)
        return SwitchPort(plugged.port_id, plugged.name, plugged.generation, mark.generation if mark and stands else 0)

    def _port_changed(self, before: Plugged | None, after: Plugged | None) -> None:
        if after is None:
            if before is not None:
                self._watches.drop(before.port_id)
        elif after.port_id and after.ofport > 0:
            known = before is not None and before.ofport > 0 and before.generation == after.generation
            if not known:
                self._watches.put(self._switch_port(after))

    # --- Other hosts

    def _way(self, port: PortWiring) -> Uplink | Tunnel | None:
        """How the port's network leaves this host."""
        return self._uplink(port) if port.network_type == "vlan" else self._tunnel(port)

    def _tunnel(self, port: PortWiring) -> Tunnel | None:
        if self._underlay is None or port.network_type not in underlay.PORTS:
            return None
        number = self._database.number(underlay.PORTS[port.network_type])
        if number <= 0 or port.segmentation_id is None:
            raise SwitchError(f"the switch cannot make {port.network_type} tunnels at {self.tunnel_address}")
        return Tunnel(number, port.segmentation_id, self._underlay.interface.version == 6)

    def _physical_bridges(self) -> list[str]:
        return [_physical_names(physical).bridge for physical in self._mappings]

    def _uplink(self, port: PortWiring) -> Uplink:
        device = self._mappings.get(port.physical_network or "")
        if device is None or port.segmentation_id is None:
            raise SwitchError(f"this host has no device for physical network {port.physical_network!r}: add one to host.bridge_mappings")
        names = _physical_names(port.physical_network or "")
        near, far, out = (self._database.number(name) for name in (names.near, names.far, device))
        if min(near, far, out) <= 0:
            raise SwitchError(f"the switch cannot use device {device!r} of physical network {port.physical_network!r}")
        return Uplink(names.bridge, near, far, out, port.segmentation_id)

    # --- DHCP

    async def dhcp_device(self, network_id: str, namespace: str, mac: str, mtu: int) -> str:
        """One end of a pair whose other end is a switch port: unlike an internal port it outlives the switch's processes, with
        the server's addresses and sockets on it."""
        name = _dhcp_name(network_id)

        async def make() -> None:
            index = await self._make_pair(name, namespace, mac, mtu)

            def notes(tag: int) -> dict[str, str]:
                return rows.dhcp_notes(network_id, mac, namespace, index, self._bridge, tag)

            await self._renew(name, index, cookie(DHCP_KIND, network_id))
            await self._pipeline.wire_dhcp(await self._database.add_port(name, network_id, notes))

        await self._persist(make)
        return name

    async def remove_dhcp_device(self, network_id: str, namespace: str) -> None:
        name = _dhcp_name(network_id)
        await self._persist(lambda: self._remove([name], [cookie(DHCP_KIND, network_id)]))
        try:
            await self._namespace.run(privileged.delete_links, [name])
        except OSError as error:
            raise SwitchError(f"DHCP device {name} in namespace {namespace}: {error.strerror or error}") from None

    async def _make_pair(self, name: str, namespace: str, mac: str, mtu: int) -> int:
        there = Namespace(namespace)
        try:
            index = await self._namespace.run(privileged.ensure_pair, name, namespace, mtu=mtu)
            await there.run(privileged.set_end, name, mac=mac, mtu=mtu)
        except OSError as error:
            raise SwitchError(f"DHCP device {name} in namespace {namespace}: {error.strerror or error}") from None
        finally:
            there.close()
        return index


class _PhysicalNames:
    """Of a physical network's bridge and the patch pair to it. Long names are cut, and told apart by a hash."""

    def __init__(self, physical: str) -> None:
        short = physical if len(physical) <= 11 else physical[:6] + hashlib.blake2b(physical.encode(), digest_size=2).hexdigest()
        self.bridge, self.near, self.far = f"br-{short}", f"int-{short}", f"phy-{short}"


def _physical_names(physical: str) -> _PhysicalNames:
    return _PhysicalNames(physical)


def _dhcp_name(network_id: str) -> str:
    return _DHCP_PREFIX + network_id[:11]


def _cookie(plugged: Plugged) -> int:
    return cookie(PORT_KIND, plugged.port_id) if plugged.port_id else cookie(DHCP_KIND, plugged.network_id)


def _delete_strays(known: set[str]) -> None:
    _delete_taps(known)
    privileged.delete_links([name for name in netlink.link_names() if name.startswith(_DHCP_PREFIX) and name not in known])


def _delete_taps(known: set[str]) -> None:
    privileged.delete_links([name for name in privileged.list_taps() if name not in known and not privileged.tap_is_held(name)])
