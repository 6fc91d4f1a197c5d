"""The address sets that stand on the integration bridge: told by differences, read back from their flows when another process made them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable

from pileus.host.switch import SwitchError, security
from pileus.host.switch.openflow import DeleteFlows, FoundFlow, Message
from pileus.host.switch.security import FIRST_SET, LAST_SET, Member
from pileus.host.switch.tables import EGRESS_RULES, INGRESS_RULES, KIND_MASK, PORT_KIND, SET_KIND, WHOLE_COOKIE, Mark, cookie, kind_of

Send = Callable[[Callable[[], list[Message]]], Awaitable[None]]
"""Decide on changes and send them, all in one bundle, with no await between; decided anew where a bundle was refused."""
Ask = Callable[[int, int, int], Awaitable[list[FoundFlow]]]
"""The flows of a table that have a cookie, in the bits of a mask."""


class AddressSets:
    """`marks` are the pipeline's: a set's says its number. Its members are known as long as they stand in `_members`."""

    def __init__(self, marks: dict[int, Mark], send: Send, ask: Ask) -> None:
        self._marks = marks
        self._send = send
        self._ask = ask
        self._members: dict[int, set[Member]] = {}
        self._locks: dict[int, asyncio.Lock] = {}

    def forget(self) -> None:
        """The marks were read anew: what stands must be, too."""
        self._members.clear()

    def numbers(self, set_ids: Iterable[str]) -> tuple[dict[str, int], list[Message]]:
        """The numbers of sets, and the flows of those that nobody has told of yet: they stand without members. Raises SwitchError."""
        numbers: dict[str, int] = {}
        changes: list[Message] = []
        for set_id in set_ids:
            own = cookie(SET_KIND, set_id)
            mark = self._marks.get(own)
            if mark is None:
                mark = self._marks[own] = Mark(0, self._free(), 0)
                self._members[own] = set()
                changes += security.add_set(set_id, mark.ofport)
            numbers[set_id] = mark.ofport
        return numbers, changes

    async def tell(self, set_id: str, addresses: Collection[str]) -> None:
        """What is in a set: what has changed is sent, in bundles that leave room for others. Raises SwitchError."""
        own, wanted = cookie(SET_KIND, set_id), security.members_of(addresses)

        async def whole() -> None:
            if own not in self._marks:
                await self._send(lambda: self.numbers([set_id])[1])
            standing = await self._standing(own)
            await self._change(own, wanted - standing, standing - wanted)

        await self._alone(own, whole)

    async def change(self, set_id: str, joined: Collection[str], left: Collection[str]) -> None:
        """Who comes into a set that stands, and who leaves it. Raises SwitchError, also where it does not stand."""
        own = cookie(SET_KIND, set_id)

        async def some() -> None:
            if own not in self._marks:
                raise SwitchError(f"the address set {set_id} does not stand on this switch")
            standing, come = await self._standing(own), security.members_of(joined)
            await self._change(own, come - standing, (security.members_of(left) - come) & standing)

        await self._alone(own, some)

    async def _alone(self, own: int, work: Callable[[], Awaitable[None]]) -> None:
        """One after the other on a set; what stands after one that failed is not known."""
        async with self._locks.setdefault(own, asyncio.Lock()):
            try:
                await work()
            except BaseException:
                self._members.pop(own, None)
                raise

    async def _standing(self, own: int) -> set[Member]:
        if own not in self._members:
            found = await self._ask(security.MEMBERS_TABLE, own, WHOLE_COOKIE)
            self._members[own] = security.read_members(found)
        return self._members[own]

    async def _change(self, own: int, come: set[Member], go: set[Member]) -> None:
        for changes, joined, left in security.change_set(own, self._marks[own].ofport, come, go):

            def send(changes: list[Message] = changes, joined: list[Member] = joined, left: list[Member] = left) -> list[Message]:
                members = self._members[own]
                members.update(joined)
                members.difference_update(left)
                return changes

            await self._send(send)

    async def drop(self, set_ids: Collection[str]) -> None:
        """Sets that no port's rules name any more. Raises SwitchError."""
        wanted = {cookie(SET_KIND, set_id) for set_id in set_ids}
        await self._send(lambda: self._drop(wanted))

    async def drop_unused(self) -> None:
        """Sets that no flow of a port names. Raises SwitchError."""
        sets = {own: mark.ofport for own, mark in self._marks.items() if kind_of(own) == SET_KIND}
        if sets:
            used: set[int] = set()
            for table in (EGRESS_RULES, INGRESS_RULES):
                used |= {flow.priority for flow in await self._ask(table, cookie(PORT_KIND, "") & KIND_MASK, KIND_MASK)}
            await self._send(lambda: self._drop({own for own, number in sets.items() if number not in used}))

    def _drop(self, cookies: Iterable[int]) -> list[Message]:
        for own in cookies:
            self._marks.pop(own, None)
            self._members.pop(own, None)
            if own in self._locks and not self._locks[own].locked():
                del self._locks[own]
        return [DeleteFlows(own) for own in cookies]

    def _free(self) -> int:
        taken = {mark.ofport for own, mark in self._marks.items() if kind_of(own) == SET_KIND}
        for number in range(FIRST_SET, LAST_SET + 1):
            if number not in taken:
                return number
        raise SwitchError(f"this host has {len(taken)} address sets already: no number is left")
