"""The two switches under test, each with what the contract suite must be able to do beside the seam itself."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from pathlib import Path
from typing import Any, Protocol

import msgspec

from pileus.host import netlink, privileged
from pileus.host.switch import Switch, SwitchPort
from pileus.host.switch.daemons import namespace_name, pid_of, stop_daemons
from pileus.host.switch.openvswitch import OpenVSwitch
from pileus.host.switch.simulated import SimulatedSwitch, World
from pileus.host.switch.tables import base_cookie
from pileus.messages import FixedIP, PortWiring
from pileus.settings import Host, Simulated

LIMIT = 20.0


class Rig(Protocol):
    fds: list[int]
    """Open TAPs, as guests would hold them; closed at the end."""

    @property
    def switch(self) -> Switch: ...

    async def open(self) -> None: ...
    async def restart(self) -> None:
        """The host's process ends, as if killed, and another one starts."""
        ...

    def break_switch(self) -> None:
        """The switch itself loses its flows."""
        ...

    async def leftovers(self) -> dict[str, Any]:
        """What is left, by kind; all empty when nothing is."""
        ...

    def namespace(self) -> str: ...
    async def close(self) -> None: ...


class OvsRig:
    def __init__(self, folder: Path, settings: Host | None = None) -> None:
        self.folder = folder
        self.settings = settings or Host()
        self.switch = OpenVSwitch(folder, self.settings)
        self.namespaces: list[str] = []
        self.fds: list[int] = []

    async def open(self) -> None:
        await self.switch.start()

    async def restart(self) -> None:
        await self.switch.close()
        self.switch = OpenVSwitch(self.folder, self.settings)
        await self.switch.start()

    def break_switch(self) -> None:
        self.kill("ovs-vswitchd")

    def kill(self, program: str) -> None:
        pid = pid_of(self.folder, program)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    async def leftovers(self) -> dict[str, Any]:
        inside = privileged.Namespace(namespace_name(self.folder))
        try:
            devices = await inside.run(netlink.link_names)
        finally:
            inside.close()
        own = {"lo", "ovs-netdev", "br-int", "ifb0", "ifb1", "br-underlay", self.settings.tunnel_device}
        return {
            "ports": await self.switch.ports(),
            "flows": await self.flow_count(),
            "groups": (await self.ofctl("dump-groups")).count("group_id="),
            "tags": len(self.switch._database.tags),
            "devices": [name for name in devices if name not in own],
        }

    async def flow_count(self) -> int:
        """Beyond the tables' own."""
        told = [line for line in (await self.ofctl("dump-flows")).splitlines() if "cookie=" in line]
        return sum(f"cookie={base_cookie():#x}," not in line for line in told)

    async def ofctl(self, command: str, *rest: str, bridge: str = "br-int") -> str:
        """What people see who ask the bridge with Open vSwitch's own program."""
        socket = f"unix:{self.folder}/{bridge}.mgmt"
        process = await asyncio.create_subprocess_exec("ovs-ofctl", "-OOpenFlow15", command, socket, *rest, stdout=asyncio.subprocess.PIPE)
        async with asyncio.timeout(LIMIT):
            output, _ = await process.communicate()
        assert process.returncode == 0
        return output.decode()

    async def settled(self) -> None:
        """The switch's cache of paths is as its tables are: it follows them by milliseconds."""
        await self._appctl("revalidator/purge")

    async def connections(self) -> str:
        """Those that conntrack keeps, one a line."""
        return await self._appctl("dpctl/dump-conntrack")

    async def _appctl(self, command: str) -> str:
        control = self.folder / f"ovs-vswitchd.{pid_of(self.folder, 'ovs-vswitchd')}.ctl"
        process = await asyncio.create_subprocess_exec("ovs-appctl", "-t", control, command, stdout=asyncio.subprocess.PIPE)
        async with asyncio.timeout(LIMIT):
            output, _ = await process.communicate()
        assert process.returncode == 0
        return output.decode()

    async def delete_device(self, name: str) -> None:
        inside = privileged.Namespace(namespace_name(self.folder))
        try:
            await inside.run(netlink.delete_link, name)
        finally:
            inside.close()

    def namespace(self) -> str:
        name = f"pileustest-{uuid.uuid4().hex[:8]}"
        privileged.create_namespace(name)
        self.namespaces.append(name)
        return name

    async def close(self) -> None:
        await self.switch.close()
        for fd in self.fds:
            os.close(fd)
        await stop_daemons(self.folder)
        for name in self.namespaces:
            privileged.delete_namespace(name)
        assert namespace_name(self.folder) not in privileged.list_namespaces()
        assert pid_of(self.folder, "ovs-vswitchd") is None
        assert pid_of(self.folder, "ovsdb-server") is None


class SimulatedRig:
    def __init__(self) -> None:
        self.world = World()
        self.fds: list[int] = []
        self.switch = SimulatedSwitch(Simulated(plug=0.001, wire=0.001, unplug=0.001), world=self.world)

    async def open(self) -> None:
        await self.switch.start()

    async def restart(self) -> None:
        await self.switch.close()
        self.switch = SimulatedSwitch(Simulated(), world=self.world)
        await self.switch.start()

    def break_switch(self) -> None:
        self.switch.reset()

    async def leftovers(self) -> dict[str, Any]:
        world = self.world
        return {"ports": await self.switch.ports(), "flows": world.flows, "tags": world.tags, "taps": list(world.taps)}

    def namespace(self) -> str:
        return "pileustest"

    async def close(self) -> None:
        await self.switch.close()


def network() -> str:
    return str(uuid.uuid4())


def wiring(number: int, network_id: str, *, address: str | None = None, **changes: Any) -> PortWiring:
    """A port of the documentation network; its MAC and address carry the number."""
    port = PortWiring(
        port_id=str(uuid.uuid4()),
        generation=1,
        network_id=network_id,
        network_type="local",
        physical_network=None,
        segmentation_id=None,
        mtu=1400,
        mac=f"fa:16:3e:00:{number >> 8:02x}:{number & 255:02x}",
        fixed_ips=[FixedIP("subnet", address or f"192.0.2.{number}")],
        subnets=[],
    )
    return msgspec.structs.replace(port, **changes)


async def tap(rig: Rig, port: PortWiring) -> int:
    """Open the port's TAP, as a guest does that starts; -1 where it is simulated."""
    opened = await rig.switch.open_tap(port.port_id, port.mtu)
    if opened.fd >= 0:
        rig.fds.append(opened.fd)
    return opened.fd


async def plugged(rig: Rig, port: PortWiring) -> int:
    """TAP, plug; the TAP's fd."""
    fd = await tap(rig, port)
    await rig.switch.plug(port)
    return fd


async def wired(rig: Rig, port: PortWiring) -> int:
    """TAP, plug, wire; the TAP's fd."""
    fd = await plugged(rig, port)
    await rig.switch.wire(port)
    return fd


async def found(switch: Switch) -> dict[str, SwitchPort]:
    return {port.port_id: port for port in await switch.ports()}
