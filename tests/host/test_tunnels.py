"""What a host knows of the hosts that share its networks, whatever becomes of the messages."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from pileus import settings
from pileus.bus.inprocess import InProcessBus
from pileus.host import tunnels
from pileus.host.agent import Agent
from pileus.host.dhcp import SimulatedDhcp
from pileus.host.switch.simulated import SimulatedSwitch
from pileus.messages import (
    MEMBERS,
    Members,
    MembersChange,
    MembersChanged,
    MembersRequest,
    NetworkMembers,
    PortWiring,
    from_hosts,
    members_subject,
)


def port(name: str, network: str = "net", kind: str = "geneve") -> PortWiring:
    wiring = PortWiring(name, 1, network, "geneve", None, 7, 1442, "fa:16:3e:00:00:01", [], [])
    return msgspec.structs.replace(wiring, network_type=kind)


class Control:
    """The network service's end: the truth with its version, questions that may go unanswered, hints that may go astray."""

    def __init__(self, bus: InProcessBus) -> None:
        self.bus = bus
        self.truth: dict[str, tuple[int, set[str]]] = {}
        self.questions: list[MembersRequest] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.stale: Members | None = None
        bus.serve(from_hosts(MEMBERS), MembersRequest, self._asked, concurrency=8)

    async def _asked(self, question: MembersRequest) -> Members:
        self.questions.append(question)
        await self.answers.wait()
        if self.stale is not None:
            answer, self.stale = self.stale, None
            return answer
        found = [(key, *self.truth.get(key, (0, set()))) for key in question.networks]
        return Members([NetworkMembers(key, v, sorted(a)) for key, v, a in found if v != question.networks[key]])

    def change(self, network: str = "net", *, joined: str = "", left: str = "") -> MembersChanged:
        version, addresses = self.truth.get(network, (0, set()))
        self.truth[network] = (version + 1, addresses - {left} | ({joined} if joined else set()))
        return MembersChanged([MembersChange(network, version, version + 1, [joined] if joined else [], [left] if left else [])])

    async def hint(self, message: MembersChanged) -> None:
        await self.bus.publish(members_subject("host"), message)


class Rig:
    def __init__(self, interval: float, address: str) -> None:
        self.bus = InProcessBus()
        self.control = Control(self.bus)
        self.switch = SimulatedSwitch(settings.Simulated(), tunnel_address=address)
        network = settings.Network(rpc_timeout=0.2, members_interval=interval)
        self.agent = Agent("host", self.switch, SimulatedDhcp(), self.bus, network, notices=False)
        self.bus.subscribe(members_subject("host"), MembersChanged, self.agent.members)

    async def wire(self, one: PortWiring) -> None:
        await self.switch.open_tap(one.port_id, one.mtu)
        await self.switch.plug(one)
        await self.agent.wire(one)

    async def sends_to(self, *addresses: str, network: str = "net") -> None:
        async with asyncio.timeout(5):
            while self.switch.world.members.get(network) != frozenset(addresses):
                await asyncio.sleep(0.002)


@asynccontextmanager
async def rig(*, interval: float = 1000.0, address: str = "192.0.2.1") -> AsyncIterator[Rig]:
    made = Rig(interval, address)
    await made.agent.start({})
    try:
        yield made
    finally:
        await made.agent.close()
        await made.bus.close()


async def test_a_wired_port_reaches_all_who_share_its_network() -> None:
    async with rig() as made:
        made.control.truth = {"net": (3, {"a", "b"}), "other": (1, {"c"})}
        await made.wire(port("p1"))
        assert made.switch.world.members == {"net": {"a", "b"}}
        await made.wire(port("p2", "other"))
        assert made.switch.world.members == {"net": {"a", "b"}, "other": {"c"}}
        assert [question.networks for question in made.control.questions] == [{"net": -1}, {"other": -1}]
        assert {question.address for question in made.control.questions} == {"192.0.2.1"}


async def test_only_the_first_port_of_a_network_asks() -> None:
    async with rig() as made:
        made.agent.expect([port("p1"), port("p2"), port("p3", "two")])
        for one in (port("p1"), port("p2"), port("p3", "two")):
            await made.wire(one)
        assert [question.networks for question in made.control.questions] == [{"net": -1, "two": -1}]


