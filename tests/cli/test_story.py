"""`pileus lab story` and `calibrate` at the terminal."""

from __future__ import annotations

import io
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from pileus.cli import story
from pileus.cli.lab import app
from pileus.errors import StartupError
from pileus.lab.cases import BY_NAME
from pileus.lab.plan import Options
from tests.cli.conftest import Run, pileus
from tests.lab import samples


def test_the_cases_are_listed() -> None:
    told = pileus("lab", "story", "--cases", "list")
    assert told.returncode == 0, told.stderr
    assert [line.split()[0] for line in told.stdout.splitlines()] == list(BY_NAME)


@pytest.mark.parametrize(
    ("words", "timeout", "cases"),
    [
        ([], 300.0, list(BY_NAME)),
        (["--quick"], 20.0, ["start", "rpc", "all", "default"]),
        (["--quick", "--plug-timeout", "30", "--cases", "start"], 30.0, ["start"]),
    ],
)
def test_what_is_said_wins_over_quick(monkeypatch: pytest.MonkeyPatch, words: list[str], timeout: float, cases: list[str]) -> None:
    run: list[Options] = []
    monkeypatch.setattr(story, "run_story", lambda options, *_, **__: run.append(options))
    told = CliRunner().invoke(app, ["story", *words])
    assert told.exit_code == 0, told.output
    assert (run[0].plug_timeout, list(run[0].cases)) == (timeout, cases)


def test_the_report_says_what_was_shortened() -> None:
    assert story.options([], plug_timeout=300.0, rung=None).shortened == story.options([], plug_timeout=300.0, rung=300.0).shortened == ()
    told = story.options(["start"], plug_timeout=20.0, rung=5.0).shortened
    assert [line.split(":")[0] for line in told] == [
        "The plug timeout was 20 s and not 300 s",
        "Each load was held for 5 s and not for 20 s",
        "Only some cases were run",
    ]


def test_an_unknown_case_and_a_calibration_that_is_none_are_one_line(tmp_path: Path, one_line: Callable[[Run], str]) -> None:
    assert "no such case: nope" in one_line(pileus("lab", "story", "--cases", "nope"))
    assert "pileus lab calibrate" in one_line(pileus("lab", "story", "--calibration", tmp_path / "no.json"))


def test_files_that_cannot_be_written_are_one_line(tmp_path: Path, one_line: Callable[[Run], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is measured; and what changes meanwhile, at the end."""
    assert f"{tmp_path}: cannot be written" in one_line(pileus("lab", "story", "--json", tmp_path))
    folder = tmp_path / "folder"
    folder.mkdir()

    def measured(work: Coroutine[Any, Any, Any]) -> Any:
        work.close()
        folder.rmdir()
        return samples.experiment()

    monkeypatch.setattr(story, "_run", measured)
    with pytest.raises(StartupError, match=r"story\.json: No such file or directory"):
        story.run_story(story.options(["start"], plug_timeout=300.0), None, json=folder / "story.json", html=None)


def test_at_a_terminal_there_is_a_picture_of_all_cases() -> None:
    picture = story._Picture(["start", "all"])
    for number in range(9):
        picture.tell("", f"said {number}")
    picture.tell("all", "4/s: 7 of 30 s")
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(picture.show())
    told = console.export_text()
    assert "Ctrl-C ends it" in told
    assert "4/s: 7 of 30 s" in told
    assert "start" in told
    assert "said 8" in told
    assert "said 2" not in told


def test_in_a_pipe_there_are_lines_but_not_of_every_look() -> None:
    file = io.StringIO()
    tell = story._lines(Console(file=file, width=80))
    tell("start", "its processes start")
    tell("start", "4/s: 1 of 30 s, 2 of 3 ACTIVE, 0 failed")
    tell("start", "4/s: 2 of 30 s, 2 of 3 ACTIVE, 0 failed")
    tell("all", "4/s: 3 of 30 s, 2 of 3 ACTIVE, 0 failed")
    tell("start", "4.00/s for 30 s: 1 of 2 ACTIVE, nobody ACTIVE: not good")
    assert [line.partition(":")[0] for line in file.getvalue().splitlines()] == ["start", "all", "start"]
