from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from pileus.cli.statefolder import login, running_pid
from pileus.errors import StartupError

YAML = """\
clouds:
  pileus:
    auth:
      auth_url: "http://127.0.0.1:8774/identity"
      username: "admin"
      password: "s:ecret"
      project_name: "admin"
    region_name: "RegionOne"
"""


def test_clouds_yaml_is_read(tmp_path: Path) -> None:
    (tmp_path / "clouds.yaml").write_text(YAML)
    found = login(tmp_path)
    assert (found.auth_url, found.password) == ("http://127.0.0.1:8774/identity", "s:ecret")


def test_a_damaged_clouds_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "clouds.yaml").write_text(YAML.replace("password", "passw0rd"))
    with pytest.raises(StartupError, match="'password'"):
        login(tmp_path)


def test_nobody_runs_without_a_held_lock(tmp_path: Path) -> None:
    assert running_pid(tmp_path) is None
    (tmp_path / "lock").write_text(str(os.getpid()))
    assert running_pid(tmp_path) is None


def test_a_lock_held_by_what_is_not_pileus_is_not_believed(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("1")
        lock.flush()
        assert running_pid(tmp_path) is None
