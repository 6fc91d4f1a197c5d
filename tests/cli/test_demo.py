from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pileus import tinyguest
from pileus.cli.demo.leftovers import Count
from pileus.hosts import missing_for_real
from pileus.settings import Settings
from tests.cli.conftest import environment, pileus


def counted(text: str) -> dict[str, list[int]]:
    """The table at the end: kind → counts."""
    rows = re.findall(r"^  ([A-Za-z ]+?) +(\d+(?: +\d+)+) *$", text.partition("What it had on this machine")[2], re.MULTILINE)
    return {kind: [int(number) for number in numbers.split()] for kind, numbers in rows}


def test_the_simulated_demo(tmp_path: Path) -> None:
    told = pileus("demo", "--hypervisor", "simulated", TMPDIR=str(tmp_path))
    assert told.returncode == 0, told.stdout + told.stderr
    assert "Hypervisor and switch are simulated: asked for." in told.stdout
    assert re.search(r"✓ servers: alpha ACTIVE [\d.]+ ms after its POST, beta ACTIVE", told.stdout)
    assert "skipped: simulated guests have no inside" in told.stdout
    assert re.search(r"^  reported +[\d.]+ ms", told.stdout, re.MULTILINE)
    assert told.stdout.endswith("All proved; nothing is left.\n")
    counts = counted(told.stdout)
    assert counts["processes"] == [0, 1, 1, 1, 0]
    assert counts["files"][-1] == 0 < counts["files"][2]
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    told = pileus("demo", "--hypervisor", "simulated", TMPDIR=str(tmp_path), PILEUS_SIMULATED__FAIL_START="1")
    assert told.returncode == 1
    assert "✗ making two servers: failed" in told.stdout
    assert "the simulated guest did not start" in told.stderr
    assert len(told.stderr.splitlines()) == 1
    assert counted(told.stdout)["processes"][-1] == 0
    assert "All proved" not in told.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_cloud_that_does_not_start_is_explained(tmp_path: Path) -> None:
    told = pileus("demo", "--hypervisor", "simulated", TMPDIR=str(tmp_path), PILEUS_NETWORK__RPC_WORKERS="2")
    assert told.returncode == 1
    assert "the cloud did not start: setting network.rpc_workers is 2" in told.stderr
    assert list(tmp_path.iterdir()) == []


def hearing_interrupts() -> None:
    """A shell lets what it runs in the background ignore Ctrl-C, and so would the demo that we start there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_cleans_up(tmp_path: Path, number: signal.Signals) -> None:
    slow = environment(TMPDIR=str(tmp_path), PILEUS_SIMULATED__WIRE="60")
    command = [sys.executable, "-m", "pileus", "demo", "--hypervisor", "simulated"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=slow, preexec_fn=hearing_interrupts) as demo:
        assert demo.stdout is not None and demo.stderr is not None
        for line in demo.stdout:
            if "network demo" in line:
                break
        time.sleep(0.1)
        demo.send_signal(number)
        rest = demo.stdout.read()
        assert demo.wait(30) == 128 + number
        assert demo.stderr.read() == ""
    assert "✓ cleaning up" in rest
    assert list(tmp_path.iterdir()) == []


def test_without_the_parts_it_simulates_and_says_why(tmp_path: Path) -> None:
    told = pileus("demo", TMPDIR=str(tmp_path), PILEUS_HOST__GUEST_EMULATOR="qemu-system-nobody")
    assert told.returncode == 0, told.stdout + told.stderr
    reason = missing_for_real(Settings(host=Settings().host.__class__(guest_emulator="qemu-system-nobody")))
    assert f"Hypervisor and switch are simulated: {reason}." in told.stdout
    refused = pileus("demo", "--hypervisor", "qemu", TMPDIR=str(tmp_path), PILEUS_HOST__GUEST_EMULATOR="qemu-system-nobody")
    assert (refused.returncode, refused.stderr) == (1, f"pileus: real guests are not possible here: {reason}\n")


@pytest.mark.skipif(missing_for_real(Settings()) is not None, reason=f"real guests are not possible here: {missing_for_real(Settings())}")
def test_the_real_demo(tmp_path: Path) -> None:
    tinyguest.build(tinyguest.default_folder())
    told = pileus("demo", TMPDIR=str(tmp_path))
    assert told.returncode == 0, told.stdout + told.stderr
    for name, other in (("alpha", "beta"), ("beta", "alpha")):
        assert re.search(rf"✓ inside {name}: its address is 192\.168\.77\.\d+, as the API says", told.stdout)
        assert re.search(rf"✓ inside {name}: {other} answers 3 of 3 pings \([\d.]+ ms\), and echoes by TCP", told.stdout)
    assert told.stdout.endswith("All proved; nothing is left.\n")
    counts = counted(told.stdout)
    assert set(counts) == {kind.replace("_", " ") for kind in Count.kinds()}
    assert counts["TAPs"] == [0, 0, 2, 0, 0]
    assert counts["switch ports"] == [0, 0, 3, 0, 0]
    assert counts["namespaces"] == [0, 1, 2, 1, 0]
    assert counts["flows"][1] == counts["flows"][3] < counts["flows"][2]
    assert all(numbers[0] == numbers[-1] == 0 for numbers in counts.values())
    assert list(tmp_path.iterdir()) == []
