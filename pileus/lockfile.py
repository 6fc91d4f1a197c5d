"""Whose a state folder is: the process that holds its lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pileus.errors import StartupError


@contextlib.contextmanager
def claimed(state: Path, name: str = "lock") -> Iterator[None]:
    """The state folder (or the share of it that has this lock) is ours alone while this lasts. Raises StartupError."""
    try:
        state.mkdir(mode=0o711, parents=True, exist_ok=True)
        file = (state / name).open("a+")
    except OSError as error:
        raise StartupError(f"state folder {state}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise StartupError(f"state folder {state} is in use by another pileus (pid {file.read().strip() or '?'})") from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
