"""`pileus up` with PostgreSQL and NATS under it: two settings, and all else as it is."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pileus.cli.client import Client
from tests.cli.conftest import Run, pileus, running
from tests.engines.nats import NatsServer
from tests.engines.postgresql import PostgresServer


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def engines(postgres: PostgresServer, nats: NatsServer) -> dict[str, str]:
    """What the environment says. The database is new and empty."""
    return {"PILEUS_DATABASE__URL": asyncio.run(postgres.fresh(empty=True)), "PILEUS_BUS__URL": nats.url}


def gone(client: Client, server_id: str) -> bool:
    return server_id not in {server["id"] for server in client.get("compute", "/servers")["servers"]}


def test_a_new_database_just_works_and_a_killed_cloud_comes_back(tmp_path: Path, engines: dict[str, str]) -> None:
    state = tmp_path / "state"
    with running(state, **engines) as cloud:
        kept, deleted = cloud.make("kept"), cloud.make("deleted")
        assert [kept["status"], deleted["status"]] == ["ACTIVE", "ACTIVE"]
        told = json.loads(cloud.run("status", "--json").stdout)
        assert (told["pid"], told["servers"], [host["up"] for host in told["hosts"]]) == (cloud.process.pid, {"ACTIVE": 2}, [True])
        assert "kept" in cloud.run("why", "kept").stdout
        with cloud.client() as client:
            client.request("DELETE", "compute", f"/servers/{deleted['id']}")
            cloud.until(lambda: gone(client, deleted["id"]))
        cloud.process.send_signal(signal.SIGKILL)
        cloud.process.wait(30)
    assert not (state / "pileus.db").exists()
    with running(state, **engines) as cloud:
        with cloud.client() as client:
            assert cloud.settled(client, kept["id"])["status"] == "ACTIVE"
            assert gone(client, deleted["id"])
        assert cloud.make("after")["status"] == "ACTIVE"
        down = cloud.run("down", "--guests")
        assert (down.returncode, down.stderr) == (0, "")
        assert cloud.process.wait(10) == 0


@pytest.mark.parametrize("engine", ["PILEUS_DATABASE__URL", "PILEUS_BUS__URL"])
def test_either_alone(tmp_path: Path, engines: dict[str, str], engine: str) -> None:
    with running(tmp_path / "state", **{engine: engines[engine]}) as cloud:
        assert cloud.make("alone")["status"] == "ACTIVE"


def test_a_database_that_is_not_there_is_one_line(tmp_path: Path, postgres: PostgresServer, one_line: Callable[[Run], str]) -> None:
    up = ("up", "--listen", "127.0.0.1:0", "--hypervisor", "simulated", "--state", tmp_path / "state")
    line = one_line(pileus(*up, PILEUS_DATABASE__URL=postgres.url("nowhere")))
    assert "nowhere" in line
    assert "CREATE DATABASE" in line


def test_a_demo_takes_nothing_of_a_cloud_that_is_kept() -> None:
    told = pileus(
        *("demo", "--hypervisor", "simulated"),
        PILEUS_DATABASE__URL="postgresql://nobody@127.0.0.1:1/x",
        PILEUS_BUS__URL="nats://127.0.0.1:1",
    )
    assert told.returncode == 0, told.stdout + told.stderr
