"""What an experiment's figures mean: was it good, was it foretold, which load is compared. And how cases are named."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from pileus.lab.markup import GAP, NOTHING
from pileus.lab.results import Case, Experiment, Rung

WORDS = "case"
"""Among a case's settings: what the case is, in words."""
CLOSE = 0.3
"""A knee is foretold rightly when the measured one is no further from it than this part."""


def titled(found: Experiment) -> Experiment:
    """The same with cases named by what they are in words (`case` of their settings), where they say it."""
    return msgspec.structs.replace(found, cases=[_titled(case) for case in found.cases])


def _titled(case: Case) -> Case:
    said = str(case.settings.get(WORDS) or case.name)
    others = {key: value for key, value in case.settings.items() if key != WORDS}
    return msgspec.structs.replace(case, name=said[:1].upper() + said[1:], settings=others)


def is_good(case: Case, found: Experiment) -> bool:
    """At the load of the comparison: all ACTIVE, p99 under half the plug timeout."""
    return case.created > 0 and case.active == case.created and case.p99_s is not None and case.p99_s < found.plug_timeout_s / 2


def at_load(case: Case, load: float) -> Rung | None:
    """What the case did at the load that all are compared at."""
    return next((rung for rung in case.rungs if math.isclose(rung.rate_per_s, load, rel_tol=0.01)), None)


def tone(case: Case, found: Experiment) -> str:
    """Of the colours: `good`, `bad` where servers were lost, or neither."""
    return "good" if is_good(case, found) else "bad" if case.active < case.created else ""


def is_close(case: Case) -> bool:
    """Was the knee foretold?"""
    return case.predicted_knee_per_s > 0 and abs(case.knee_per_s / case.predicted_knee_per_s - 1) <= CLOSE


def off(case: Case) -> str:
    """How far the measured knee is from the foretold one."""
    if case.predicted_knee_per_s <= 0:
        return NOTHING
    return f"{100 * (case.knee_per_s / case.predicted_knee_per_s - 1):+.0f}{GAP}%".replace("-", "−")


def quoted(names: Sequence[str]) -> str:
    """As a sentence has them."""
    said = [f"“{name}”" for name in names]
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
