"""The numeric user ids of guests: each guest has one that nobody else on the machine uses."""

from __future__ import annotations

from collections.abc import Iterable

from pileus.host.hypervisor import HypervisorError


class UserIds:
    """Ids from `base` to `base + count - 1`. Kept durably elsewhere: in each guest's folder."""

    def __init__(self, base: int, count: int) -> None:
        self._base = base
        self._count = count
        self._next = 0
        self._taken: set[int] = set()

    def begin(self, taken: Iterable[int], place: int) -> None:
        """Note what is taken already, and where to look first: two clouds on one machine begin at different places, so that
        their guests share no user id."""
        self._taken = set(taken)
        self._next = place % self._count

    def take(self) -> int:
        """An id that is free, not the one freed last where that can be. Raises HypervisorError."""
        for step in range(self._count):
            uid = self._base + (self._next + step) % self._count
            if uid not in self._taken:
                self._next = (uid - self._base + 1) % self._count
                self._taken.add(uid)
                return uid
        raise HypervisorError(f"all {self._count} user ids for guests are taken; raise host.guest_uid_count")

    def free(self, uid: int) -> None:
        self._taken.discard(uid)
