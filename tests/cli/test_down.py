from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pileus.cli import down
from pileus.errors import StartupError
from tests.cli.conftest import pileus, running


def test_down_ends_the_cloud_and_may_be_repeated(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running(state) as cloud:
        told = cloud.run("down", "--guests")
        assert (told.returncode, told.stderr) == (0, "")
        assert f"(pid {cloud.process.pid})" in told.stdout
        assert cloud.process.wait(10) == 0
    again = pileus("down", "--state", state, "--guests")
    assert again.returncode == 0
    lines = again.stdout.splitlines()
    assert (lines[0], lines[-1]) == (f"no cloud runs in {state}", "ended: there was nothing")


def test_down_of_a_cloud_that_hangs_says_so(tmp_path: Path) -> None:
    with running(tmp_path / "state") as cloud:
        os.kill(cloud.process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StartupError, match=rf"has not ended within 0 s; `kill -9 {cloud.process.pid}`"):
                down.stop(cloud.state, cloud.process.pid, 0.1)
        finally:
            os.kill(cloud.process.pid, signal.SIGCONT)


def test_teardown_leaves_a_running_cloud_alone(tmp_path: Path) -> None:
    from pileus.cli.teardown import teardown
    from pileus.settings import Settings

    with running(tmp_path / "state") as cloud:
        with pytest.raises(StartupError, match="still runs"):
            teardown(Settings(state=str(cloud.state)))
        assert cloud.process.poll() is None


SIDE = """
import signal, sys
from pathlib import Path
from pileus.lockfile import claimed
with claimed(Path(sys.argv[1]), sys.argv[2]):
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM})
"""


def test_down_ends_both_sides_of_a_host_that_are_processes_of_their_own(tmp_path: Path) -> None:
    from pileus.cli.teardown import teardown
    from pileus.settings import Settings

    with contextlib.ExitStack() as stack:
        sides = []
        for lock in ("lock-compute", "lock-network"):
            words = [sys.executable, "-c", f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]){SIDE}"]
            side = stack.enter_context(subprocess.Popen([*words, str(tmp_path), lock, "pileus"], stdout=subprocess.PIPE, text=True))
            stack.callback(side.kill)
            assert side.stdout is not None
            assert side.stdout.readline() == "ready\n"
            sides.append(side)
        with pytest.raises(StartupError, match="still runs"):
            teardown(Settings(state=str(tmp_path)))
        told = pileus("down", "--state", tmp_path)
        assert all(f"(pid {side.pid})" in told.stdout for side in sides)
        assert [side.wait(10) for side in sides] == [0, 0]
