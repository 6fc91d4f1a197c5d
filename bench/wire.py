"""The lab's HTTP client (pileus/lab/wire.py), under the name that the benchmarks know."""

from __future__ import annotations

from pileus.lab.wire import Reply, Wire

__all__ = ["Reply", "Wire"]
