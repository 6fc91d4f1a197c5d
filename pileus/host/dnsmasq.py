"""DHCP by dnsmasq: one server a network and host, each in a namespace of its own, detached, so that it outlives us.

How dnsmasq 2.89 and 2.90 behave, found by trying, and what follows from it:

- A new file in `dhcp-hostsdir` is read at once (inotify) and logged as `read PATH` before any later packet is looked at:
  that line is the proof `ensure` waits for. A port has a file of its own, so adding one costs the same however many there are.
- A removed or changed file is *not* forgotten, and its address is refused to others, until SIGHUP. After SIGHUP all
  files are read in one go: the line of `epoch`, a file without entries, proves that what was removed is forgotten.
- A tag set in a `dhcp-host` entry makes the SIGHUP after the first lease a segmentation fault (2.90): tags come from the ranges.
- File names are never used twice: `read PATH` is logged for a removal too.
- A lease blocks its address for another MAC. Leases live in memory only (`leasefile-ro`; every address is static, so a
  restarted server acknowledges what its clients hold). A DHCPRELEASE made by us ends one and is logged even for a port that never
  asked. `id:*` keeps client ids out of leases, so that the MAC alone names one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import platform
import re
import shutil
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import structlog

from pileus.errors import StartupError
from pileus.host import dnsmasq_files as files
from pileus.host import dnsmasq_process as process
from pileus.host import privileged
from pileus.host.chores import Chores
from pileus.host.dhcp import DhcpError, Entry, entry_of
from pileus.host.dnsmasq_files import Facts, Server
from pileus.host.switch import Switch, SwitchError
from pileus.messages import PortWiring
from pileus.settings import Network

log = structlog.get_logger(__name__)

_STOP_LIMIT = 2.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")


class Dnsmasq:
    """`folder` holds one folder a network and belongs to this object alone. `host` tells this host's servers from those of others."""

    def __init__(self, folder: Path, switch: Switch, settings: Network, host: str = "") -> None:
        self._folder = folder.absolute()
        self._switch = switch
        self._lease = int(settings.dhcp_lease)
        self._host = host or platform.node()
        self._tag = hashlib.sha256(str(self._folder).encode()).hexdigest()[:6]
        self._program = ""
        self._user = "root"
        self._servers: dict[str, Server] = {}
        self._home: dict[str, str] = {}
        self._chores = Chores()
        self._admitting: dict[str, set[asyncio.Task[Server]]] = {}
        self._closing = asyncio.Event()

    async def start(self) -> None:
        """Adopt servers that run, start those that should and don't, remove what belongs to nobody. Raises StartupError."""
        program = shutil.which("dnsmasq", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if program is None:
            raise StartupError("dnsmasq is missing: install the package dnsmasq-base, or use the simulated hypervisor")
        self._program = program
        await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True)
        self._user = await asyncio.to_thread(files.user_for, self._folder)
        running = await asyncio.to_thread(process.running, self._folder)
        for server in await asyncio.to_thread(files.read_all, self._folder, self._namespace):
            self._servers[server.network_id] = server
            self._home.update(dict.fromkeys(server.entries, server.network_id))
            await self._adopt(server, running.pop(server.network_id, []))
        for pids in running.values():
            for pid, _ in pids:
                process.kill(pid, signal.SIGKILL)
        await self._remove_strays()
        for server in list(self._servers.values()):
            if not server.entries:
                await self._chores.finish(self._release_here(server, []))
            elif not server.pid:
                self._chores.start(self._restore(server))

    async def close(self) -> None:
        self._closing.set()
        await self._chores.close(patience=_STOP_LIMIT)
        for server in self._servers.values():
            process.let_go(server)

    async def ensure(self, port: PortWiring) -> None:
        entry = entry_of(port)
        home = self._home.get(port.port_id)
        if home is not None and (entry is None or home != entry.network_id):
            # Two networks can't both know a port: known() names one.
            await self.release([port.port_id])
        if entry is None:
            return
        for name in (entry.port_id, entry.network_id, entry.subnet_id):
            if not _SAFE_ID.fullmatch(name):
                raise DhcpError(f"DHCP: {name!r} cannot be an id")
        server = await asyncio.shield(self._admission(port, entry))
        since = server.unproven.get(port.port_id)
        file = server.files.get(port.port_id)
        if since is not None and file is not None:
            if not await process.proof(server, since, [f"read {file}\n"]):
                raise DhcpError(f"DHCP: dnsmasq of network {entry.network_id} did not take the entry; see {server.log}")
            server.unproven.pop(port.port_id, None)

    async def release(self, ports: Sequence[str]) -> None:
        # A caller that was cancelled may have left an admission on its way: it is waited for, else its entry would stay.
        begun = [task for port_id in ports for task in self._admitting.get(port_id, ())]
        if begun:
            await asyncio.wait(begun)
        by_network: dict[str, list[str]] = {}
        for port_id in ports:
            if port_id in self._home:
                by_network.setdefault(self._home[port_id], []).append(port_id)
        results = await asyncio.gather(
            *(self._chores.finish(self._release_here(self._servers[network_id], mine)) for network_id, mine in by_network.items()),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def known(self) -> dict[str, str]:
        return dict(self._home)

    async def stop_all(self) -> None:
        await self.release(list(self._home))
        await self._remove_strays()

    def _namespace(self, network_id: str) -> str:
        return f"pileus-{self._tag}-{network_id}"

    def _mac(self, network_id: str) -> str:
        digest = hashlib.sha256(f"{network_id} {self._host}".encode()).digest()
        return ":".join(f"{byte:02x}" for byte in b"\x02" + digest[:5])

    def _admission(self, port: PortWiring, entry: Entry) -> asyncio.Task[Server]:
        """In a task of our own, as all critical sections are: a cancelled caller never leaves one half done."""
        task = self._chores.own(self._admit(port, entry))
        begun = self._admitting.setdefault(entry.port_id, set())
        begun.add(task)

        def ended(_: asyncio.Task[Server]) -> None:
            begun.discard(task)
            if not begun and self._admitting.get(entry.port_id) is begun:
                del self._admitting[entry.port_id]

        task.add_done_callback(ended)
        return task

    async def _admit(self, port: PortWiring, entry: Entry) -> Server:
        """Write the port's file; start the server, or start it anew when its subnets have changed."""
        while True:
            server = self._servers.get(entry.network_id)
            if server is None:
                folder = self._folder / entry.network_id
                server = Server(entry.network_id, folder, self._namespace(entry.network_id), Facts(port.mtu))
                self._servers[entry.network_id] = server
            async with server.lock:
                if server.gone:
                    continue
                files.cap_log(server)
                try:
                    await self._put(server, port, entry)
                    if self._config(server) != server.config or not await asyncio.to_thread(process.reachable, server):
                        await self._launch(server)
                except (DhcpError, OSError) as error:
                    self._chores.start(self._restore(server))
                    raise DhcpError(f"DHCP of network {server.network_id}: {error}") from error
                return server

    async def _put(self, server: Server, port: PortWiring, entry: Entry) -> None:
        same = server.entries.get(entry.port_id) == entry
        if not same:
            # The newest owner of a MAC or an address is right: deletes may reach us after the create that follows them.
            displaced = {server.holders.get(entry.mac), server.holders.get(entry.address), entry.port_id}
            await self._withdraw(server, [port_id for port_id in displaced if port_id in server.entries])
        subnet = next(subnet for subnet in port.subnets if subnet.id == entry.subnet_id)
        kept = {key: value for key, value in server.facts.subnets.items() if server.uses[key] > 0}
        facts = Facts(port.mtu, kept | {subnet.id: subnet})
        if facts != server.facts:
            await asyncio.to_thread(files.write, server.folder, server.folder / "network.json", msgspec.json.encode(facts))
            server.facts = facts
        if not same:
            file = server.hosts / f"{entry.port_id}.{entry.subnet_id}.{time.time_ns():x}"
            since = server.log_end
            await asyncio.to_thread(files.write, server.hosts, file, files.host_line(entry).encode())
            server.add(entry, file)
            server.unproven[entry.port_id] = since
            self._home[entry.port_id] = server.network_id

    async def _release_here(self, server: Server, ports: Iterable[str]) -> None:
        async with server.lock:
            if server.gone:
                return
            files.cap_log(server)
            mine = [port_id for port_id in ports if port_id in server.entries]
            try:
                if len(mine) < len(server.entries):
                    await self._withdraw(server, mine)
                else:
                    await self._drop(server, mine)
                    await self._tear_down(server)
            except (DhcpError, OSError) as error:
                self._chores.start(self._restore(server))
                raise DhcpError(f"DHCP of network {server.network_id}: {error}") from error

    async def _withdraw(self, server: Server, ports: list[str]) -> None:
        """Files, leases and the process's memory of these ports go."""
        if not ports and not server.stale:
            return
        server.stale = True
        gone = await self._drop(server, ports)
        if server.pid and not await self._forget(server, gone):
            await self._launch(server)
        server.stale = False

    async def _drop(self, server: Server, ports: list[str]) -> list[Entry]:
        await asyncio.to_thread(files.unlink, [server.files[port_id] for port_id in ports])
        gone = [server.drop(port_id) for port_id in ports]
        for entry in gone:
            if self._home.get(entry.port_id) == server.network_id:
                del self._home[entry.port_id]
        return gone

    async def _forget(self, server: Server, gone: list[Entry]) -> bool:
        """End the leases and have the files read anew. False: no proof that it worked, so only a new process helps."""
        pid, since = server.pid, server.log_end
        proofs = [f"read {server.epoch}\n"]
        try:
            for entry in gone:
                server_id = server.facts.subnets[entry.subnet_id].dhcp_address or ""
                if server.socket is None:
                    return False
                server.socket.sendto(process.release_packet(entry.mac, entry.address, server_id), (server_id, 67))
                proofs.append(f"DHCPRELEASE({server.device}) {entry.address} {entry.mac}")
        except OSError:
            return False
        return process.kill(pid, signal.SIGHUP) and await process.proof(server, since, proofs, pid)

    async def _launch(self, server: Server) -> None:
        """Namespace, device, addresses and process, whatever of them is missing. Proves every entry. Raises DhcpError."""
        await self._end_process(server)
        namespace = privileged.Namespace(server.namespace)
        since = server.log_end
        try:
            await asyncio.to_thread(privileged.create_namespace, server.namespace)
            # dnsmasq looks for devices when a packet comes, so neither needs to wait for the other.
            both = await asyncio.gather(
                self._start_process(server, namespace), self._make_device(server, namespace), return_exceptions=True
            )
            for failure in both:
                if failure is not None:
                    raise failure
            if not await process.proof(server, since, [f"read {server.epoch}\n"], server.pid):
                raise DhcpError(f"dnsmasq did not become ready within {process.PROOF_LIMIT:.0f} s; see {server.log}")
        except (OSError, ValueError, SwitchError) as error:
            await self._end_process(server)
            raise DhcpError(str(error)) from error
        finally:
            namespace.close()
        server.unproven.clear()
        server.stale = False

    async def _start_process(self, server: Server, namespace: privileged.Namespace) -> None:
        config = self._config(server)
        file = server.folder / f"{hashlib.sha256(config.encode()).hexdigest()[:16]}.conf"
        await asyncio.to_thread(files.prepare, server, file, config)
        await namespace.run(process.spawn, self._program, file)
        self._hold(server, int(await asyncio.to_thread((server.folder / "pid").read_text)), config)

    async def _make_device(self, server: Server, namespace: privileged.Namespace) -> None:
        """The network's device in the namespace, with the addresses of its subnets and no other."""
        where = (server.network_id, server.namespace)
        mac, mtu = self._mac(server.network_id), server.facts.mtu
        server.device = await self._switch.dhcp_device(*where, mac, mtu)
        if await namespace.run(process.has_strange_address, server.device, server.facts):
            await self._switch.remove_dhcp_device(*where)
            server.device = await self._switch.dhcp_device(*where, mac, mtu)
        server.socket = await namespace.run(process.equip, server.device, server.facts)

    def _config(self, server: Server) -> str:
        return files.configuration(server.folder, server.facts.subnets.values(), server.facts.mtu, self._lease, self._user)

    def _hold(self, server: Server, pid: int, config: str) -> None:
        server.pid, server.config = pid, config
        server.pidfd = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(server.pidfd, self._exited, server)

    async def _adopt(self, server: Server, running: list[tuple[int, Path]]) -> None:
        """Take over the one process whose configuration can still be read; end any other."""
        there = await asyncio.to_thread(privileged.namespace_path(server.namespace).exists)
        for pid, file in running:
            namespace = privileged.Namespace(server.namespace)
            try:
                config = await asyncio.to_thread(file.read_text)
                if server.pid or not server.entries or not there:
                    raise ValueError("not wanted")
                server.device = await asyncio.to_thread(process.device_of, pid)
                server.socket = await namespace.run(process.equip, server.device, server.facts)
                self._hold(server, pid, config)
            except (OSError, ValueError):
                process.kill(pid, signal.SIGKILL)
            finally:
                namespace.close()

    def _exited(self, server: Server) -> None:
        """The process ended, and not by us: a level that must be restored, guests may ask at any time."""
        process.let_go(server)
        if not self._closing.is_set():
            log.warning("dhcp.server_died", network=server.network_id)
            self._chores.start(self._restore(server))

    async def _restore(self, server: Server) -> None:
        """Try until the process is what the entries ask for: there, or gone with all that belongs to it."""
        if server.restoring:
            return
        server.restoring, pause = True, _FIRST_PAUSE
        try:
            while not self._closing.is_set():
                async with server.lock:
                    try:
                        if not server.gone and not server.entries:
                            await self._tear_down(server)
                        elif not server.gone and not server.pid:
                            await self._launch(server)
                        return
                    except DhcpError as error:
                        log.error("dhcp.restore_failed", network=server.network_id, cause=str(error))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._closing.wait()
                pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            server.restoring = False

    async def _end_process(self, server: Server) -> None:
        pid = server.pid
        if not pid:
            process.let_go(server)
            return
        pidfd = os.dup(server.pidfd)
        process.let_go(server)
        try:
            process.kill(pid, signal.SIGTERM)
            if not await process.readable(pidfd, _STOP_LIMIT):
                process.kill(pid, signal.SIGKILL)
                await process.readable(pidfd, _STOP_LIMIT)
        finally:
            os.close(pidfd)

    async def _tear_down(self, server: Server) -> None:
        await self._end_process(server)
        try:
            await self._remove_namespace(server.network_id, server.namespace)
        except (OSError, SwitchError) as error:
            raise DhcpError(str(error)) from error
        await asyncio.to_thread(shutil.rmtree, server.folder, ignore_errors=True)
        server.gone = True
        self._servers.pop(server.network_id, None)

    async def _remove_namespace(self, network_id: str, namespace: str) -> None:
        await self._switch.remove_dhcp_device(network_id, namespace)
        await asyncio.to_thread(privileged.delete_namespace, namespace)

    async def _remove_strays(self) -> None:
        """Namespaces of ours whose folder is gone."""
        prefix = self._namespace("")
        for name in await asyncio.to_thread(privileged.list_namespaces, prefix):
            network_id = name.removeprefix(prefix)
            if network_id not in self._servers:
                await self._remove_namespace(network_id, name)
