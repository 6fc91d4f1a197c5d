"""The bus that the settings name."""

from __future__ import annotations

from pileus.bus import Bus
from pileus.bus.inprocess import InProcessBus
from pileus.settings import Settings


async def open_bus(settings: Settings, *, name: str, host: str = "") -> Bus:
    """Connect by `bus.url`, or stay within the process. `name` is what the server's operator sees; `host`: that one's name, whose answers
    come to an inbox of its own (empty: the control plane). Raises StartupError in one line."""
    if not settings.bus.url:
        return InProcessBus()
    from pileus.bus.nats import NatsBus

    return await NatsBus.connect(settings.bus, name=name, host=host)
