"""The two sides of a host as two processes: one contract for the seam, and whatever dies, the work goes on and nothing is left."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from pileus.bus.inprocess import Fate, InProcessBus
from pileus.host import agent_server, plug_signal, remote_agent, reporter
from pileus.host.compute_part import ComputeAlone, ComputeParts
from pileus.host.dhcp import SimulatedDhcp
from pileus.host.hypervisor.simulated import SimulatedHypervisor
from pileus.host.hypervisor.simulated import World as Guests
from pileus.host.images import ImageCache
from pileus.host.network_part import NetworkPart, NetworkParts
from pileus.host.network_side import Beside, NetworkSide
from pileus.host.ports import WireError
from pileus.host.switch import SwitchError
from pileus.host.switch.simulated import SimulatedSwitch
from pileus.host.switch.simulated import World as Ports
from pileus.messages import (
    DETAILS,
    LEVELS,
    OBSERVED,
    READINESS,
    BootSource,
    Desired,
    DeviceDetails,
    DeviceDetailsRequest,
    DeviceLevels,
    GuestSpec,
    HostEvent,
    Observed,
    PortsDone,
    PortsOrder,
    PortWiring,
    Readiness,
    ReadinessRequest,
    Taken,
    desired_subject,
    event_subject,
    from_hosts,
    order_subject,
)
from pileus.settings import Settings

HOST = "host"


def port(name: str, generation: int = 1) -> PortWiring:
    return PortWiring(name, generation, "net", "local", None, None, 1500, "fa:16:3e:00:00:01", [], [])


def spec(server_id: str, generation: int) -> GuestSpec:
    ports = [port(f"port-of-{server_id}", generation)]
    return GuestSpec(server_id, server_id, server_id, "project", 1, 128, 0, BootSource(), ports)


class NoImages:
    def read(self, image_id: str, ticket: str) -> AsyncIterator[bytes]:
        raise NotImplementedError


class Rig:
    """One host's world, a control plane that notes what it hears, and either side of the host, which can be killed and started."""

    def __init__(self, folder: Path, fate: Fate | None, signal: str, **simulated: float) -> None:
        self.bus = InProcessBus(fate)
        self.settings = msgspec.convert(
            {"compute": {"plug_signal": signal}, "network": {"rpc_timeout": 0.2}, "simulated": simulated}, Settings
        )
        self.guests, self.ports, self.dhcp = Guests(), Ports(), SimulatedDhcp()
        self.observed: dict[tuple[str, int], Observed] = {}
        self.bound: dict[str, PortWiring] = {}
        self._signal = signal
        self._folder = folder
        self._news = asyncio.Event()
        self.bus.subscribe(from_hosts(OBSERVED), Observed, self._note)
        self.bus.serve(from_hosts(DETAILS), DeviceDetailsRequest, self._details, concurrency=8)
        self.bus.serve(from_hosts(LEVELS), DeviceLevels, self._levels, concurrency=8)
        self.bus.serve(from_hosts(READINESS), ReadinessRequest, self._readiness, concurrency=8)
        self.owner: dict[str, str] = {}
        self.wired: dict[str, int] = {}

    async def network(self) -> NetworkPart:
        switch = self.switch = SimulatedSwitch(self.settings.simulated, world=self.ports)
        part = NetworkPart(HOST, NetworkParts(switch, self.dhcp), self.bus, self.settings)
        await part.start()
        return part

    async def compute(self) -> ComputeAlone:
        hypervisor = SimulatedHypervisor(self.settings.simulated, world=self.guests)
        taps = SimulatedSwitch(self.settings.simulated, world=self.ports)
        images = ImageCache(self._folder / "cache", NoImages(), self.settings.host)
        part = ComputeAlone(HOST, ComputeParts(hypervisor, taps, images), self.bus, self.settings)
        await part.start()
        return part

    def desire(self, server_id: str, generation: int, action: str) -> Desired:
        made = spec(server_id, generation)
        goal = {"create": "running", "start": "running", "stop": "stopped", "delete": "absent"}[action]
        with_spec = made if action in ("create", "start") else None
        for each in made.ports if with_spec else ():
            self.bound[each.port_id] = each
            self.owner[each.port_id] = server_id
        return msgspec.convert(
            {"server_id": server_id, "generation": generation, "goal": goal, "action": action, "spec": with_spec, "signal": self._signal},
            Desired,
            from_attributes=True,
        )

    async def done(self, server_id: str, generation: int, action: str, limit: float = 20.0) -> Observed:
        """Sent again until answered, as the control plane does."""
        async with asyncio.timeout(limit):
            while (server_id, generation) not in self.observed:
                await self.bus.publish(desired_subject(HOST), self.desire(server_id, generation, action))
                self._news.clear()
                try:
                    async with asyncio.timeout(0.1):
                        await self._news.wait()
                except TimeoutError:
                    pass
        return self.observed[server_id, generation]

    async def until(self, condition: Callable[[], bool], limit: float = 10.0) -> None:
        async with asyncio.timeout(limit):
            while not condition():
                await asyncio.sleep(0.005)

    async def _note(self, observed: Observed) -> None:
        self.observed[observed.server_id, observed.generation] = observed
        self._news.set()

    async def _details(self, question: DeviceDetailsRequest) -> DeviceDetails:
        return DeviceDetails([self.bound[each] for each in question.port_ids if each in self.bound])

    async def _levels(self, report: DeviceLevels) -> Taken:
        for level in report.levels:
            if level.level == "wired":
                self.wired[level.port_id] = max(level.generation, self.wired.get(level.port_id, 0))
            if self._signal == "callback" and level.level == "wired":
                event = HostEvent(self.owner[level.port_id], "network-vif-plugged", "completed", level.port_id)
                await self.bus.publish(event_subject(HOST), event)
        return Taken(len(report.levels))

    async def _readiness(self, question: ReadinessRequest) -> Readiness:
        return Readiness({each: self.wired.get(each, 0) for each in question.port_ids}, {})


