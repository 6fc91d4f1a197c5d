"""The agent's lanes: none waits for another, and what is removed stays removed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from pileus import settings
from pileus.bus.inprocess import InProcessBus
from pileus.host.agent import Agent
from pileus.host.dhcp import SimulatedDhcp
from pileus.host.lanes import Lanes
from pileus.host.ports import WireError
from pileus.host.switch.simulated import SimulatedSwitch
from pileus.messages import (
    DETAILS,
    LEVELS,
    DeviceDetails,
    DeviceDetailsRequest,
    DeviceLevels,
    FixedIP,
    PortLevel,
    PortsChanged,
    PortWiring,
    Taken,
    from_hosts,
)
from pileus.messages import SubnetWiring as Subnet

SUBNET = Subnet("s", "10.0.0.0/24", 4, "10.0.0.1", True, "10.0.0.2")


def port(name: str, generation: int = 1, *, admin_up: bool = True) -> PortWiring:
    mac = f"fa:16:3e:00:00:{abs(hash(name)) % 256:02x}"
    fixed = [FixedIP("s", f"10.0.0.{10 + abs(hash(name)) % 200}")]
    return PortWiring(name, generation, "net", "local", None, None, 1500, mac, fixed, [SUBNET], admin_up=admin_up)


class Rig:
    """An agent, and a network service that notes what it is told."""

    def __init__(self, simulated: settings.Simulated, *, notices: bool = False) -> None:
        self.bus = InProcessBus()
        self.switch = SimulatedSwitch(simulated)
        self.dhcp = SimulatedDhcp()
        self.levels: list[PortLevel] = []
        self.known: dict[str, PortWiring] = {}
        network = settings.Network(rpc_timeout=0.2)
        self.agent = Agent("host", self.switch, self.dhcp, self.bus, network, notices=notices)

    async def plugged(self, *ports: PortWiring) -> None:
        for each in ports:
            self.known[each.port_id] = each
            await self.switch.open_tap(each.port_id, each.mtu)
            await self.switch.plug(each)

    async def told(self, port_id: str, level: str) -> None:
        async with asyncio.timeout(5):
            while (port_id, level) not in {(told.port_id, told.level) for told in self.levels}:
                await asyncio.sleep(0.002)

    async def left(self) -> list[str]:
        return [*(await self.dhcp.known()), *(one.port_id for one in await self.switch.ports()), *self.switch.world.taps]

    async def _levels(self, message: DeviceLevels) -> Taken:
        self.levels += message.levels
        return Taken(len(message.levels))

    async def _details(self, question: DeviceDetailsRequest) -> DeviceDetails:
        found = [self.known[port_id] for port_id in question.port_ids if port_id in self.known]
        return DeviceDetails(found)


@asynccontextmanager
async def rig(*, notices: bool = False, owned: dict[str, PortWiring] | None = None, **latencies: float) -> AsyncIterator[Rig]:
    made = Rig(settings.Simulated(**latencies), notices=notices)  # type: ignore[arg-type]
    made.bus.serve(from_hosts(LEVELS), DeviceLevels, made._levels)
    made.bus.serve(from_hosts(DETAILS), DeviceDetailsRequest, made._details, concurrency=4)
    await made.agent.start(owned or {})
    try:
        yield made
    finally:
        await made.agent.close()
        await made.bus.close()


async def test_wired_means_flows_and_dhcp_and_is_told() -> None:
    async with rig() as made:
        await made.plugged(port("a"))
        level = await made.agent.wire(port("a"))
        assert level.generation == 1
        assert await made.dhcp.known() == {"a": "net"}
        assert [(one.port_id, one.wired) for one in await made.switch.ports()] == [("a", 1)]
        await made.told("a", "wired")


async def test_a_port_that_is_not_there_leaves_no_dhcp_entry() -> None:
    async with rig() as made:
        with pytest.raises(WireError):
            await made.agent.wire(port("ghost"))
        assert await made.left() == []
        await made.told("ghost", "failed")


async def test_removed_while_it_is_being_wired() -> None:
    async with rig(wire=0.05) as made:
        await made.plugged(port("a"))
        wiring = asyncio.create_task(made.agent.wire(port("a")))
        await asyncio.sleep(0.01)
        await made.agent.remove([port("a")])
        with pytest.raises(WireError):
            await wiring
        assert await made.left() == []


async def test_deletes_do_not_delay_wires() -> None:
    """Law 3, in numbers of a simulated switch on which a removal takes a second and a wire nothing."""
    async with rig(unplug=1.0) as made:
        old = [port(f"old-{n}") for n in range(20)]
        await made.plugged(*old, port("new"))
        removing = asyncio.create_task(made.agent.remove(old))
        await asyncio.sleep(0)
        async with asyncio.timeout(0.5):
            await made.agent.wire(port("new"))
        assert not removing.done()
        await removing


async def test_removals_that_come_together_are_one_batch() -> None:
    async with rig(unplug=0.2) as made:
        ports = [port(f"p{n}") for n in range(12)]
        await made.plugged(*ports)
        async with asyncio.timeout(1.0):
            await asyncio.gather(*[made.agent.remove([each]) for each in ports])
        assert await made.left() == []


async def test_a_removal_that_fails_is_tried_again() -> None:
    async with rig() as made:
        await made.plugged(port("a"))
        made.switch.fail_next("unplug", "database is away")
        async with asyncio.timeout(5):
            await made.agent.remove([port("a")])
        assert await made.left() == []


async def test_noticed_ports_are_asked_for_and_wired() -> None:
    async with rig(notices=True) as made:
        await made.plugged(port("a"), port("b"))
        await made.told("a", "wired")
        await made.told("b", "wired")
        assert set(await made.dhcp.known()) == {"a", "b"}


async def test_a_change_is_applied_and_old_news_are_not() -> None:
    async with rig() as made:
        await made.plugged(port("a", 2))
        await made.agent.wire(port("a", 2))
        made.levels.clear()
        await made.agent.update(PortsChanged([port("a", 1, admin_up=False), port("stranger")]))
        assert made.levels == []
        await made.agent.update(PortsChanged([port("a", 2, admin_up=False)]))
        await made.told("a", "wired")


async def test_a_switch_that_lost_its_flows_is_wired_again() -> None:
    async with rig() as made:
        await made.plugged(port("a"))
        await made.agent.wire(port("a"))
        made.switch.reset()
        async with asyncio.timeout(5):
            while [one.wired for one in await made.switch.ports()] != [1]:
                await asyncio.sleep(0.002)


async def test_at_start_ours_are_wired_and_strangers_removed() -> None:
    made = Rig(settings.Simulated())
    await made.plugged(port("ours"), port("stranger"))
    await made.dhcp.ensure(port("stranger"))
    made.bus.serve(from_hosts(LEVELS), DeviceLevels, made._levels)
    await made.agent.start({"ours": port("ours")})
    try:
        assert [(one.port_id, one.wired) for one in await made.switch.ports()] == [("ours", 1)]
        assert await made.dhcp.known() == {"ours": "net"}
        await made.told("ours", "wired")
    finally:
        await made.agent.close()
        await made.bus.close()


async def test_an_agent_that_starts_anew_wires_all_again_and_goes_on_with_what_it_was_doing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lanes, "restart_spread", 0.1)
    async with rig(wire=0.02, unplug=0.05) as made:
        ports = [port(name) for name in "abc"]
        await made.plugged(*ports)
        for each in ports:
            await made.agent.wire(each)
        going = asyncio.create_task(made.agent.remove([ports[2]]))
        made.known["b"] = port("b", 2)
        wiring = asyncio.create_task(made.agent.wire(port("b", 2)))  # in its hands already
        await asyncio.sleep(0)
        await made.plugged(port("d"))
        made.levels.clear()
        made.switch.world.ports = {name: replace(one, wired=0) for name, one in made.switch.world.ports.items()}
        restarting = asyncio.create_task(made.agent.restart())
        late = asyncio.create_task(made.agent.wire(port("d")))
        async with asyncio.timeout(5):
            await asyncio.gather(restarting, going, wiring, late)
            for name in "abd":
                await made.told(name, "wired")
        assert {one.port_id: one.wired for one in await made.switch.ports()} == {"a": 1, "b": 2, "d": 1}
        assert await made.dhcp.known() == dict.fromkeys("abd", "net")
