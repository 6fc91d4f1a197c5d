"""Whose connections conntrack keeps: a port that gets an address must not inherit those of the port that had it before. Pure.

They are kept by network (its zone is its tag) and address, and outlive the port by up to a day. To find those of an address the switch
looks through all that it keeps, so it is not asked to at each removal or each wiring, but only where another port has had the address,
or may have had it before this process was there.
"""

from __future__ import annotations

from collections.abc import Iterable

MOST = 100_000
"""Addresses remembered. When there are more nothing is known any more, as at the start."""


class Connections:
    def __init__(self) -> None:
        self._owners: dict[int, dict[str, int]] = {}
        self._known: set[int] = set()
        self._count = 0

    def begin(self, zone: int) -> None:
        """The zone was emptied: from now on it is known what stands there."""
        self._count -= len(self._owners.pop(zone, {}))
        self._known.add(zone)

    def take(self, zone: int, port: int, addresses: Iterable[str], *, stands: bool) -> list[str]:
        """The port (its cookie) is being wired with these addresses: those whose connections are, or may be, another port's. `stands`: it
        is wired already; what it had when this process came is its own."""
        if self._count > MOST:
            self._owners.clear()
            self._known.clear()
            self._count = 0
        owners = self._owners.setdefault(zone, {})
        foreign = []
        for address in addresses:
            before = owners.get(address)
            if before is None:
                self._count += 1
            if before != port and (before is not None or not (stands or zone in self._known)):
                foreign.append(address)
            owners[address] = port
        return foreign
