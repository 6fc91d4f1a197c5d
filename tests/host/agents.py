"""An agent on a switch that writes down what it is asked, and a network service that answers when it is let."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from pileus import settings
from pileus.bus.inprocess import InProcessBus
from pileus.host.agent import Agent
from pileus.host.dhcp import SimulatedDhcp
from pileus.host.switch import Filter, FlowDeletion
from pileus.host.switch.simulated import SimulatedSwitch, World
from pileus.messages import (
    DETAILS,
    LEVELS,
    SECURITY,
    AddressSet,
    DeviceDetails,
    DeviceDetailsRequest,
    DeviceLevels,
    FixedIP,
    GroupRules,
    PortWiring,
    Security,
    SecurityChanged,
    SecurityRequest,
    SecurityRule,
    SetChange,
    Taken,
    from_hosts,
    security_subject,
)


def port(name: str, *groups: str, generation: int = 1, **changes: Any) -> PortWiring:
    mac, fixed = f"fa:16:3e:00:00:{sum(name.encode()) % 256:02x}", [FixedIP("s", "10.0.0.9")]
    made = PortWiring(name, generation, "net", "local", None, None, 1500, mac, fixed, [], security_groups=list(groups))
    return msgspec.structs.replace(made, **changes)


def from_set(name: str) -> SecurityRule:
    return SecurityRule("ingress", 4, remote_set=name)


SSH = SecurityRule("ingress", 4, protocol=6, port_min=22, port_max=22)
PING = SecurityRule("ingress", 4, protocol=1)


class Recorded(SimulatedSwitch):
    """`calls`: what changed something, when it was done."""

    def __init__(self, simulated: settings.Simulated, world: World) -> None:
        super().__init__(simulated, world=world)
        self.calls: list[tuple[str, Any]] = []
        self.at: list[float] = []
        self.filters: dict[str, Filter | None] = {}

    async def wire(self, port: PortWiring, rules: Filter | None = None) -> None:
        await super().wire(port, rules)
        self.filters[port.port_id] = rules
        self.note("wire", port.port_id)

    async def unplug(self, port_ids: Sequence[str], *, deletion: FlowDeletion = "deferred") -> None:
        await super().unplug(port_ids, deletion=deletion)
        self.note("unplug", sorted(port_ids))

    async def address_set(self, set_id: str, addresses: Collection[str]) -> None:
        await super().address_set(set_id, addresses)
        self.note("set", (set_id, *sorted(addresses)))

    async def change_set(self, set_id: str, joined: Collection[str], left: Collection[str]) -> None:
        await super().change_set(set_id, joined, left)
        self.note("set", (set_id, *sorted(self.world.sets[set_id])))

    async def drop_sets(self, set_ids: Collection[str]) -> None:
        await super().drop_sets(set_ids)
        self.note("drop", sorted(set_ids))

    def note(self, what: str, of: Any) -> None:
        self.calls.append((what, of))
        self.at.append(time.monotonic())


class Control:
    """The truth with its versions, questions that may go unanswered, hints that may go astray."""

    def __init__(self, bus: InProcessBus, switch: Recorded) -> None:
        self.bus = bus
        self.switch = switch
        self.groups: dict[str, GroupRules] = {}
        self.sets: dict[str, AddressSet] = {}
        self.ports: dict[str, PortWiring] = {}
        self.questions: list[SecurityRequest] = []
        self.stale: Security | None = None
        self.security_answers, self.details_answer, self.levels_answer = (asyncio.Event() for _ in range(3))
        for answers in (self.security_answers, self.details_answer, self.levels_answer):
            answers.set()
        bus.serve(from_hosts(SECURITY), SecurityRequest, self._security, concurrency=8)
        bus.serve(from_hosts(DETAILS), DeviceDetailsRequest, self._details, concurrency=8)
        bus.serve(from_hosts(LEVELS), DeviceLevels, self._levels, concurrency=8)

    def allow(self, group_id: str, *rules: SecurityRule) -> SecurityChanged:
        """A group's rules are others; the hint that says so."""
        before = self.groups.get(group_id)
        self.groups[group_id] = GroupRules(group_id, before.version + 1 if before else 1, True, list(rules))
        return SecurityChanged([self.groups[group_id]], [])

    def change(self, set_id: str, *, joined: Collection[str] = (), left: Collection[str] = ()) -> SecurityChanged:
        before = self.sets.get(set_id, AddressSet(set_id, 0, []))
        after = AddressSet(set_id, before.version + 1, sorted(set(before.addresses) - set(left) | set(joined)))
        self.sets[set_id] = after
        return SecurityChanged([], [SetChange(set_id, before.version, after.version, list(joined), list(left))])

    async def hint(self, message: SecurityChanged) -> None:
        await self.bus.publish(security_subject("host"), message)

    async def _security(self, question: SecurityRequest) -> Security:
        self.questions.append(question)
        await self.security_answers.wait()
        if self.stale is not None:
            answer, self.stale = self.stale, None
            return answer
        groups = [self.groups.get(key, GroupRules(key, 0, True, [])) for key in question.groups]
        named = {rule.remote_set for group in groups for rule in group.rules if rule.remote_set}
        sets = [self.sets.get(key, AddressSet(key, 0, [])) for key in named | question.sets.keys()]
        return Security(
            [group for group in groups if group.version != question.groups[group.group_id]],
            [each for each in sets if each.version != question.sets.get(each.set_id, -1)],
            [name for name, said in question.ports.items() if name in self.ports and said != _groups(self.ports[name])],
        )

    async def _details(self, question: DeviceDetailsRequest) -> DeviceDetails:
        self.switch.note("details", question.port_ids)
        await self.details_answer.wait()
        return DeviceDetails([self.ports[port_id] for port_id in question.port_ids if port_id in self.ports])

    async def _levels(self, message: DeviceLevels) -> Taken:
        await self.levels_answer.wait()
        self.switch.note("report", sorted((told.port_id, told.level) for told in message.levels))
        return Taken(len(message.levels))


