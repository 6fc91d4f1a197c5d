"""`pileus lab storm` as a person has it: against a simulated Pileus of its own process, in files and at a terminal's end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pileus.lab.storm import Storm
from tests.cli.conftest import Cloud, Run, environment, pileus, running
from tests.lab.browser import Browser


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """Ten servers fit into the project."""
    folder = tmp_path_factory.mktemp("storm")
    with running(folder / "state", PILEUS_QUOTA__INSTANCES="10", PILEUS_HOST__HOSTS="4", PILEUS_SIMULATED__START="0.05") as started:
        yield started


def lab_storm(cloud: Cloud, *arguments: str | Path) -> Run:
    return pileus("lab", "storm", *arguments, OS_CLIENT_CONFIG_FILE=str(cloud.state / "clouds.yaml"))


def names(cloud: Cloud) -> list[str]:
    with cloud.client() as client:
        return [server["name"] for server in client.get("compute", "/servers")["servers"]]


def test_a_storm_its_table_its_json_and_its_page(cloud: Cloud, tmp_path: Path, chromium: Browser) -> None:
    json, html = tmp_path / "storm.json", tmp_path / "storm.html"
    done = lab_storm(cloud, "--count", "10", "--image", "none", "--poll", "0.05", "--json", json, "--html", html)
    assert done.returncode == 0, done
    assert "100" in done.stdout and "All 10 that were made are deleted" in done.stdout
    assert "10 servers on pileus, all at once (image none, flavor m1.nano, network private)" in done.stderr
    found = msgspec.json.decode(json.read_bytes(), type=Storm)
    assert (found.created, found.active, found.deletes.left) == (10, 10, 0)
    assert found.p99_s is not None and 0.05 <= found.p99_s < 10
    assert names(cloud) == []
    chromium.said.clear()
    chromium.asked.clear()
    seen = chromium.open(html, width=400)
    assert len(seen["charts"]) == 3
    assert min(min(box) for box in seen["charts"]) > 100
    assert seen["width"] <= seen["room"]
    assert (chromium.said, chromium.asked) == ([], [])
    again = tmp_path / "again.html"
    assert pileus("lab", "report", json, "--html", again).returncode == 0
    assert again.read_text() == html.read_text()


def test_more_than_the_quota_is_told(cloud: Cloud, tmp_path: Path) -> None:
    json = tmp_path / "storm.json"
    done = lab_storm(cloud, "--count", "13", "--image", "none", "--rate", "50", "--poll", "0.05", "--json", json)
    assert done.returncode == 1, done
    found = msgspec.json.decode(json.read_bytes(), type=Storm)
    assert (found.active, found.refused) == (10, 3)
    assert "3 × refused: Quota exceeded for instances" in done.stdout
    assert names(cloud) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--image", "no-such"), "--image: the cloud has no image 'no-such'; it has none"),
        ((), "the cloud has no image to start servers from"),
        (("--image", "none", "--network", "x"), "--network: the cloud has no network 'x'; it has private"),
        (("--os-cloud", "x"), "there is no cloud 'x'"),
        (("--image", "none", "--html", "/no/such/folder/x.html"), "there is no folder /no/such/folder"),
    ],
)
def test_what_cannot_be_is_one_line(cloud: Cloud, arguments: tuple[str, ...], said: str) -> None:
    done = lab_storm(cloud, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_a_wrong_password_is_one_line(cloud: Cloud, tmp_path: Path) -> None:
    text = (cloud.state / "clouds.yaml").read_text()
    wrong = tmp_path / "clouds.yaml"
    wrong.write_text(
        "".join(line.split("password:")[0] + "password: wrong\n" if "password:" in line else line for line in text.splitlines(True))
    )
    done = pileus("lab", "storm", OS_CLIENT_CONFIG_FILE=str(wrong))
    assert done.returncode == 1
    assert "Keystone does not log admin in" in done.stderr and "(HTTP 401)" in done.stderr


def test_ctrl_c_deletes_what_was_made(cloud: Cloud) -> None:
    command = [sys.executable, "-m", "pileus", "lab", "storm", "--count", "10", "--rate", "1", "--image", "none", "--poll", "0.05"]
    env = environment(OS_CLIENT_CONFIG_FILE=str(cloud.state / "clouds.yaml"))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        deadline = time.monotonic() + 30
        while not names(cloud):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, (said, errors)
    assert "The storm was ended early." in said
    assert "Traceback" not in errors
    assert names(cloud) == []


def test_a_file_that_is_none_of_ours(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"cases": 1}')
    done = pileus("lab", "report", other, "--html", tmp_path / "x.html")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "is not what `pileus lab story` or `pileus lab storm` writes" in done.stderr
    assert "No such file" in pileus("lab", "report", tmp_path / "none.json", "--html", os.devnull).stderr