@pytest.mark.parametrize("kind", ["local", "vlan"])
async def test_networks_without_tunnels_ask_nothing(kind: str) -> None:
    async with rig() as made:
        await made.wire(port("p1", kind=kind))
        assert made.control.questions == []


async def test_a_host_without_tunnels_asks_nothing() -> None:
    async with rig(address="") as made:
        await made.wire(port("p1"))
        assert (made.control.questions, made.switch.world.members) == ([], {})


async def test_hints_are_taken_in_order_without_a_question() -> None:
    async with rig() as made:
        await made.wire(port("p1"))
        await made.control.hint(made.control.change(joined="a"))
        await made.control.hint(made.control.change(joined="b"))
        await made.sends_to("a", "b")
        await made.control.hint(made.control.change(left="a"))
        await made.sends_to("b")
        await made.control.hint(made.control.change("elsewhere", joined="x"))  # of no network of ours
        assert len(made.control.questions) == 1
        assert made.switch.world.members.keys() == {"net"}


async def test_a_lost_hint_is_made_good_by_the_next_one() -> None:
    async with rig() as made:
        await made.wire(port("p1"))
        made.control.change(joined="lost")
        await made.control.hint(made.control.change(joined="b"))
        await made.sends_to("lost", "b")
        assert made.control.questions[-1].networks == {"net": 0}


async def test_a_lost_hint_without_a_next_one_is_made_good_in_time() -> None:
    async with rig(interval=0.05) as made:
        await made.wire(port("p1"))
        made.control.change(joined="lost")
        await made.sends_to("lost")


async def test_whatever_becomes_of_hints_the_truth_wins() -> None:
    """Lost, doubled, out of order, by a fixed seed; the last change is made known by a question."""
    chance = random.Random(3)
    async with rig(interval=0.05) as made:
        await made.wire(port("p1"))
        late: list[MembersChanged] = []
        for _ in range(200):
            there = sorted(made.control.truth.get("net", (0, set()))[1])
            if there and chance.random() < 0.4:
                change = made.control.change(left=chance.choice(there))
            else:
                change = made.control.change(joined=f"h{chance.randrange(12)}")
            late += [change] * chance.choice([0, 1, 1, 1, 2])
            chance.shuffle(late)
            while late and chance.random() < 0.7:
                await made.control.hint(late.pop())
            if chance.random() < 0.2:
                await asyncio.sleep(0.001)
        for change in late:
            await made.control.hint(change)
        await asyncio.sleep(0.01)
        await made.sends_to(*made.control.truth["net"][1])


async def test_a_hint_that_overtakes_the_answer_is_not_forgotten() -> None:
    async with rig() as made:
        made.control.answers.clear()
        made.agent.expect([port("p1")])
        async with asyncio.timeout(5):
            while not made.control.questions:
                await asyncio.sleep(0.002)
        made.control.stale = Members([NetworkMembers("net", 0, [])])  # computed before this change, and late
        await made.control.hint(made.control.change(joined="a"))
        await asyncio.sleep(0.01)
        made.control.answers.set()
        await made.wire(port("p1"))
        await made.sends_to("a")
        assert len(made.control.questions) == 2


async def test_a_port_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "PATIENCE", 0.05)
    async with rig() as made:
        made.control.truth = {"net": (1, {"a"})}
        made.control.answers.clear()
        async with asyncio.timeout(2):
            await made.wire(port("p1"))
        assert made.switch.world.members == {}
        made.control.answers.set()
        await made.sends_to("a")


async def test_what_is_known_goes_with_the_last_port() -> None:
    async with rig() as made:
        made.control.truth = {"net": (1, {"a"})}
        await made.wire(port("p1"))
        await made.wire(port("p2"))
        await made.agent.remove([port("p1")])
        await made.control.hint(made.control.change(joined="b"))
        await made.sends_to("a", "b")
        await made.agent.remove([port("p2")])
        assert made.switch.world.members == {}
        await made.control.hint(made.control.change(joined="c"))
        await made.wire(port("p3"))
        assert made.switch.world.members == {"net": {"a", "b", "c"}}


async def test_a_switch_that_lost_its_flows_gets_the_hosts_again() -> None:
    async with rig() as made:
        made.control.truth = {"net": (1, {"a"})}
        await made.wire(port("p1"))
        made.switch.reset()
        assert made.switch.world.members == {}
        await made.sends_to("a")
        assert len(made.control.questions) == 1
