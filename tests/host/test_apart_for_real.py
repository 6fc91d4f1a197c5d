"""The two sides of a real host apart: QEMU in one, Open vSwitch in the other; either is ended and started again under a guest."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pileus.host import netlink, privileged
from pileus.host.compute_part import ComputeAlone, ComputeParts
from pileus.host.hypervisor.machine import processes_of
from pileus.host.images import ImageCache
from pileus.host.network_part import NetworkPart, NetworkParts
from pileus.host.privileged import Namespace, tap_name
from pileus.host.switch.daemons import namespace_name, stop_daemons
from pileus.host.switch.openvswitch import OpenVSwitch
from pileus.host.switch.taps import SwitchTaps
from tests.host.hypervisor.parts import QemuHarness
from tests.host.test_parts_apart import HOST, NoImages, Rig

SERVER = "5e12fe12-0000-4000-8000-000000000001"


class RealRig(Rig):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, None, "local")
        self.harness = QemuHarness(folder)
        self.folder = folder / "switch"

    async def network(self) -> NetworkPart:
        part = NetworkPart(HOST, NetworkParts(OpenVSwitch(self.folder, self.settings.host), self.dhcp), self.bus, self.settings)
        await part.start()
        return part

    async def compute(self) -> ComputeAlone:
        taps = SwitchTaps(self.folder, self.settings.host)
        images = ImageCache(self.folder / "cache", NoImages(), self.settings.host)
        parts = ComputeParts(self.harness.make(), taps, images)
        part = ComputeAlone(HOST, parts, self.bus, self.settings, at_end=taps.close)
        await part.start()
        return part

    async def taps(self) -> list[str]:
        inside = Namespace(namespace_name(self.folder))
        try:
            return [name for name in await inside.run(netlink.link_names) if name.startswith("tap")]
        finally:
            inside.close()

    async def stray_tap(self) -> None:
        inside = Namespace(namespace_name(self.folder))
        try:
            await inside.run(_make_tap, "tapstray")
        finally:
            inside.close()


def _make_tap(name: str) -> None:
    os.close(privileged.open_tap(name, 1500))


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[RealRig]:
    made = RealRig(tmp_path)
    try:
        yield made
    finally:
        made.harness.end_all()
        await made.bus.close()
        await stop_daemons(made.folder)


async def test_either_side_is_started_again_under_a_guest(real: RealRig) -> None:
    network, compute = await real.network(), await real.compute()
    own = tap_name(f"port-of-{SERVER}")

    async def taps_are(*names: str) -> None:
        async with asyncio.timeout(20):
            while sorted(await real.taps()) != sorted(names):
                await asyncio.sleep(0.02)

    try:
        observed = await real.done(SERVER, 1, "create", 60)
        assert (observed.power, observed.cause) == ("running", "")
        pid = processes_of([SERVER])[SERVER]
        await taps_are(own)
        await compute.close()
        await network.close()
        network = await real.network()  # the compute side is down: what its guest stands on stays
        await asyncio.sleep(0.2)
        assert [(each.port_id, each.wired) for each in await network.parts.switch.ports()] == [(f"port-of-{SERVER}", 1)]
        await real.stray_tap()  # made by a compute side that was killed before it could plug it
        compute = await real.compute()
        await taps_are(own)
        assert processes_of([SERVER])[SERVER] == pid
        assert (await real.done(SERVER, 2, "stop", 60)).power == "stopped"
        await taps_are()
        assert (await real.done(SERVER, 3, "start", 60)).power == "running"
        assert (await real.done(SERVER, 4, "delete", 60)).power == "absent"
        await taps_are()
        assert await network.parts.switch.ports() == [] and processes_of([SERVER]) == {}
    finally:
        await compute.close()
        await network.close()
