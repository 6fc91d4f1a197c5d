"""TAPs in the switch's network namespace, for whichever process starts the guests."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pileus import settings
from pileus.host import privileged
from pileus.host.privileged import Namespace, tap_name
from pileus.host.switch import SwitchError, Tap
from pileus.host.switch.daemons import namespace_name


class SwitchTaps:
    """See `Taps`: for a compute side that is a process of its own. `folder`: the switch's."""

    def __init__(self, folder: Path, settings: settings.Host) -> None:
        self._namespace = Namespace("" if settings.switch_db else namespace_name(folder))

    async def open_tap(self, port_id: str, mtu: int) -> Tap:
        return await open_tap(self._namespace, port_id, mtu)

    def close(self) -> None:
        self._namespace.close()


async def open_tap(namespace: Namespace, port_id: str, mtu: int) -> Tap:
    """Raises SwitchError. A caller that is cancelled leaves no descriptor open."""
    name = tap_name(port_id)
    opening = asyncio.ensure_future(namespace.run(privileged.open_tap, name, mtu))
    try:
        return Tap(name, await asyncio.shield(opening))
    except OSError as error:
        raise SwitchError(f"TAP {name} cannot be made: {error.strerror or error}") from None
    except asyncio.CancelledError:
        opening.add_done_callback(_close_result)
        raise


def _close_result(opening: asyncio.Future[int]) -> None:
    if not opening.cancelled() and opening.exception() is None and opening.result() >= 0:
        os.close(opening.result())
