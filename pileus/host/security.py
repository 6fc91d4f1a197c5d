"""What the security groups of the ports here let pass: asked for when a group's first port comes, kept right by hints.

What is known of a group's rules, and of a set of addresses that rules name, has a version. A hint about rules brings all of them; one
about a set says what has changed since the version before: one that fits is taken, one that does not is a reason to ask, as is a while
without any. So hints may be lost, doubled or come in any order (law 1). What they change is noted here (`news`), and told to the switch
by the agent's loop (`Ports.renew`): a set by itself, rules by wiring the ports that they are for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from operator import itemgetter

import structlog

from pileus.bus import Bus, BusError
from pileus.host.reporter import PAUSE, growing_limits
from pileus.host.switch import Filter, SwitchError
from pileus.host.switch_sets import SwitchSets, named_by
from pileus.host.tunnels import rounds
from pileus.messages import (
    SECURITY,
    AddressSet,
    GroupRules,
    PortWiring,
    Security,
    SecurityChanged,
    SecurityRequest,
    SecurityRule,
    SetChange,
    from_host,
)
from pileus.settings import Network

log = structlog.get_logger(__name__)

PATIENCE = 3.0
"""Seconds that a port waits for the rules of a group, from when they were first asked for. Then it is wired with what is known, so
closed, and opened as soon as there is an answer."""
GONE = 0
"""The version at which a group or set is told that is no more; it is empty."""


@dataclass
class _Group:
    """`version` -1: nothing is known yet."""

    since: float
    ports: set[str] = field(default_factory=set)
    version: int = -1
    stateful: bool = True
    rules: tuple[SecurityRule, ...] = ()
    named: frozenset[str] = frozenset()
    known: asyncio.Event = field(default_factory=asyncio.Event)
    """Its rules are, and the sets that they name."""


@dataclass
class _Set:
    """`version` -1: nothing is known yet. `hinted`: the newest version that was heard of."""

    groups: set[str] = field(default_factory=set)
    version: int = -1
    hinted: int = -1
    addresses: set[str] = field(default_factory=set)


class SecurityGroups:
    """`run` is its owner's to start. `news` is set when there is something that the switch must be told: `stale_ports` are those
    whose rules may be others now, and `tell_stale` tells the sets. `others` is called with ports that are said to have other groups."""

    def __init__(
        self, host: str, switch_sets: SwitchSets, bus: Bus, settings: Network, others: Callable[[Collection[str]], None] = lambda _: None
    ) -> None:
        self.news = asyncio.Event()
        self.stale_ports: set[str] = set()
        self._host = host
        self._switch_sets = switch_sets
        self._bus = bus
        self._settings = settings
        self._others = others
        self._groups: dict[str, _Group] = {}
        self._sets: dict[str, _Set] = {}
        self._ports: dict[str, tuple[str, ...]] = {}
        self._open: set[str] = set()
        self._filters: dict[tuple[str, ...], Filter] = {}
        self._asks = asyncio.Event()
        self._heard_of = False
        self._number = 0.0
        self._stale_sets: dict[str, set[str] | None] = {}
        """Set → the addresses of which there is news; None: any."""
        switch_sets.follow(self._addresses_of, self._sets.__contains__)

    def enter(self, ports: Iterable[PortWiring]) -> None:
        """Ports that come here, or whose groups are others now: what is not known of these is asked for at once."""
        for port in ports:
            groups = tuple(sorted(set(port.security_groups))) if port.port_security else ()
            if port.port_security:
                self._open.discard(port.port_id)
            else:
                self._open.add(port.port_id)
            if self._ports.get(port.port_id) == groups:
                continue
            self._leave(port.port_id, frozenset(groups))
            self._ports[port.port_id] = groups
            for group_id in groups:
                if group_id not in self._groups:
                    self._groups[group_id] = _Group(time.monotonic())
                    self._asks.set()
                self._groups[group_id].ports.add(port.port_id)

    def leave(self, port_ids: Iterable[str]) -> None:
        """Ports that go; what is known of a group goes with its last one."""
        for port_id in port_ids:
            self._leave(port_id, frozenset())
            self._open.discard(port_id)
            self.stale_ports.discard(port_id)

    async def ready(self, port: PortWiring) -> tuple[Filter | None, bool]:
        """The rules to wire a port with, and whether all that they rest on is known: waits for that for a while, and tells the switch
        the sets. Raises SwitchError."""
        self.enter([port])
        for group_id in self._ports.get(port.port_id, ()):
            await self._until_known(group_id)
        rules = self.rules(port)
        await self._switch_sets.hold(port.port_id, rules)
        return rules, self.is_known(port.port_id)

    def is_known(self, port_id: str) -> bool:
        """Whether all that the port's rules rest on is."""
        return all(self._groups[group_id].known.is_set() for group_id in self._ports.get(port_id, ()))

    def rules(self, port: PortWiring) -> Filter | None:
        """What is known to pass, at this moment."""
        if not port.port_security:
            return None
        key = self._ports.get(port.port_id, ())
        found = self._filters.get(key)
        if found is None:
            groups = [self._groups[group_id] for group_id in key]
            rules = dict.fromkeys(rule for group in groups for rule in group.rules)
            found = self._filters[key] = Filter(all(group.stateful for group in groups), tuple(rules))
        return found

    def look(self, port: PortWiring) -> None:
        """A port has just been wired: were its rules changed meanwhile?"""
        if not self._switch_sets.is_wired(port.port_id, self.rules(port)):
            self.stale_ports.add(port.port_id)
            self.news.set()

    async def tell_stale(self) -> bool:
        """Tell the switch the sets that have changed. False: it did not take some; they stay noted."""
        stale, self._stale_sets = self._stale_sets, {}
        for set_id, changed in sorted(stale.items(), key=itemgetter(0)):
            try:
                if self._switch_sets.is_told(set_id):  # others are told by whoever wires with them
                    await self._switch_sets.tell(set_id, changed)
            except SwitchError as error:
                log.warning("the switch did not take a set of addresses, trying again", set=set_id, cause=str(error))
                self._stale_sets[set_id] = None
        await self._switch_sets.drop_unused()
        return not self._stale_sets

    async def changed(self, message: SecurityChanged) -> None:
        """A hint."""
        for told in message.groups:
            group = self._groups.get(told.group_id)
            if group is not None and told.version > group.version:
                self._take_rules(group, told)
        for change in message.sets:
            known = self._sets.get(change.set_id)
            if known is not None:
                self._take_hint(known, change)
        self._see_known()
        self._want_unknown()

    async def run(self) -> None:
        """Ask what is wanted, and now and then all: a lost hint is made good."""
        limits = growing_limits(self._settings.rpc_timeout)
        times = rounds(self._settings.members_interval)
        again, whole = next(times), False
        while True:
            try:
                async with asyncio.timeout_at(again):
                    await self._asks.wait()
            except TimeoutError:
                again, whole = next(times), True
            self._asks.clear()
            if not self._groups and not self._heard_of and not (whole and self._ports):
                continue
            try:
                await self._ask(next(limits), whole=whole)
                whole = False
                limits = growing_limits(self._settings.rpc_timeout)
            except BusError as error:
                log.warning("nobody says what security groups are, asking again", groups=len(self._groups), cause=str(error))
                await asyncio.sleep(PAUSE)
                self._asks.set()
            except Exception:
                log.exception("an answer about security groups was not understood; they are asked for again in a while")

    async def _ask(self, limit: float, *, whole: bool) -> None:
        """All in one question, whose list is also what this host wants to hear of. `whole`: do the ports still have these groups, too?"""
        groups = {group_id: group.version for group_id, group in self._groups.items()}
        sets = {set_id: known.version for set_id, known in self._sets.items()}
        ports = {port_id: None if port_id in self._open else list(groups) for port_id, groups in self._ports.items()} if whole else {}
        question = SecurityRequest(self._host, groups, sets, ports, self._next_number())
        answer = await self._bus.request(from_host(self._host, SECURITY), question, Security, timeout=limit)
        self._heard_of = bool(groups)
        for told in answer.groups:
            group = self._groups.get(told.group_id)
            if group is not None and (told.version >= group.version or told.version == GONE):
                self._take_rules(group, told)
        for members in answer.sets:
            known = self._sets.get(members.set_id)
            if known is not None:
                self._take_answer(known, members)
        self._see_known()
        self._want_unknown(sets)
        if answer.ports:
            self._others(answer.ports)

    def _next_number(self) -> float:
        """Of a question: the time (s), so that those of a process come after those of the one before it."""
        self._number = max(time.time(), self._number + 1e-3)
        return self._number

    def _take_rules(self, group: _Group, told: GroupRules) -> None:
        group.version = told.version
        if told.stateful == group.stateful and set(told.rules) == set(group.rules):
            return
        group.stateful, group.rules = told.stateful, tuple(told.rules)
        self._name(told.group_id, group, named_by(group.rules))
        self._filters.clear()
        self.stale_ports |= group.ports
        self.news.set()

    def _take_answer(self, known: _Set, told: AddressSet) -> None:
        """The truth, unless a hint of something newer came before it."""
        if told.version == GONE:
            known.hinted = GONE
        elif told.version < known.version:
            return
        known.version, known.addresses = told.version, set(told.addresses)
        if known.hinted > told.version:
            self._asks.set()
        self._stale(told.set_id, None)

    def _take_hint(self, known: _Set, change: SetChange) -> None:
        known.hinted = max(known.hinted, change.version)
        if known.version < 0 or change.version <= known.version:
            return
        known.addresses.difference_update(change.left)
        known.addresses.update(change.joined)
        if change.before == known.version:
            known.version = change.version
        else:
            self._asks.set()
        self._stale(change.set_id, {*change.joined, *change.left})

    def _stale(self, set_id: str, changed: set[str] | None) -> None:
        before = self._stale_sets.get(set_id, set())
        self._stale_sets[set_id] = None if changed is None or before is None else before | changed
        self.news.set()

    def _see_known(self) -> None:
        for group in self._groups.values():
            if group.known.is_set() or group.version < 0:
                continue
            if all(self._sets[set_id].version >= 0 for set_id in group.named):
                group.known.set()
                self.stale_ports |= group.ports
                self.news.set()

    def _want_unknown(self, asked: Collection[str] = ()) -> None:
        """Ask for sets of which nothing is known, but for those that were asked for just now."""
        if any(known.version < 0 and set_id not in asked for set_id, known in self._sets.items()):
            self._asks.set()

    async def _until_known(self, group_id: str) -> None:
        group = self._groups.get(group_id)
        if group is None:
            return  # its last port was removed meanwhile
        try:
            async with asyncio.timeout(max(0.0, group.since + PATIENCE - time.monotonic())):
                await group.known.wait()
        except TimeoutError:
            log.warning("nobody says what a security group lets pass; what it would is dropped until then", group=group_id)

    def _leave(self, port_id: str, staying: frozenset[str]) -> None:
        for group_id in self._ports.pop(port_id, ()):
            group = self._groups[group_id]
            group.ports.discard(port_id)
            if not group.ports and group_id not in staying:
                self._name(group_id, group, frozenset())
                del self._groups[group_id]
                self._filters.clear()

    def _name(self, group_id: str, group: _Group, named: frozenset[str]) -> None:
        """A group's rules name these sets now; those that no group names any more are forgotten."""
        for set_id in named - group.named:
            if set_id not in self._sets:
                self._sets[set_id] = _Set()
            self._sets[set_id].groups.add(group_id)
        for set_id in group.named - named:
            self._sets[set_id].groups.discard(group_id)
            if not self._sets[set_id].groups:
                del self._sets[set_id]
                self._switch_sets.unnamed(set_id)
        group.named = named

    def _addresses_of(self, set_id: str) -> set[str] | None:
        known = self._sets.get(set_id)
        return known.addresses if known is not None and known.version >= 0 else None
