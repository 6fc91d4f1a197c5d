"""How the experiment goes from load to load, and what it says it was."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pileus.cli import story as command
from pileus.errors import StartupError
from pileus.lab import calibrate, story, words
from pileus.lab.cases import BY_NAME, Case
from pileus.lab.climb import FIRST, MOST_RUNGS, NEAR, STEP, Runner
from pileus.lab.ground import Ground, Size
from pileus.lab.plan import Lab, Options
from pileus.lab.results import Rung
from pileus.profiles import STORY
from tests.lab.test_physics import COSTS, WORLD

CALIBRATION = calibrate.shipped()


class Imagined(Runner):
    """A case whose knee is known: loads up to it are good."""

    def __init__(self, lab: Lab, case: Case, truth: float, breaks: float) -> None:
        super().__init__(lab, case)
        self.truth = truth
        self.breaks = breaks
        self.tried: list[float] = []

    async def _rung(self, rate: float, seconds: float, *, whole: bool = False, deletes: float | None = None) -> Rung:
        self.tried.append(rate)
        good = rate <= self.truth
        lost = 7 if rate > self.breaks and whole else 0
        rung = Rung(rate, seconds, 100, 100 - lost, lost, lost, 1.0, 2.0, 3.0, good)
        self._rungs.append(rung)
        return rung


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return imaginary(tmp_path)


def imaginary(folder: Path, **options: Any) -> Lab:
    ground = Ground(folder, Size(20, 100, 0.001, 1), {})
    made = Lab(Options(**options), ground, CALIBRATION, lambda who, text: None)
    made.costs = {"story": COSTS, "default": COSTS}
    return made


@given(factor=st.floats(0.2, 4.0), name=st.sampled_from(["start", "rpc", "all", "default"]))
async def test_a_climb_brackets_the_knee(factor: float, name: str) -> None:
    made = imaginary(Path("/nowhere"))
    case = BY_NAME[name]
    truth = made.predict(case).knee * factor
    runner = Imagined(made, case, truth, math.inf)
    await runner.climb()
    found = runner.found()
    assert runner.tried[0] == pytest.approx(FIRST * made.predict(case).knee)
    assert found.knee_per_s <= truth
    above = min(rate for rate in runner.tried if rate > truth)
    assert above / found.knee_per_s <= (NEAR if 1 / STEP**3 < factor < STEP**3 else STEP) * 1.001
    assert len(runner.tried) <= MOST_RUNGS


@given(factor=st.floats(0.5, 2.0), beyond=st.floats(1.0, 1.5))
async def test_the_load_that_breaks_the_first_case_loses_servers_to_plug_timeouts(factor: float, beyond: float) -> None:
    made = imaginary(Path("/nowhere"))
    truth = made.predict(BY_NAME["start"]).knee * factor
    runner = Imagined(made, BY_NAME["start"], truth, truth * beyond)
    await runner.open_the_story()
    found = runner.found()
    assert made.load_per_s > found.knee_per_s > 0
    assert (found.plug_timeouts, found.error) == (7, 7)
    assert made.load_per_s in runner.tried


async def test_others_are_put_under_that_load_and_the_default_under_ten_times_it(lab: Lab) -> None:
    lab.load_per_s = 4.0
    for name, loads in (("rpc", [4.0]), ("default", [4.0, 40.0])):
        runner = Imagined(lab, BY_NAME[name], 1000.0, math.inf)
        await runner.at_load()
        assert runner.tried == loads
        assert runner.found().created == 100


async def test_a_climb_begins_between_what_is_known(lab: Lab) -> None:
    lab.load_per_s = 4.0
    runner = Imagined(lab, BY_NAME["start"], 3.0, math.inf)
    await runner.at_load()
    await runner.climb()
    assert max(runner.tried[1:]) <= 4.0
    assert 3.0 / STEP <= runner.found().knee_per_s <= 3.0


async def test_what_was_found_has_all_that_the_issue_asks_for(lab: Lab) -> None:
    runner = Imagined(lab, BY_NAME["heal"], 3.0, math.inf)
    await runner.climb()
    found = runner.found()
    assert found.settings["compute.heal_instance_info_cache_interval"] == 600.0
    assert found.predicted_knee_per_s == lab.predict(BY_NAME["heal"]).knee
    assert found.arithmetic
    assert "does not matter here" in found.note


def test_hosts_are_enough_for_a_queue_as_long_as_the_timeout() -> None:
    for timeout in (5.0, 30.0, 300.0):
        slots = Options(plug_timeout=timeout).hosts_or_default * 10
        assert slots > 5 * timeout  # five boots a second, each in its slot until it is lost
    assert Options(hosts=7).hosts_or_default == 7


def test_the_report_says_what_was_real_simulated_and_added() -> None:
    assert any("PostgreSQL" in each for each in words.real(WORLD))
    assert any("Open vSwitch" in each for each in words.simulated(CALIBRATION))
    told = " ".join(words.added({"story": msgspec.structs.replace(COSTS, words="CPU was measured.")}, 0.001, ["shorter"]))
    costs = {choice.key: choice.value for choice in STORY}
    assert f"({costs['network.rpc_statements']} a port in its RPC server, {costs['network.api_statements']} a request of its API)" in told
    assert "1 ms more for each round trip" in told
    assert "137" in told
    assert "CPU was measured." in told
    assert told.endswith("shorter")


def test_what_is_shorter_than_the_story_is_said() -> None:
    assert command.options([], plug_timeout=300.0).shortened == ()
    told = command.options(["start"], plug_timeout=30.0)
    assert ["30 s" in told.shortened[0], "start" in told.shortened[1]] == [True, True]


async def test_a_case_that_is_none_is_refused() -> None:
    with pytest.raises(StartupError, match="no such case: nope; there are start"):
        await story.run(Options(cases=("nope",)), CALIBRATION, lambda who, text: None)


def test_a_report_without_a_folder_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="there is no folder"):
        command.run_story(Options(), None, json=tmp_path / "no" / "x.json", html=None)


def test_the_table_has_every_case() -> None:
    from rich.console import Console

    from tests.lab.samples import experiment

    found = experiment()
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(command.table(found))
    text = console.export_text()
    assert all(case.name in text for case in found.cases)
