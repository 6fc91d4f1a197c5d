"""What a worker counts of its actions, for Prometheus. Where nobody can read it (`metrics.listen` is empty) nothing is counted:
Prometheus's client costs a start 100 ms."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from pileus.compute.leases import Taken
from pileus.compute.lifecycle import Failure

STATES = {"waiting": "waiting", "blocked": "blocked", "queued": "running", "sent": "running", "parked": "parked", "unwinding": "unwinding"}
"""State of a create → what it is called in the figures."""


class Figures:
    """Told after the transaction that did it, which may run more than once."""

    def __init__(self, shown: bool) -> None:
        self.shown = shown

    def let_in(self, batch: Iterable[Taken]) -> None:
        """Creates had their turn."""
        if self.shown:
            from pileus import metrics

            now = time.time()
            for action, _ in batch:
                metrics.COMPUTE_QUEUE.observe(max(0.0, now - action["stamps"]["accepted"]))

    def done(self, action: Mapping[str, Any]) -> None:
        """An action ended as it was meant to."""
        if self.shown:
            from pileus import metrics

            stamps = action["stamps"]
            begun = stamps.get("blocked") or stamps.get("queued") or stamps["accepted"]
            metrics.COMPUTE_SERVICE.labels(action["name"]).observe(max(0.0, time.time() - begun))

    def failed(self, action: Mapping[str, Any], failure: Failure) -> None:
        """One attempt failed."""
        if self.shown:
            from pileus import metrics

            metrics.COMPUTE_FAILED.labels(action["name"], failure.step).inc()

    def caches(self, why: str, *, read: int, failed: int, late: int) -> None:
        """The network was asked for the addresses of so many servers."""
        if self.shown:
            from pileus import metrics

            metrics.CACHE_READS.labels(why, "read").inc(read)
            metrics.CACHE_READS.labels(why, "failed").inc(failed)
            metrics.CACHE_LATE.inc(late)

    def asked(self, why: str, seconds: float) -> None:
        """For so long the network service's answer was waited for."""
        if self.shown:
            from pileus import metrics

            metrics.CACHE_SECONDS.labels(why).inc(seconds)

    def creates(self, counts: Mapping[str, int]) -> None:
        """How many creates are in which state now, in the whole cloud."""
        if self.shown:
            from pileus import metrics

            found = dict.fromkeys(STATES.values(), 0)
            for state, count in counts.items():
                if state in STATES:
                    found[STATES[state]] += count
            for word, count in found.items():
                metrics.COMPUTE_CREATES.labels(word).set(count)
