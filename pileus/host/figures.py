"""What a network agent counts, in processes whose figures somebody can read: `pileus.metrics` costs 100 ms of a start, so it is imported by
who shows it (metrics_server.py), and nothing is counted where it is not."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


def _shown() -> ModuleType | None:
    return sys.modules.get("pileus.metrics")


def wire_waited(seconds: float) -> None:
    """So long a port waited until its wiring began."""
    if (metrics := _shown()) is not None:
        metrics.AGENT_WIRE_WAIT.observe(seconds)


def turned(seconds: float) -> None:
    """So long one turn of the serial loop was."""
    if (metrics := _shown()) is not None:
        metrics.AGENT_TURN.observe(seconds)


def blocked(seconds: float) -> None:
    """So long nothing was done but removing ports."""
    if (metrics := _shown()) is not None:
        metrics.AGENT_BLOCKED.inc(seconds)


@contextmanager
def asking_details() -> Iterator[None]:
    """Around a question for ports' details, all tries together."""
    began = time.monotonic()
    try:
        yield
    finally:
        if (metrics := _shown()) is not None:
            metrics.AGENT_DETAILS.observe(time.monotonic() - began)


@contextmanager
def reporting() -> Iterator[None]:
    """Around a report of ports' levels, all tries together."""
    began = time.monotonic()
    try:
        yield
    finally:
        if (metrics := _shown()) is not None:
            metrics.AGENT_REPORT.observe(time.monotonic() - began)
