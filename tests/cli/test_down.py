from __future__ import annotations

import os
import signal
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
