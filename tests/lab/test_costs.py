"""What costs are made from what was measured: a boot's own and what all share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pileus.lab.costs import Reading, Seen, _spent, bearable, fit


@given(own=st.floats(0.0, 1.0), shared=st.floats(0.0, 2.0), low=st.floats(0.5, 5.0), factor=st.floats(1.3, 10.0))
def test_what_grows_with_the_rate_is_told_from_what_does_not(own: float, shared: float, low: float, factor: float) -> None:
    points = [(rate, shared + own * rate) for rate in (low * factor, low)]
    found = fit(points)
    assert found[0] == pytest.approx(own, abs=1e-6)
    assert found[1] == pytest.approx(shared, abs=1e-5)


@given(points=st.lists(st.tuples(st.floats(0.1, 100.0), st.floats(0.0, 10.0)), min_size=1, max_size=4))
def test_neither_part_is_below_nothing_and_the_heaviest_load_is_met(points: list[tuple[float, float]]) -> None:
    own, shared = fit(points)
    assert own >= 0
    assert shared >= -1e-9
    rate, amount = max(points)
    assert own * rate + shared == pytest.approx(amount, abs=1e-9)


def test_the_next_load_fills_the_cores_that_are_left() -> None:
    one = [Seen(2.0, {}, {}, 0.6)]
    assert bearable(2.0, 0.1, one) == pytest.approx(1.9 / 0.3)
    assert bearable(2.0, 0.1, [*one, Seen(6.0, {}, {}, 1.4)]) == pytest.approx((1.9 - 0.2) / 0.2)


def test_what_is_spent_at_rest_is_not_the_works() -> None:
    idle = Reading({"api": 10.0, "worker": 0.0}, {"api": 0.5}, 2.0, 5.0).per_second()
    spent = Reading({"api": 120.0, "worker": 30.0}, {"api": 4.0}, 10.0, 10.0).less(idle, 10)
    assert spent.trips == {"api": 10.0, "worker": 3.0}
    assert spent.held["api"] == pytest.approx(0.3)
    assert spent.cpu == pytest.approx(0.6)


def test_loads_are_parted_between_creates_and_deletes_as_those_that_came_alone() -> None:
    found = _spent({"api": 30.0}, {"api": 10.0}, {"api": 5.0}, [(1.0, {"api": 44.0}), (3.0, {"api": 92.0})])
    assert (found.create, found.delete, found.heal, found.shared) == ({"api": 18.0}, {"api": 6.0}, {"api": 5.0}, {"api": 20.0})
