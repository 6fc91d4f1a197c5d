"""The numeric user ids of guests."""

from __future__ import annotations

import pytest

from pileus.host.hypervisor import HypervisorError
from pileus.host.hypervisor.userids import UserIds


def test_ids_are_taken_in_a_ring_and_each_once() -> None:
    ids = UserIds(1000, 4)
    ids.begin({1003, 7}, place=6)
    assert [ids.take() for _ in range(3)] == [1002, 1000, 1001]
    with pytest.raises(HypervisorError, match="all 4 user ids"):
        ids.take()
    ids.free(1000)
    assert ids.take() == 1000


def test_the_id_freed_last_is_not_the_next() -> None:
    ids = UserIds(1000, 4)
    first = ids.take()
    ids.free(first)
    assert ids.take() != first
