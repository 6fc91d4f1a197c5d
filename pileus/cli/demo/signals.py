"""Signals while the demo runs: they end it by way of the cleaning up, and do not cut that short."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does: by way of the cleaning up."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    with _handlers({signal.SIGTERM: end, signal.SIGHUP: end}):
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A second Ctrl-C does not cut the cleaning up short."""
    with _handlers(dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_IGN)):
        yield


@contextmanager
def _handlers(wanted: dict[signal.Signals, Callable[[int, Any], None] | signal.Handlers]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
