"""A folder that goes whatever ends its owner, kill -9 as well."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# Waits until its input ends, which is when its owner does. Where the folder is still there it runs the rest of its words, and removes the
# folder as soon as nobody makes files in it any more.
_SWEEP = """
trap "" INT TERM HUP
cat >/dev/null
folder=$1
shift
[ $# -eq 0 ] || [ ! -d "$folder" ] || "$@"
n=0
while [ $n -lt 100 ] && ! rm -rf "$folder" 2>/dev/null; do sleep 0.1; n=$((n+1)); done
"""
LIMIT = 30.0


MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own in it
MEMORY_NEEDED = 2 << 30


@contextmanager
def swept(*, memory: bool = True, ending: Callable[[Path], Sequence[str]] = lambda _: ()) -> Iterator[Path]:
    """A new folder, in memory where there is enough, that every user can get through, with our pid in its name; afterwards it is gone.

    `ending`: a command that ends what runs in the folder. It is run only where we could not: we were killed.
    """
    quick = memory and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_NEEDED
    folder = Path(tempfile.mkdtemp(prefix=f"pileus-lab-{os.getpid()}-", dir=MEMORY if quick else None))
    folder.chmod(0o711)
    sweeper = subprocess.Popen(
        ["/bin/sh", "-c", _SWEEP, "sweep", str(folder), *ending(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if sweeper.stdin is not None:
            sweeper.stdin.close()
        sweeper.wait(LIMIT)