class Rig:
    def __init__(self, simulated: settings.Simulated, network: settings.Network, *, notices: bool, world: World) -> None:
        self.bus = InProcessBus()
        self.switch = Recorded(simulated, world)
        self.control = Control(self.bus, self.switch)
        self.agent = Agent("host", self.switch, SimulatedDhcp(), self.bus, network, notices=notices)
        self.bus.subscribe(security_subject("host"), SecurityChanged, self.agent.security)

    async def plugged(self, *ports: PortWiring) -> None:
        for each in ports:
            self.control.ports[each.port_id] = each
            await self.switch.open_tap(each.port_id, each.mtu)
            await self.switch.plug(each)

    async def wired(self, *ports: PortWiring) -> None:
        """As the compute side asks for it."""
        self.agent.expect(ports)
        await self.plugged(*ports)
        await asyncio.gather(*(self.agent.wire(each) for each in ports))

    async def passes(self, name: str, *rules: SecurityRule) -> None:
        """Wait until the port lets just that pass."""
        await self.until(lambda: name in self.switch.filters and set(_rules(self.switch.filters[name])) == set(rules))

    async def has(self, set_id: str, *addresses: str) -> None:
        """Wait until the switch has just these addresses in a set."""
        await self.until(lambda: self.switch.world.sets.get(set_id) == set(addresses))

    async def until(self, condition: Any, limit: float = 5.0) -> None:
        async with asyncio.timeout(limit):
            while not condition():
                await asyncio.sleep(0.002)

    def done(self, *kinds: str) -> list[tuple[str, Any]]:
        """What the switch was asked since this was asked last."""
        calls = [call for call in self.switch.calls if call[0] in kinds]
        self.switch.calls.clear()
        self.switch.at.clear()
        return calls


def _groups(port: PortWiring) -> list[str] | None:
    return sorted(port.security_groups) if port.port_security else None


def _rules(rules: Filter | None) -> tuple[SecurityRule, ...]:
    return rules.rules if rules is not None else ()


@asynccontextmanager
async def rig(
    *,
    owned: Mapping[str, PortWiring] | None = None,
    notices: bool = False,
    world: World | None = None,
    simulated: Mapping[str, float] | None = None,
    silent: bool = False,
    **network: Any,
) -> AsyncIterator[Rig]:
    """`network`: settings of that section. `silent`: nobody says what security groups are until `security_answers` is set."""
    chosen = settings.Network(**{"rpc_timeout": 0.2, "members_interval": 1000.0, **network})
    made = Rig(settings.Simulated(**(simulated or {})), chosen, notices=notices, world=world or World())  # type: ignore[arg-type]
    if silent:
        made.control.security_answers.clear()
    made.control.ports.update(owned or {})
    await made.agent.start(owned or {})
    try:
        yield made
    finally:
        await made.agent.close()
        await made.bus.close()
