"""What a real switch's steps take: measured, kept, and found again."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pileus.errors import StartupError
from pileus.hosts import missing_for_real
from pileus.lab import calibrate, story
from pileus.lab.calibrate import SIMULATED, Calibration
from pileus.settings import Settings, Simulated

FOUND = Calibration(
    version="1.2",
    made_at=0.0,
    machine={"cores": 2},
    switch="a switch",
    plug=0.002,
    wire=0.001,
    unplug=0.02,
    delete_flow=0.0005,
    delete_flow_bundled=0.00001,
    add_member=0.00002,
    statement=0.0002,
)


def test_what_is_kept_is_found_again_and_wins_over_what_came_with_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert calibrate.load() == calibrate.shipped()
    calibrate.save(FOUND, calibrate.place())
    assert calibrate.load() == FOUND
    assert calibrate.place() == tmp_path / "pileus" / "calibration.json"
    other = tmp_path / "other.json"
    calibrate.save(msgspec.structs.replace(FOUND, plug=1.0), other)
    assert calibrate.load(other).plug == 1.0


def test_a_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text("{}")
    for name in ("no.json", "missing.json"):
        with pytest.raises(StartupError, match="pileus lab calibrate"):
            calibrate.load(tmp_path / name)


def test_what_came_with_us_says_its_version_and_machine() -> None:
    told = calibrate.shipped()
    assert told.version
    assert told.machine["cores"] >= 1
    assert "Open vSwitch" in told.switch
    assert 0 <= told.delete_flow_bundled <= told.delete_flow < told.unplug < 1


def test_it_is_settings_of_hollow_hosts() -> None:
    told = msgspec.convert(FOUND.simulated(), Simulated)
    assert [getattr(told, name) for name in SIMULATED] == [getattr(FOUND, name) for name in SIMULATED]


def test_the_three_deletions_of_a_port() -> None:
    assert FOUND.flows_of_port(43) == pytest.approx({"blocking": 0.0415, "bundled": 0.02043, "deferred": 0.02043})


@pytest.mark.timeout(120)
async def test_a_real_switch_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    if missing_for_real(Settings()) is not None:
        pytest.skip("needs root and Open vSwitch: tests/test_real_parts.py says where it must be there")
    said: list[str] = []
    before = _namespaces()
    found = await calibrate.measure(story.machine(), said.append, ports=3)
    assert all(0 < getattr(found, name) < 1 for name in ("plug", "wire", "unplug", "add_member", "statement"))
    assert found.delete_flow >= found.delete_flow_bundled >= 0
    assert "Open vSwitch" in found.switch
    assert len(said) == 2
    assert _namespaces() <= before


def _namespaces() -> set[str]:
    from pileus.host import privileged

    return set(privileged.list_namespaces())
