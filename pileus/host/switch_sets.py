"""What the switch has been told of security groups: sets of addresses, and the rules that ports were wired with.

A set must be there before flows of a port name it, and may go when no port's flows do any more. One of which nothing is known yet is
left as it stands: it may have members of an earlier process's telling, which the flows of ports rest on. Flows may name the sets of all
rules that a port was wired with since it is known what it has; so each port holds sets (`hold`) until it is wired with others (`wired`),
or gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial

import structlog

from pileus.host.locks import Locks
from pileus.host.switch import Filter, Switch, SwitchError
from pileus.messages import SecurityRule

log = structlog.get_logger(__name__)

AddressesOf = Callable[[str], Collection[str] | None]
"""What is known of a set; None: nothing."""


class SwitchSets:
    """This is about the switch, not about what somebody knows: it stays when the agent forgets everything."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._addresses_of: AddressesOf = lambda _: None
        self._is_named: Callable[[str], bool] = lambda _: False
        self._locks = Locks()
        self._told: dict[str, set[str] | None] = {}
        """Set → its addresses; None: it may stand, with what is not known."""
        self._wired: dict[str, Filter | None] = {}
        self._held: dict[str, tuple[frozenset[str], ...]] = {}
        self._uses: Counter[str] = Counter()
        self._unused: set[str] = set()
        self._resets = 0

    def follow(self, addresses_of: AddressesOf, is_named: Callable[[str], bool]) -> None:
        """From now on this is what is known, and whether a group of a port here names a set; sets of before that nobody will need go."""
        self._addresses_of, self._is_named = addresses_of, is_named
        self._unused |= self._told.keys()

    def is_told(self, set_id: str) -> bool:
        return set_id in self._told

    def is_wired(self, port_id: str, rules: Filter | None) -> bool:
        """Whether the port's flows stand for these rules."""
        return port_id in self._wired and self._wired[port_id] == rules

    async def hold(self, port_id: str, rules: Filter | None) -> None:
        """Before a port is wired with these: the sets that they name stay, and are told where they were not. Raises SwitchError."""
        named = named_by(rules.rules) if rules is not None else frozenset[str]()
        held = self._held.get(port_id, ())
        if named not in held:
            self._held[port_id] = (*held, named)
            self._uses.update(named)
        for set_id in sorted(named):
            if self._told.get(set_id) is None:
                await self.tell(set_id)
        if named not in self._held.get(port_id, ()):  # the port went meanwhile, and what was told since then is nobody's
            self._unused |= {set_id for set_id in named if self._uses[set_id] <= 0}
            await self.drop_unused()

    async def wired(self, port_id: str, rules: Filter | None) -> None:
        """A port has been wired with these: what it had before is used by it no more."""
        self._wired[port_id] = rules
        self._release(port_id, named_by(rules.rules) if rules is not None else frozenset())
        await self.drop_unused()

    async def gone(self, port_ids: Iterable[str]) -> None:
        """The flows of these are gone from the switch: sets that no other port needs go, too."""
        for port_id in port_ids:
            self._wired.pop(port_id, None)
            self._release(port_id, None)
        await self.drop_unused()

    def reset(self) -> None:
        """The switch has lost its flows: whoever wires a port tells it the sets anew."""
        self._resets += 1
        for lost in (self._told, self._wired, self._held, self._uses, self._unused):
            lost.clear()

    async def tell(self, set_id: str, changed: Collection[str] | None = None) -> None:
        """What is known of a set. Where that is nothing it is left as it is, to be told when there is something. `changed`: the addresses
        of which there is news, None: any. Raises SwitchError."""
        async with self._locks.of(set_id):
            while (work := self._work(set_id, changed)) is not None:
                # Told or not, something of it may stand from here on: whoever tells may be ended in the middle, or refused.
                self._told.setdefault(set_id, None)
                resets, (telling, after) = self._resets, work
                try:
                    await telling()
                except BaseException:
                    if resets == self._resets:
                        self._told[set_id] = None
                    raise
                if resets == self._resets:
                    self._told[set_id] = after()

    def _work(self, set_id: str, changed: Collection[str] | None) -> tuple[Callable[[], Awaitable[None]], Callable[[], set[str]]] | None:
        """What the switch is to be told, and what stands there afterwards. A change costs what has changed, not what there is."""
        known, told = self._addresses_of(set_id), self._told.get(set_id)
        if known is None:
            self._told.setdefault(set_id, None)
            return None
        if told is None or changed is None:
            addresses = set(known)
            return None if told == addresses else (partial(self._switch.address_set, set_id, addresses), lambda: addresses)
        joined = {address for address in changed if address in known and address not in told}
        left = {address for address in changed if address not in known and address in told}
        if not joined and not left:
            return None

        def after() -> set[str]:
            told.difference_update(left)
            told.update(joined)
            return told

        return partial(self._switch.change_set, set_id, joined, left), after

    def unnamed(self, set_id: str) -> None:
        """No group names it any more; the next `drop_unused` sees whether a port's flows do."""
        self._unused.add(set_id)

    async def drop_unused(self) -> None:
        for set_id in sorted(self._unused):
            async with self._locks.of(set_id):
                self._unused.discard(set_id)
                if self._uses[set_id] > 0 or self._is_named(set_id):
                    continue
                del self._uses[set_id]
                if set_id not in self._told:
                    continue
                del self._told[set_id]
                try:
                    await self._switch.drop_sets([set_id])
                except SwitchError as error:
                    log.warning("the switch did not drop a set of addresses, trying again", set=set_id, cause=str(error))
                    self._told[set_id] = None
                    self._unused.add(set_id)

    def _release(self, port_id: str, kept: frozenset[str] | None) -> None:
        for named in self._held.pop(port_id, ()):
            if named == kept:
                self._held[port_id] = (named,)
                continue
            self._uses.subtract(named)
            self._unused |= {set_id for set_id in named if self._uses[set_id] <= 0}


def named_by(rules: Iterable[SecurityRule]) -> frozenset[str]:
    """The sets that rules name."""
    return frozenset(rule.remote_set for rule in rules if rule.remote_set is not None)