@asynccontextmanager
async def rig(folder: Path, *, fate: Fate | None = None, signal: str = "local", **simulated: float) -> AsyncIterator[Rig]:
    made = Rig(folder, fate, signal, **simulated)
    try:
        yield made
    finally:
        await made.bus.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_server, "ASK_AGAIN", 0.02)
    monkeypatch.setattr(remote_agent, "TELL_AGAIN", 0.02)
    monkeypatch.setattr(remote_agent, "PAUSE", 0.005)
    monkeypatch.setattr(reporter, "FIRST_LIMIT", 0.1)
    monkeypatch.setattr(plug_signal, "FIRST_LOOK", 0.05)


# --- The seam's contract, in one process and in two ---


Seam = Callable[[NetworkPart, SimulatedSwitch, InProcessBus], NetworkSide]

SEAMS: dict[str, Seam] = {
    "beside": lambda part, switch, bus: Beside(part.agent, switch),
    "apart": lambda part, switch, bus: remote_agent.RemoteAgent(HOST, bus, longest=0.5),
}


@pytest.fixture(params=SEAMS)
async def side(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[NetworkSide, Rig]]:
    async with rig(tmp_path) as made:
        part = await made.network()
        yield SEAMS[request.param](part, made.switch, made.bus), made
        await part.close()


async def test_a_ports_whole_life(side: tuple[NetworkSide, Rig]) -> None:
    network, made = side
    ports = [port("a"), port("b")]
    for each in ports:
        await made.switch.open_tap(each.port_id, 1500)
    assert await network.levels(ports) == {}
    for _ in range(2):
        await network.plug(ports)
        levels = await asyncio.gather(*map(network.wire, ports))
    assert [level.generation for level in levels] == [1, 1]
    assert await network.levels([*ports, port("c")]) == dict(zip("ab", levels, strict=True))
    for _ in range(2):
        await network.remove(ports)
        await network.left(ports)
    assert (made.ports.ports, made.ports.taps, await network.levels(ports)) == ({}, set(), {})


