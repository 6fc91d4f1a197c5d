"""Several processes of one kind under one parent, which does nothing else: one that dies is started again, and none outlives it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from pileus.errors import StartupError

log = structlog.get_logger(__name__)

FIRST_PAUSE, LAST_PAUSE = 0.1, 10.0
"""Seconds before a child that died is started again: doubled each time that it dies young."""
YOUNG = 30.0
LOOK = 0.2
"""Seconds between looks for a signal while children start."""
PATIENCE = 60.0
"""Seconds that a child may take to end, before it is killed."""

Work = Callable[[int, Callable[[], None]], None]
"""What a child does: its index, and what to call when it is ready."""

_PR_SET_PDEATHSIG = 1
_TOLD = {signal.SIGTERM, signal.SIGINT}
_OURS = {signal.SIGCHLD, *_TOLD}


@dataclass
class _Child:
    pid: int
    ready: int
    """Read end of a pipe: a byte comes when the child is ready, the end when it has died before."""
    started_at: float
    pause: float = FIRST_PAUSE


def supervise(count: int, work: Work, ready: Callable[[], None]) -> None:
    """Run `work` in `count` processes until SIGTERM or SIGINT; `ready` is called once, when all of them are.

    A child that fails before all were ready ends everything. Raises StartupError then: the child has told why.
    """
    gc.collect()
    gc.freeze()  # so that the collector of a child does not write to, and so copy, the pages that all share
    signal.pthread_sigmask(signal.SIG_BLOCK, _OURS)
    children = {index: _fork(index, work, FIRST_PAUSE) for index in range(count)}
    try:
        if all(_becomes_ready(child) for child in children.values()):
            ready()
            _watch(children, work)
    finally:
        _end(children)


def _becomes_ready(child: _Child) -> bool:
    """False where we are told to end before. Raises StartupError where the child has died."""
    while signal.sigtimedwait(_TOLD, 0) is None:
        if select.select([child.ready], [], [], LOOK)[0]:
            if os.read(child.ready, 1) != b"!":
                raise StartupError("not started: see above")
            return True
    return False


def _watch(children: dict[int, _Child], work: Work) -> None:
    """Start again whatever dies, until we are told to end."""
    again: dict[int, tuple[float, float]] = {}
    while True:
        wait = min((at for at, _ in again.values()), default=time.monotonic() + 3600) - time.monotonic()
        told = signal.sigtimedwait(_OURS, max(0.0, wait))
        if told is not None and told.si_signo != signal.SIGCHLD:
            return
        now = time.monotonic()
        for index, code in _dead(children):
            child = children.pop(index)
            os.close(child.ready)
            pause = min(LAST_PAUSE, child.pause * 2) if now - child.started_at < YOUNG else FIRST_PAUSE
            log.error("a process died; it is started again", index=index, pid=child.pid, how=_how(code), after=child.pause)
            again[index] = (now + child.pause, pause)
        for index in [index for index, (at, _) in again.items() if at <= now]:
            _, pause = again.pop(index)
            children[index] = _fork(index, work, pause)


def _fork(index: int, work: Work, pause: float) -> _Child:
    parent = os.getpid()
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return _Child(pid, ours, time.monotonic(), pause)
    code = 1
    try:
        os.close(ours)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == parent:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _OURS)
            work(index, lambda: _tell(theirs))
            code = 0
    except StartupError as error:
        print(f"pileus: {error}", file=sys.stderr, flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _tell(pipe: int) -> None:
    with contextlib.suppress(OSError):
        os.write(pipe, b"!")
        os.close(pipe)


def _dead(children: dict[int, _Child]) -> list[tuple[int, int]]:
    found = []
    for index, child in children.items():
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid:
            found.append((index, os.waitstatus_to_exitcode(status)))
    return found


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _end(children: dict[int, _Child]) -> None:
    for child in children.values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGTERM)
    left, ends = dict(children), time.monotonic() + PATIENCE
    while left:
        for index, _ in _dead(left):
            os.close(left.pop(index).ready)
        if not left:
            break
        if (wait := ends - time.monotonic()) > 0:
            signal.sigtimedwait({signal.SIGCHLD}, wait)
            continue
        for child in left.values():
            log.error("a process does not end; it is killed", pid=child.pid)
            os.kill(child.pid, signal.SIGKILL)
        ends = time.monotonic() + PATIENCE
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _OURS)
