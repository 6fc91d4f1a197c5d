"""When silence proves that somebody is down: only while those who listen could hear, which they know by their own echo."""

from __future__ import annotations

DEAF = 20.0
"""Seconds without their own echo after which they hear nobody."""


def silent_before(heard_at: float, hearing_since: float, down_time: float, now: float) -> float:
    """Whoever was heard of before this is down. `heard_at`: of the last echo; `hearing_since`: of the first one since they heard nothing.
    Minus infinity: they have not listened for long enough, so nobody is known to be down."""
    limit = min(now, heard_at + DEAF) - down_time
    return limit if hearing_since <= limit else float("-inf")
