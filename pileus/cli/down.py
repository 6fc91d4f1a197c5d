"""`pileus down`: end the cloud of a state folder; with `--guests` also all that it left running on this machine."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

from pileus.cli.statefolder import LOCKS, running_parts, running_pid
from pileus.errors import StartupError
from pileus.settings import Settings

PATIENCE = 30.0
"""Seconds beyond `api.drain` in which a cloud that was told to end must have ended."""


def down(settings: Settings, *, guests: bool) -> None:
    """Print what was done. Raises StartupError."""
    state = Path(settings.state)
    running = running_parts(state)
    for lock, pid in running:
        stop(state, pid, settings.api.drain + PATIENCE, lock)
        print(f"the cloud in {state} has ended (pid {pid})")
    if not running:
        print(f"no cloud runs in {state}")
    if guests:
        from pileus.cli.teardown import POWER_OFF, teardown

        print(f"ending guests, switch and DHCP (guests have {POWER_OFF:.0f} s to power off)", flush=True)
        gone = teardown(settings)
        print("ended: " + (", ".join(gone) if gone else "there was nothing"))


def stop(state: Path, pid: int, limit: float, lock: str = LOCKS[0]) -> None:
    """Tell a cloud to end and wait until it has. Raises StartupError past the limit, and where we may not."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if running_pid(state, lock) != pid:
            return  # it ended, and the number is somebody else's by now
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        ended, _, _ = select.select([handle], [], [], limit)
    except ProcessLookupError:
        return
    except PermissionError:
        raise StartupError(
            f"the cloud in {state} (pid {pid}) belongs to another user; call `pileus down` as that user or as root"
        ) from None
    finally:
        os.close(handle)
    if not ended:
        raise StartupError(f"the cloud in {state} (pid {pid}) has not ended within {limit:.0f} s; `kill -9 {pid}` ends it, guests go on")
