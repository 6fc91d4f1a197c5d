"""Child processes that do not outlive the one that made them, whatever ends it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def tied(number: int) -> Callable[[], None]:
    """For Popen's `preexec_fn`: the kernel sends the child this signal when the thread that made it ends. Source: prctl(2)."""
    parent = os.getpid()

    def arm() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)

    return arm
