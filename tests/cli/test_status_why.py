from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import Cloud, Run, pileus, running

STEPS = ("accepted", "queued", "claimed", "addressed", "sent", "plugged", "paused", "wired", "signalled", "resumed", "reported")


def test_status_tells_services_hosts_and_servers(cloud: Cloud) -> None:
    cloud.make("counted")
    told = cloud.run("status")
    assert told.returncode == 0, told.stderr
    for service in ("identity", "image", "placement", "compute", "network"):
        assert re.search(rf"^{service}\s+ok\s+[\d.]+ ms\s+http://127\.0\.0\.1:", told.stdout, re.MULTILINE), told.stdout
    assert "simulated: " in told.stdout
    assert re.search(r"Servers: .*\d+ ACTIVE", told.stdout)


def test_status_as_json(cloud: Cloud) -> None:
    told = json.loads(cloud.run("status", "--json").stdout)
    assert [host["up"] for host in told["hosts"]] == [True]
    assert told["pid"] == cloud.process.pid
    assert told["settings"]["compute.plug_signal"] == "local"


def test_where_no_cloud_was_made(tmp_path: Path, one_line: Callable[[Run], str]) -> None:
    for command in (["status"], ["why", "web"], ["console", "web"]):
        line = one_line(pileus(*command, "--state", tmp_path / "nothing"))
        assert "there is no cloud in" in line
        assert "pileus up" in line


def test_where_the_cloud_has_ended(tmp_path: Path, one_line: Callable[[Run], str]) -> None:
    with running(tmp_path / "state"):
        pass
    assert "no cloud runs in" in one_line(pileus("status", "--state", tmp_path / "state"))


def test_why_draws_every_step_and_sums_up(cloud: Cloud) -> None:
    server = cloud.make("explained")
    told = cloud.run("why", "explained")
    assert told.returncode == 0, told.stderr
    for step in STEPS:
        assert re.search(rf"^  {step} +[\d.]+ ms  [ █▏▎▍▌▋▊▉░]+", told.stdout, re.MULTILINE), told.stdout
    assert "the agent set tag, flows and DHCP entry; after plugged, limit 300 s" in told.stdout
    assert re.search(r"The largest part of the time|Most of the time", told.stdout)
    assert f"explained ({server['id']}) is ACTIVE on host" in told.stdout
    assert cloud.run("why", server["id"]).stdout == told.stdout


def test_why_of_one_request_and_of_all(cloud: Cloud) -> None:
    server = cloud.make("twice")
    with cloud.client() as client:
        asked = client.request("POST", "compute", f"/servers/{server['id']}/action", json={"os-stop": None})
        cloud.settled(client, server["id"])
    assert cloud.run("why", "twice").stdout.startswith("stop of twice")
    everything = cloud.run("why", "twice", "--all").stdout
    assert everything.index("create of twice") < everything.index("stop of twice")
    request = asked.headers["X-Openstack-Request-Id"]
    only = json.loads(cloud.run("why", "twice", "--action", request, "--json").stdout)
    assert [action["request_id"] for action in only["actions"]] == [request]
    wrong = cloud.run("why", "twice", "--action", "req-nobody")
    assert (wrong.returncode, "req-nobody" in wrong.stderr) == (1, True)


def test_why_of_a_deleted_server(cloud: Cloud) -> None:
    server = cloud.make("gone")
    with cloud.client() as client:
        client.delete("compute", f"/servers/{server['id']}")
    for _ in range(500):
        told = cloud.run("why", "gone")
        if "is DELETED" in told.stdout:
            break
    assert "delete of gone" in told.stdout
    assert "ports, addresses and claim were given back" in told.stdout


def test_why_of_an_unknown_or_ambiguous_server(cloud: Cloud, one_line: Callable[[Run], str]) -> None:
    nobody = str(uuid.uuid4())
    assert nobody in one_line(cloud.run("why", nobody))
    ids = [cloud.make("same")["id"] for _ in range(2)]
    line = one_line(cloud.run("why", "same"))
    assert all(each in line for each in ids)
    assert "../" in one_line(cloud.run("why", "../status"))


def test_why_tells_the_step_and_cause_of_a_failure(tmp_path: Path) -> None:
    with running(tmp_path / "state", PILEUS_SIMULATED__FAIL_START="1") as failing:
        assert failing.make("doomed")["status"] == "ERROR"
        told = failing.run("why", "doomed").stdout
    assert re.search(r"^create of doomed.*: failed after", told)
    assert "Attempt 1 failed on host" in told
    assert "at `paused`: the simulated guest did not start" in told
    assert "It failed at `claimed`: No valid host was found" in told
    assert "is ERROR" in told


def test_why_shows_the_step_that_ran_into_its_limit(tmp_path: Path) -> None:
    slow = {"PILEUS_SIMULATED__WIRE": "60", "PILEUS_COMPUTE__VIF_PLUGGING_TIMEOUT": "0.2", "PILEUS_HOST__HOSTS": "2"}
    with running(tmp_path / "state", **slow) as failing:
        assert failing.make("late")["status"] == "ERROR"
        story = json.loads(failing.run("why", "late", "--json").stdout)
        told = failing.run("why", "late").stdout
    wired = {span["step"]: span for span in story["actions"][0]["spans"]}["wired"]
    assert wired["seconds"] >= 0.19
    assert wired["limit_seconds"] == 0.2
    assert re.search(r"Attempt 1 failed on host \S+ at `wired`", told)
    assert re.search(r"It failed at `wired` on host \S+: port \S+ was not wired within 0\.2 s\.", told)


def test_why_of_what_is_under_way(tmp_path: Path) -> None:
    with running(tmp_path / "state", PILEUS_SIMULATED__WIRE="30") as slow, slow.client() as client:
        body = {"name": "waiting", "flavorRef": "2", "imageRef": "", "networks": "auto"}
        client.post("compute", "/servers", {"server": body})
        for _ in range(500):
            told = slow.run("why", "waiting").stdout
            if "host" in told.partition("It is not over")[2]:
                break
    assert "create of waiting" in told
    assert "under way for" in told
    assert re.search(r"It is not over: it waits for host \S+, which was told [\d.]+ s ago", told)
