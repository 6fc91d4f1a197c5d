"""`pileus up --profile story`: a whole cloud of the story's, over HTTP from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.blackbox.cloud import running
from tests.blackbox.test_callback import booted, steps

OWN = {
    "PILEUS_NETWORK__POLLING_INTERVAL": "0.2",
    "PILEUS_NETWORK__SEND_EVENTS_INTERVAL": "0.2",
    "PILEUS_COMPUTE__EXPLAIN": "true",
}
"""Your own settings win over the profile: a test need not wait seconds for each turn, and sees where a boot waited."""


def test_a_cloud_of_the_story_makes_and_deletes_servers(tmp_path: Path) -> None:
    with running(tmp_path, "--hosts", "2", "--profile", "story", **OWN) as cloud:
        admin = cloud.admin()
        servers = booted(admin, 4)
        assert [server["status"] for server in servers] == ["ACTIVE"] * 4
        assert steps(admin, servers[0]["id"])["signalled"] == "Success"
        asked = [sys.executable, "-m", "pileus", "why", servers[0]["id"], "--state", str(cloud.state), "--json"]
        told = json.loads(subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout)
        spans = {span["step"]: span["seconds"] for span in told["actions"][-1]["spans"]}
        assert {"wired", "signalled", "resumed"} <= set(spans)
        assert spans["wired"] + spans["signalled"] > 0.5 * sum(spans.values())  # there it waited
        admin.gone(*[server["id"] for server in servers])


def test_twenty_workers_are_refused_where_there_is_one_process(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pileus", "up", "--profile", "story", "--state", str(tmp_path), "--listen", "127.0.0.1:0"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False, env={"PILEUS_NETWORK__RPC_WORKERS": "20"})
    assert done.returncode == 1
    assert "network.rpc_workers is 20, but `pileus up` is one process" in done.stderr
    assert "Traceback" not in done.stderr