async def test_failures_come_through_in_words(side: tuple[NetworkSide, Rig]) -> None:
    network, made = side
    with pytest.raises(SwitchError, match="could not open network device"):
        await network.plug([port("a")])
    await made.switch.open_tap("a", 1500)
    await network.plug([port("a")])
    made.switch.fail_next("wire", "flow table is full")
    with pytest.raises(WireError, match="flow table is full"):
        await network.wire(port("a"))
    await network.wire(port("a"))


async def test_who_plugs_anew_waits_for_what_is_leaving(side: tuple[NetworkSide, Rig]) -> None:
    network, made = side
    made.switch._settings = msgspec.structs.replace(made.switch._settings, unplug=0.05)
    await made.switch.open_tap("a", 1500)
    await network.plug([port("a")])
    removing = asyncio.create_task(network.remove([port("a")]))
    await asyncio.sleep(0.01)
    await network.left([port("a")])
    assert made.ports.ports == {}
    await removing


# --- Apart ---


@pytest.mark.parametrize("signal", ["local", "callback"])
async def test_both_signals_work_apart(tmp_path: Path, signal: str) -> None:
    async with rig(tmp_path, signal=signal) as made:
        network, compute = await made.network(), await made.compute()
        observed = await made.done("s", 1, "create")
        assert (observed.power, observed.failed_step, observed.cause) == ("running", "", "")
        assert {"image", "plugged", "paused", "wired", "signalled", "resumed"} <= observed.stamps.keys()
        assert made.ports.ports["port-of-s"].wired == 1
        assert (await made.done("s", 2, "stop")).power == "stopped" and made.ports.ports == {}
        assert (await made.done("s", 3, "start")).power == "running"
        assert (await made.done("s", 4, "delete")).power == "absent"
        assert (made.guests.guests, made.ports.ports, made.ports.taps) == ({}, {}, set())
        await compute.close()
        await network.close()


@pytest.mark.parametrize("signal", ["local", "callback"])
async def test_a_bus_that_loses_doubles_and_delays(tmp_path: Path, signal: str) -> None:
    chance = random.Random(7)

    def fate(subject: str, payload: bytes) -> list[float]:
        return chance.choice([[], [0.0], [0.0], [0.0, 0.05], [0.03], [0.0, 0.2]])

    async with rig(tmp_path, fate=fate, signal=signal) as made:
        network, compute = await made.network(), await made.compute()
        names = [f"s{number}" for number in range(12)]
        created = await asyncio.gather(*(made.done(name, 1, "create", 60) for name in names))
        assert {each.power for each in created} == {"running"}, [each.cause for each in created]
        for generation, action in ((2, "stop"), (3, "start"), (4, "delete")):
            await asyncio.gather(*(made.done(name, generation, action, 60) for name in names))
        await asyncio.sleep(0.3)  # what was delayed has come
        assert (made.guests.guests, made.ports.ports, made.ports.taps) == ({}, {}, set())
        await compute.close()
        await network.close()


