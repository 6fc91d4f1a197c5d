"""The lab's private nats-server (pileus/lab/nats.py), under the name that tests know. As a fixture: `yield` it from within `with`."""

from __future__ import annotations

from pileus.lab.nats import NatsServer, free_port

__all__ = ["NatsServer", "free_port"]
