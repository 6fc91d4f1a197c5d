"""Children of one parent: started again when they die, ended with it, and a failure at the start is told once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT = 20.0

PROGRAM = """
import os, signal, sys
from pathlib import Path
from pileus.errors import StartupError
from pileus.supervisor import supervise

folder = Path(sys.argv[1])

def work(index, told):
    if (folder / "fail").exists() and index == 1:
        raise StartupError("no such thing")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    (folder / f"{index}.{os.getpid()}").touch()
    told()
    signal.sigwait({signal.SIGTERM})
    (folder / f"{index}.ended").touch()

try:
    supervise(2, work, lambda: print("ready", flush=True))
except StartupError as error:
    sys.exit(f"pileus: {error}")
"""


@contextmanager
def running(folder: Path) -> Iterator[subprocess.Popen[str]]:
    program = [sys.executable, "-c", PROGRAM, str(folder)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        try:
            yield parent
        finally:
            parent.kill()


def pids(folder: Path, index: int) -> set[int]:
    return {int(found.suffix[1:]) for found in folder.glob(f"{index}.*") if found.suffix[1:].isdigit()}


def until(condition: object) -> None:
    ends = time.monotonic() + LIMIT
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < ends
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_one_that_is_killed_is_started_again_and_all_end_with_the_parent(tmp_path: Path) -> None:
    with running(tmp_path) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        [first], [second] = pids(tmp_path, 0), pids(tmp_path, 1)
        os.kill(first, signal.SIGKILL)
        until(lambda: len(pids(tmp_path, 0)) == 2)
        assert not gone(second)
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(LIMIT) == 0
        assert all(gone(pid) for pid in pids(tmp_path, 0) | {second})
        assert (tmp_path / "0.ended").exists()
        assert (tmp_path / "1.ended").exists()


def test_children_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    with running(tmp_path) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        children = pids(tmp_path, 0) | pids(tmp_path, 1)
        parent.kill()
        until(lambda: all(gone(pid) for pid in children))


def test_a_failure_at_the_start_ends_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    with running(tmp_path) as parent:
        _, told = parent.communicate(timeout=LIMIT)
        assert parent.returncode == 1
        assert told.splitlines() == ["pileus: no such thing", "pileus: not started: see above"]
        assert all(gone(pid) for pid in pids(tmp_path, 0))


def test_it_ends_when_told_while_a_child_does_not_become_ready(tmp_path: Path) -> None:
    """The child leaves SIGTERM to its default, as a process does that has not installed its handlers yet."""
    program = PROGRAM.replace("    told()\n", "    signal.sigwait({signal.SIGUSR1})\n").replace("SIG_BLOCK", "SIG_UNBLOCK")
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        until(lambda: pids(tmp_path, 0) and pids(tmp_path, 1))
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(LIMIT) == 0
        assert parent.stdout is not None
        assert parent.stdout.read() == ""


def test_a_child_that_does_not_end_is_killed(tmp_path: Path) -> None:
    program = PROGRAM.replace("    signal.sigwait({signal.SIGTERM})\n", "    signal.sigwait({signal.SIGUSR1})\n")
    program = program.replace("import supervise", "import supervise\nimport pileus.supervisor\npileus.supervisor.PATIENCE = 0.2")
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(LIMIT) == 0
        assert all(gone(pid) for index in (0, 1) for pid in pids(tmp_path, index))