async def test_ports_of_running_guests_stay_while_the_compute_side_is_down(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        network, compute = await made.network(), await made.compute()
        await made.done("s", 1, "create")
        await compute.close()
        await network.close()
        network = await made.network()  # alone
        await asyncio.sleep(0.1)
        assert made.ports.ports["port-of-s"].wired == 1
        made.switch.reset()  # and it knows them well enough to wire them again
        await made.until(lambda: made.ports.ports["port-of-s"].wired == 1)
        made.guests.guests["s"].power = "crashed"  # the guest dies while nobody looks
        compute = await made.compute()
        await made.until(lambda: not made.ports.ports and not made.ports.taps)
        await compute.close()
        await network.close()


async def test_the_agent_may_come_late_and_go_meanwhile(tmp_path: Path) -> None:
    async with rig(tmp_path, wire=0.1) as made:
        compute = await made.compute()
        creating = asyncio.create_task(made.done("s", 1, "create"))
        await asyncio.sleep(0.05)
        network = await made.network()
        await made.until(lambda: "port-of-s" in made.ports.ports)
        await network.close()  # while it wires
        network = await made.network()
        assert (await creating).power == "running"
        assert made.ports.ports["port-of-s"].wired == 1
        await compute.close()
        await network.close()


async def test_a_compute_side_killed_in_the_middle_leaves_nothing_when_it_is_back(tmp_path: Path) -> None:
    async with rig(tmp_path, start=0.2) as made:
        network, compute = await made.network(), await made.compute()
        await made.done("stays", 1, "create")
        await made.bus.publish(desired_subject(HOST), made.desire("lost", 1, "create"))
        await made.until(lambda: "port-of-lost" in made.ports.ports)
        made.ports.taps.add("tapstray")
        await compute.close()  # before the guest is there
        assert "lost" not in made.guests.guests and "port-of-lost" in made.ports.ports
        compute = await made.compute()
        await made.until(lambda: set(made.ports.ports) == {"port-of-stays"} and len(made.ports.taps) == 1)
        assert (await made.done("lost", 2, "delete")).power == "absent"
        await compute.close()
        await network.close()


async def test_work_under_way_is_left_alone_when_the_agent_asks_what_is_held(tmp_path: Path) -> None:
    async with rig(tmp_path, start=0.3) as made:
        network, compute = await made.network(), await made.compute()
        creating = asyncio.create_task(made.done("s", 1, "create"))
        await made.until(lambda: "port-of-s" in made.ports.ports and made.ports.ports["port-of-s"].wired == 1)
        await network.close()
        network = await made.network()
        await made.until(lambda: network._server._held != (0.0, 0))
        assert "port-of-s" in made.ports.ports
        assert (await creating).power == "running"
        await compute.close()
        await network.close()


async def test_killed_at_random(tmp_path: Path) -> None:
    chance = random.Random(11)
    async with rig(tmp_path, start=0.01, plug=0.01, wire=0.01, unplug=0.01, stop=0.01) as made:
        network, compute = await made.network(), await made.compute()
        names = [f"s{number}" for number in range(8)]

        async def lives(name: str) -> None:
            for generation, action in enumerate(("create", "stop", "start", "delete") * 5, 1):
                observed = await made.done(name, generation, action, 60)
                assert not observed.failed_step, (name, action, observed.cause)

        working = asyncio.gather(*map(lives, names))
        while not working.done():
            await asyncio.sleep(chance.uniform(0, 0.05))
            if chance.random() < 0.5:
                await network.close()
                network = await made.network()
            else:
                await compute.close()
                compute = await made.compute()
        await working
        await made.until(lambda: not made.ports.ports and not made.ports.taps)
        assert made.guests.guests == {} and await made.dhcp.known() == {}
        await compute.close()
        await network.close()


async def test_an_order_that_comes_too_late_is_refused(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        network = await made.network()
        await made.switch.open_tap("a", 1500)

        async def order(kind: str, epoch: float, number: int) -> str:
            message = PortsOrder(HOST, epoch, number, [port("a")])
            done = await made.bus.request(order_subject(HOST, kind), message, PortsDone, timeout=5)
            return done.error

        assert await order("plug", 1.0, 5) == ""
        assert await order("plug", 1.0, 5) == ""  # doubled
        assert "too late" in await order("remove", 1.0, 4)
        assert "port-of" not in str(made.ports.ports) and "a" in made.ports.ports
        assert await order("remove", 1.0, 6) == ""
        assert "too late" in await order("plug", 1.0, 5)
        await network.close()
