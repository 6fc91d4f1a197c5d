"""What an experiment found, as `--json` writes it and the reports show it. Times in seconds, rates a second."""

from __future__ import annotations

from typing import Any

import msgspec


class Window(msgspec.Struct, frozen=True):
    """Creates that began within some seconds of a run: is it stable? `start`: since the run's beginning."""

    start: float
    created: int
    active: int
    p50_s: float | None
    p99_s: float | None


class Rung(msgspec.Struct, frozen=True):
    """One load that a case was put under. `seconds`: for how long creates came; percentiles are of POST to ACTIVE, of those that
    became so. `good`: all ACTIVE, and p99 under half the plug timeout. `steps`: mean seconds of each step on the way that decided (those
    beside it are not in it), of the creates that ended: together they are the mean of the whole."""

    rate_per_s: float
    seconds: float
    created: int
    active: int
    error: int
    plug_timeouts: int
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    good: bool
    steps: dict[str, float] = {}
    windows: list[Window] = []
    figures: dict[str, float] = {}
    """What the parts measured meanwhile: `agent_blocked_s` (a host and minute), `pool_wait_s`, `rpc_wait_s` (of an agent's question and
    its report together, handling and all), `heal_requests_per_min`, …"""


class Case(msgspec.Struct, frozen=True):
    """One setting of the platform. The counts, percentiles and steps are those of the load that breaks the first case.

    `knee_per_s`: the highest rate that was good; `predicted_knee_per_s` by Little's law, `limited_by` what it says is the limit, and
    `arithmetic` how.
    """

    name: str
    settings: dict[str, Any]
    knee_per_s: float
    predicted_knee_per_s: float
    created: int
    active: int
    error: int
    plug_timeouts: int
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    steps: dict[str, float]
    limited_by: str = ""
    arithmetic: str = ""
    note: str = ""
    """Where a setting does not matter: that it does not, and why."""
    rungs: list[Rung] = []


class Experiment(msgspec.Struct, frozen=True):
    """`load_per_s`: the load that breaks the first case. `real`, `simulated`, `added`: what the figures are made of, in sentences."""

    title: str
    version: str
    started_at: float
    seconds: float
    machine: dict[str, Any]
    load_per_s: float
    plug_timeout_s: float
    real: list[str]
    simulated: list[str]
    added: list[str]
    cases: list[Case]
