"""The report: what it says, and what a browser makes of it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pileus.lab import charts, stability
from pileus.lab.markup import Markup, number, percent, seconds, tag
from pileus.lab.report import finding, render
from pileus.lab.results import Case, Experiment, Rung, Window
from tests.lab.browser import CONTRAST, Browser
from tests.lab.samples import experiment

PHONE, SCREEN = 360, 1200


def words(found: Experiment) -> str:
    """What a reader sees, without markup and style."""
    text = re.sub(r"<style>.*?</style>", "", render(found), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))


@pytest.fixture
def page(tmp_path: Path) -> Path:
    file = tmp_path / "report.html"
    file.write_text(render(experiment()))
    return file


@pytest.mark.parametrize(("width", "scheme", "media"), [(SCREEN, "light", ""), (PHONE, "dark", ""), (700, "light", "print")])
def test_a_browser_shows_every_chart(chromium: Browser, page: Path, width: int, scheme: str, media: str) -> None:
    chromium.said.clear()
    chromium.asked.clear()
    seen = chromium.open(page, width=width, scheme=scheme, media=media)
    assert len(seen["charts"]) > 50
    assert min(min(box) for box in seen["charts"] + seen["figures"]) > 10, "a chart without a size"
    assert seen["width"] <= seen["room"], "wider than the screen"
    assert [box for box in seen["letters"] if box[0] < 0 or box[1] > seen["room"]] == []
    assert (seen["nameless"], seen["scripts"], seen["outside"]) == (0, 0, [])
    assert (chromium.said, chromium.asked) == ([], [])
    assert chromium.ask(CONTRAST)[0][0] >= 4.5, chromium.ask(CONTRAST)


def test_the_page_refuses_what_it_does_not_need(chromium: Browser, page: Path) -> None:
    """Not even a name with markup in it, or a page somebody has put a script into, can fetch or run anything."""
    page.write_text(page.read_text().replace("</main>", '<img src="http://127.0.0.1:9/x.png"><script>document.title="run"</script></main>'))
    chromium.said.clear()
    assert chromium.open(page)["title"] == experiment().title
    assert sum("Content Security Policy" in line for line in chromium.said) == 2
    chromium.said.clear()


def test_the_finding_is_made_of_the_figures() -> None:
    found = finding(experiment())
    assert found == (
        "At 4/s creates, “The story's start” made 61\N{NARROW NO-BREAK SPACE}% of its servers ACTIVE and lost 468 of 1,200, all of them to "
        "the plug timeout; “Pileus's default” made 100\N{NARROW NO-BREAK SPACE}% with a p99 of 0.42\N{NARROW NO-BREAK SPACE}s, and carries "
        "40\N{NARROW NO-BREAK SPACE}× the load before it breaks."
    )
    calm = experiment(cases=[experiment().cases[-1]])
    assert "no other case did better" in finding(calm)
    assert "lost" not in finding(calm)


def test_what_is_asked_of_the_report_is_there() -> None:
    text = words(experiment())
    for told in (
        "2 of 7 cases bring up every server in time",
        "predicted 9.40/s",
        "137 statements × 1.05 ms",
        "connections of the rpc workers",
        "network.rpc_workers 1 → 20",
        "REST requests a minute from healing",
        "Waiting for a database connection",
        "Waiting for the network's RPC",
        "The agent's loop, blocked by deletions",
        "With one RPC worker that takes one request at a time a second connection has nothing to do.",
        "PostgreSQL 15 and NATS",
        "20 hollow hosts",
        "1 ms to each round trip",
        "x86-64 at 2.9 GHz",
        "loses servers in 11 of 12 windows",
        "6 of 7 knees are where arithmetic says",
    ):
        assert told in text.replace("  ", " "), told


def test_a_case_is_named_by_its_words_and_code_is_code() -> None:
    first = experiment().cases[0]
    named = msgspec.structs.replace(first, name="start", settings={"case": "the story's start", "a.b": 1}, arithmetic="1 × `rpc_workers`")
    text = render(experiment(cases=[named]))
    assert "“The story's start” made 61" in finding(experiment(cases=[named]))
    assert "<code>rpc_workers</code>" in text and "`" not in text
    assert "case <b>" not in text


def test_nothing_of_a_name_becomes_markup() -> None:
    evil = "<script>alert(1)</script>\"&'"
    first = msgspec.structs.replace(experiment().cases[0], name=evil, note=evil, arithmetic=evil, limited_by=evil, settings={evil: evil})
    made = render(experiment(title=evil, cases=[first], machine={evil: evil}, real=[evil], version=evil))
    assert "<script>alert" not in made
    assert made.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 10
    assert tag("p", Markup("<b>"), "<b>", title='"<') == '<p title="&quot;&lt;"><b>&lt;b&gt;</p>'


ODD: list[dict[str, Any]] = [
    {"cases": []},
    {"cases": [Case("bare", {}, 0.0, 0.0, 0, 0, 0, 0, None, None, None, {})]},
    {"cases": [Case("x", {}, 0.0, 1.0, 5, 0, 5, 5, None, None, None, {"unheard": 0.0})], "machine": {}, "real": [], "load_per_s": 0.0},
    {
        "cases": [
            Case(
                "x",
                {},
                1,
                1,
                1,
                1,
                0,
                0,
                1,
                1,
                1,
                {"wired": 1},
                rungs=[Rung(4, 1, 1, 1, 0, 0, 1, 1, 1, True, windows=[Window(0, 0, 0, None, None)])],
            )
        ]
    },
]


@pytest.mark.parametrize("more", ODD)
def test_what_was_not_measured_is_no_error(more: dict[str, Any], chromium: Browser, tmp_path: Path) -> None:
    file = tmp_path / "odd.html"
    file.write_text(render(experiment(**more)))
    assert chromium.open(file)["title"] == experiment().title
    assert not re.search(r"\b(nan|inf|None)\b", words(experiment(**more)))
    assert finding(experiment(**more)).endswith(".")


def test_json_and_back_is_the_same_page() -> None:
    found = experiment()
    assert render(msgspec.json.decode(msgspec.json.encode(found), type=Experiment)) == render(found)


values = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20)


@given(values)
def test_axes_hold_their_values(found: list[float]) -> None:
    for axis in (charts.linear(found), charts.logarithmic(found)):
        assert axis.low < axis.high
        assert all(axis.low * 0.999 <= value <= axis.high * 1.001 for value in found)
        assert all(0 <= axis.at(tick) <= 100 for tick in axis.ticks)
        assert 2 <= len(axis.ticks) <= 14
        ordered = sorted(found)
        assert [axis.at(value) for value in ordered] == sorted(axis.at(value) for value in ordered)


@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_a_percentage_is_whole_only_where_it_is(part: int, whole: int) -> None:
    part = min(part, whole)
    assert percent(part, whole).startswith("100") == (part == whole)
    assert (percent(part, whole)[:2] in ("0\N{NARROW NO-BREAK SPACE}",)) == (part == 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.inf, "–"),
        (0.0, "0 s"),
        (0.0123, "12.3 ms"),
        (0.42, "0.42 s"),
        (12.34, "12.3 s"),
        (0.00002, "0.020 ms"),
        (1234.5, "1,234 s"),
    ],
)
def test_seconds_are_written_with_their_unit(value: float | None, text: str) -> None:
    assert seconds(value).replace("\N{NARROW NO-BREAK SPACE}", " ") == text


def test_numbers() -> None:
    assert [number(value) for value in (0, 3.0, 0.123, 4.567, 45.67, 456.7, 45678)] == ["0", "3", "0.12", "4.57", "45.7", "457", "45,678"]


def test_growing_is_seen_and_noise_is_not() -> None:
    def run(*p99: float | None) -> list[Window]:
        return [Window(float(n), 1, 1, (value or 0) / 2, value) for n, value in enumerate(p99)]

    assert stability.grows(run(1, 1, 2, 3, 4, 5))
    assert stability.grows([Window(0, 1, 1, 1.0, 9.0), Window(1, 1, 1, 4.0, 9.0), Window(2, 1, 1, 8.0, 9.0)])
    assert not stability.grows(run(1, 1.2, 0.9, 1.1, 1.3, 1.2))
    assert not stability.grows(run(0.1, 0.2, 0.1, 0.3, 0.2, 0.3)), "a few milliseconds are no growth"
    assert not stability.grows(run(None, 7.0, None))
    assert stability.loses([Window(0, 2, 1, None, None), Window(1, 2, 2, None, None)]) == 1
