"""Does latency stay as it is while the load does? From a run's windows."""

from __future__ import annotations

from collections.abc import Sequence

from pileus.lab.results import Window

FACTOR, SECONDS = 1.5, 0.5
"""Latency grows where the last third of a run is so many times the first, and by more than so many seconds."""


def ends(values: Sequence[float | None]) -> tuple[float, float] | None:
    """Means of the first and of the last third; None where there are not two values."""
    known = [value for value in values if value is not None]
    third = max(1, len(known) // 3)
    return (sum(known[:third]) / third, sum(known[-third:]) / third) if len(known) > 1 else None


def grows(windows: Sequence[Window]) -> bool:
    """The median or the p99 of what was begun late in the run is clearly more than of what was begun early."""
    found = [ends([window.p50_s for window in windows]), ends([window.p99_s for window in windows])]
    return any(last > FACTOR * first and last - first > SECONDS for first, last in filter(None, found))


def loses(windows: Sequence[Window]) -> int:
    """In how many of them a server was lost."""
    return sum(window.active < window.created for window in windows)
