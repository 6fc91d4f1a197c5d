"""An experiment as one page that a person shows in a meeting. Titles and sentences are made from the figures: they say what was found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from pileus.lab import charts, page, stability
from pileus.lab.charts import Row
from pileus.lab.markup import GAP, NOTHING, Markup, Node, join, number, percent, prose, rate, seconds, short, tag, times
from pileus.lab.page import Tile
from pileus.lab.results import Case, Experiment, Rung
from pileus.lab.style import step_tone
from pileus.timeline import STEPS

WORDS = "case"
"""Among a case's settings: what the case is, in words."""
CLOSE = 0.3
"""A knee is foretold rightly when the measured one is no further from it than this part."""
FIGURES: dict[str, tuple[str, str, Callable[[float], str]]] = {
    "agent_blocked_s": (
        "The agent's loop, blocked by deletions",
        "Seconds of each minute in which a host's agent removes flows and wires nothing.",
        seconds,
    ),
    "pool_wait_s": ("Waiting for a database connection", "Mean of a transaction in the network service's processes.", seconds),
    "rpc_wait_s": (
        "Waiting for the network's RPC",
        "Mean of what an agent waits for the answers that one port needs: its details, and that it was reported.",
        seconds,
    ),
    "heal_requests_per_min": (
        "REST requests a minute from healing",
        "What all compute hosts ask of the network API to refresh caches that no event had touched.",
        number,
    ),
    "wire_wait_s": ("Waiting for the agent", "Mean of a port, from when the agent was asked or noticed it until it was wired.", seconds),
    "agent_turn_s": (
        "A turn of the agent's loop",
        "Mean, without the sleep between turns; where the agent has no loop there is none.",
        seconds,
    ),
}
"""Figures of a load that have a chart: title, how it is meant, how it is written. The others stand in the table."""


def render(found: Experiment) -> str:
    """The page. Never fails for what is missing in the figures: it says that it is missing."""
    found = titled(found)
    return page.page(
        found.title,
        f"Pileus {found.version} · the lab · {page.moment(found.started_at)}",
        finding(found),
        [
            page.tiles(_tiles(found)),
            _outcome(found),
            _windows(found),
            _steps(found),
            _knees(found),
            _ladder(found),
            _figures(found),
            _notes(found),
            _honest(found),
            _settings(found),
            _all(found),
        ],
        f"Made by `pileus lab` of Pileus {found.version} in a run of {page.lasted(found.seconds)}. The page is whole: it loads nothing.",
    )


def finding(found: Experiment) -> str:
    """What the experiment found, in one sentence."""
    if not found.cases:
        return "Nothing was measured: no case was run."
    found = titled(found)
    first, best = found.cases[0], max(found.cases, key=lambda case: case.knee_per_s)
    lost = first.created - first.active
    blamed = "all of them" if first.plug_timeouts == lost else f"{number(first.plug_timeouts)} of them"
    why = f", {blamed} to the plug timeout" if first.plug_timeouts else ""
    begin = f"At {rate(found.load_per_s)} creates, “{first.name}” made {percent(first.active, first.created)} of its servers ACTIVE"
    begin += f" and lost {number(lost)} of {number(first.created)}{why}" if lost else f" with a p99 of {seconds(first.p99_s)}"
    if best is first or best.knee_per_s <= first.knee_per_s:
        return f"{begin}; no other case did better."
    then = f"“{best.name}” made {percent(best.active, best.created)} with a p99 of {seconds(best.p99_s)}"
    if first.knee_per_s > 0:
        return f"{begin}; {then}, and carries {times(best.knee_per_s / first.knee_per_s)} the load before it breaks."
    return f"{begin}; {then}, and carries {rate(best.knee_per_s)} before it breaks."


def titled(found: Experiment) -> Experiment:
    """The same with cases named by what they are in words (`case` of their settings), where they say it."""
    return msgspec.structs.replace(found, cases=[_titled(case) for case in found.cases])


def _titled(case: Case) -> Case:
    said = str(case.settings.get(WORDS) or case.name)
    others = {key: value for key, value in case.settings.items() if key != WORDS}
    return msgspec.structs.replace(case, name=said[:1].upper() + said[1:], settings=others)


def is_good(case: Case, found: Experiment) -> bool:
    """At the load of the comparison: all ACTIVE, p99 under half the plug timeout."""
    return case.created > 0 and case.active == case.created and case.p99_s is not None and case.p99_s < found.plug_timeout_s / 2


def at_load(case: Case, load: float) -> Rung | None:
    """What the case did at the load that all are compared at."""
    return next((rung for rung in case.rungs if math.isclose(rung.rate_per_s, load, rel_tol=0.01)), None)


def _tone(case: Case, found: Experiment) -> str:
    return "good" if is_good(case, found) else "bad" if case.active < case.created else ""


def _tiles(found: Experiment) -> list[Tile]:
    if not found.cases:
        return []
    first, best = found.cases[0], max(found.cases, key=lambda case: case.knee_per_s)
    made = [
        Tile(
            "Load of the comparison",
            rate(found.load_per_s),
            f"plug timeout {short(found.plug_timeout_s)}; the rate that breaks the first case",
        )
    ]
    for case in dict.fromkeys((first.name, best.name)):
        one = next(each for each in found.cases if each.name == case)
        made.append(Tile(one.name, percent(one.active, one.created), f"ACTIVE; p99 {seconds(one.p99_s)}", _tone(one, found)))
    if best is not first and first.knee_per_s > 0:
        words = f"from {rate(first.knee_per_s)} to {rate(best.knee_per_s)}: the highest rate with all ACTIVE and p99 under half the timeout"
        made.append(Tile("Knee", times(best.knee_per_s / first.knee_per_s), words))
    return made


def _outcome(found: Experiment) -> Markup:
    broken = [case.name for case in found.cases if case.active < case.created]
    good = sum(is_good(case, found) for case in found.cases)
    title = f"At {rate(found.load_per_s)}, {good} of {len(found.cases)} cases bring up every server in time"
    said = f"Servers were lost by {_names(broken)}." if broken else "No case lost a server."
    success = charts.linear([100.0])
    shares = [
        Row(
            case.name,
            [charts.bar(success, 100 * case.active / case.created if case.created else 0.0, _tone(case, found))],
            [tag("b", percent(case.active, case.created)), f" {number(case.active)} of {number(case.created)}"],
            f"{case.active} of {case.created} ACTIVE, {case.error} in ERROR, {case.plug_timeouts} by the plug timeout",
            tone=_tone(case, found),
        )
        for case in found.cases
    ]
    known = [(case, case.p50_s, case.p95_s, case.p99_s) for case in found.cases]
    half = found.plug_timeout_s / 2
    axis = charts.logarithmic([*(v for _, *three in known for v in three if v), half])
    latency = [
        Row(
            case.name,
            charts.spread(axis, low, middle, high, _tone(case, found)) if low and middle and high else [],
            [tag("b", seconds(high)), f" p50 {seconds(low)}"],
            f"median {seconds(low)}, 95th percentile {seconds(middle)}, 99th {seconds(high)}",
            tone=_tone(case, found),
        )
        for case, low, middle, high in known
    ]
    legend = charts.key([(charts.spread(charts.linear([1.0], ticks=1), 0.25, 0.5, 0.75), "p50, p95, p99 of POST to ACTIVE")])
    return page.section(
        title,
        f"{said} In time means: all ACTIVE, and p99 under half the plug timeout of {short(found.plug_timeout_s)}.",
        tag(
            "div",
            page.figure(charts.rows(shares, success, [f"{tick:g}{GAP}%" for tick in success.ticks]), "Became ACTIVE"),
            page.figure(
                [charts.rows(latency, axis, _times(axis), marks=[(half, f"half the timeout, {short(half)}")]), legend],
                "Seconds from POST to ACTIVE, of those that became so",
            ),
            class_="pair",
        ),
    )


def _windows(found: Experiment) -> Markup | None:
    runs = [(case, rung) for case in found.cases if (rung := at_load(case, found.load_per_s)) is not None and rung.windows]
    if not runs:
        return None
    half = found.plug_timeout_s / 2
    high = [value for _, rung in runs for each in rung.windows for value in (each.p50_s, each.p99_s) if value]
    up, across = charts.logarithmic([*high, half]), charts.linear([_end(rung) for _, rung in runs], ticks=4)
    made = []
    for case, rung in runs:
        steps = [*(each.start for each in rung.windows[1:]), max(_end(rung), rung.windows[-1].start + 1e-9)]
        spans = list(zip(rung.windows, steps, strict=True))
        lost = [
            (each.start, end, up.high, "lost", f"{each.start:.0f} s: {each.active} of {each.created} became ACTIVE")
            for each, end in spans
            if each.active < each.created
        ]
        middle = [((each.start + end) / 2, each) for each, end in spans]
        tone = _tone(case, found)
        lines = [
            charts.Line(tone, [(at, each.p99_s or None) for at, each in middle]),
            charts.Line(f"thin {tone}", [(at, each.p50_s or None) for at, each in middle]),
        ]
        told = f"{case.name}: p99 of windows from {seconds(_first(rung))} at the start to {seconds(_last(rung))} at the end"
        told += f"; servers were lost in {len(lost)} of {len(spans)} windows" if lost else "; no window lost a server"
        picture = charts.Plot(
            across, up, [f"{tick:g} s" for tick in across.ticks], _times(up), told, lines, columns=lost, marks=[(half, "")]
        )
        grows = _growth(rung)
        verdict = tag("p", f"loses servers in {len(lost)} of {len(spans)} windows" if lost else grows, class_="bad" if lost else "quiet")
        made.append(tag("div", tag("h3", case.name), verdict, charts.plot(picture)))
    flat = sum(not stability.grows(rung.windows) and not stability.loses(rung.windows) for _, rung in runs)
    return page.section(
        f"{flat} of {len(runs)} cases are stable: their latency does not grow while the load stays",
        "Each picture is one case at the load of the comparison. Across: when a create was asked for. Solid: p99 of that window, dotted: "
        "its median, on one logarithmic scale. Where the ground is red, servers were lost. The dashed line is half the plug timeout.",
        tag("div", *made, class_="small"),
    )


def _steps(found: Experiment) -> Markup | None:
    with_steps = [case for case in found.cases if case.steps]
    if not with_steps:
        return None
    names = [step for step in STEPS if any(step in case.steps for case in with_steps)]
    names += sorted({step for case in with_steps for step in case.steps} - set(names))
    axis = charts.linear([sum(case.steps.values()) for case in with_steps])
    shares = charts.linear([100.0], ticks=4)

    def line(case: Case, scale: charts.Axis, whole: float) -> Row:
        parts = [(f"{step}: {seconds(value)}", value * whole, step_tone(step)) for step, value in _in_order(case, names)]
        longest = max(case.steps, key=lambda step: case.steps[step])
        told = f"{seconds(sum(case.steps.values()))} in all, most of it in {longest} ({seconds(case.steps[longest])})"
        return Row(case.name, charts.segments(scale, parts), [tag("b", seconds(sum(case.steps.values()))), f" {longest}"], told)

    first = with_steps[0]
    longest = max(first.steps, key=lambda step: first.steps[step])
    meaning = f": {STEPS[longest].meaning}" if longest in STEPS else ""
    lines = [[case.name, *(seconds(case.steps.get(step)) for step in names)] for case in with_steps]
    return page.section(
        f"“{first.name}” spends {percent(first.steps[longest], sum(first.steps.values()))} of a boot in “{longest}”",
        [
            tag("b", longest),
            f"{meaning}. Each bar is the mean boot at the load of the comparison, step after step; of steps that go on beside one "
            "another only that which was waited for is there.",
        ],
        page.figure(
            [
                charts.rows([line(case, axis, 1.0) for case in with_steps], axis, _times(axis)),
                charts.legend([(step_tone(step), step) for step in names]),
            ],
            "Seconds by step",
        ),
        page.figure(
            charts.rows(
                [line(case, shares, 100 / (sum(case.steps.values()) or 1.0)) for case in with_steps],
                shares,
                [f"{tick:g}{GAP}%" for tick in shares.ticks],
            ),
            "The same as parts of the whole, for the bars that are too short to see",
        ),
        page.fold("As figures", page.table(["case", *names], lines, "Mean seconds of each step on the way that decided")),
    )


def _knees(found: Experiment) -> Markup:
    far = [case for case in found.cases if not _close(case)]
    right = len(found.cases) - len(far)
    axis = charts.logarithmic(value for case in found.cases for value in (case.knee_per_s, case.predicted_knee_per_s))
    lines = [
        Row(
            case.name,
            charts.pair(axis, case.predicted_knee_per_s, case.knee_per_s, "good" if _close(case) else "bad"),
            [tag("b", rate(case.knee_per_s)), f" predicted {rate(case.predicted_knee_per_s)}"],
            f"predicted {rate(case.predicted_knee_per_s)}, measured {rate(case.knee_per_s)}, limit: {case.limited_by or 'none named'}",
        )
        for case in found.cases
    ]
    why = [
        [
            case.name,
            rate(case.predicted_knee_per_s),
            rate(case.knee_per_s),
            tag("span", _off(case), class_=None if _close(case) else "bad"),
            prose(case.limited_by or NOTHING),
            prose(case.arithmetic or NOTHING),
        ]
        for case in found.cases
    ]
    head = ["case", "predicted", "measured", "off by", "limited by", "arithmetic"]
    signs = charts.linear([1.0], ticks=1)
    return page.section(
        f"{right} of {len(found.cases)} knees are where arithmetic says, within {CLOSE:.0%}".replace("%", f"{GAP}%"),
        "A knee is the highest rate at which all servers become ACTIVE with a p99 under half the plug timeout. It was predicted from the "
        "stated costs by Little's law before anything ran; then it was measured.",
        page.figure(
            [
                charts.rows(lines, axis, [f"{tick:g}/s" for tick in axis.ticks]),
                charts.key([(_ring(signs), "predicted"), (charts.pair(signs, 0.5, 0.5, "good")[1:2], "measured")]),
            ],
            "Knees, creates a second",
        ),
        page.table(head, why, "How each knee was predicted", words=(0, 4, 5)),
    )


def _ladder(found: Experiment) -> Markup | None:
    with_rungs = [case for case in found.cases if case.rungs]
    if not with_rungs:
        return None
    axis = charts.logarithmic([rung.rate_per_s for case in with_rungs for rung in case.rungs])
    lines = []
    for case in with_rungs:
        rungs = sorted(case.rungs, key=lambda rung: rung.rate_per_s)
        drawn = [charts.point(axis, rung.rate_per_s, rung.good, _rung(rung)) for rung in rungs]
        told = "; ".join(f"{'good' if rung.good else 'not good'} at {_rung(rung)}" for rung in rungs)
        lines.append(Row(case.name, drawn, tag("b", rate(case.knee_per_s)), told))
    return page.section(
        f"{sum(len(case.rungs) for case in with_rungs)} loads were tried to find where each case breaks",
        "A dot: every server became ACTIVE, p99 under half the plug timeout. A cross: not so. The comparison above is at the dashed line.",
        page.figure(charts.rows(lines, axis, [f"{tick:g}/s" for tick in axis.ticks], marks=[(found.load_per_s, "compared here")])),
    )


def _figures(found: Experiment) -> Markup | None:
    runs = [(case, rung) for case in found.cases if (rung := at_load(case, found.load_per_s)) is not None and rung.figures]
    if not runs:
        return None
    made = []
    for name, (title, note, written) in FIGURES.items():
        measured = [(case, rung.figures[name]) for case, rung in runs if name in rung.figures]
        if measured:
            axis = charts.linear([value for _, value in measured], ticks=4)
            lines = [Row(case.name, [charts.bar(axis, value)], tag("b", written(value)), written(value)) for case, value in measured]
            made.append(page.figure(charts.rows(lines, axis, _ticks(axis, written)), title, note))
    names = sorted({name for _, rung in runs for name in rung.figures})
    table = page.table(
        ["case", *(page.words(name) for name in names)],
        [[case.name, *(number(rung.figures.get(name)) for name in names)] for case, rung in runs],
        f"What the parts measured at {rate(found.load_per_s)}",
    )
    return page.section(
        "What was waited for, and what the machinery was busy with",
        "Measured by the processes themselves while the load of the comparison ran.",
        tag("div", *made, class_="pair"),
        page.fold("All that was measured", table),
    )


def _notes(found: Experiment) -> Markup | None:
    noted = {case.name: case.note for case in found.cases if case.note}
    if not noted:
        return None
    return page.section("Where a setting does not matter, and why", None, page.facts(noted))


def _honest(found: Experiment) -> Markup:
    return page.section(
        "What was real, what was simulated, what was added",
        "Rates hold for this set-up; what carries over to another cloud is which setting is the limit, and the arithmetic.",
        page.lists({"Real": found.real, "Simulated": found.simulated, "Added": found.added}),
    )


def _settings(found: Experiment) -> Markup | None:
    if not found.cases:
        return None
    first = found.cases[0]
    lines: list[list[Node]] = []
    for case in found.cases[1:]:
        changed = [key for key in dict.fromkeys((*first.settings, *case.settings)) if _setting(case, key) != _setting(first, key)]
        lines.append([case.name, _chips((_change(key, _setting(first, key), _setting(case, key)) for key in changed), "the same")])
    begun = _chips((join((f"{key} ", tag("b", _setting(first, key)))) for key in first.settings), "the defaults")
    return page.section(
        "The settings of each case",
        f"“{first.name}” is what the others are told apart from.",
        tag("h3", first.name),
        begun,
        page.table(["case", f"what it changes from “{first.name}”"], lines, "Settings as differences", words=(0, 1)) if lines else None,
    )


def _all(found: Experiment) -> Markup:
    head = ["case", "rate", "for", "created", "ACTIVE", "ERROR", "plug timeouts", "p50", "p95", "p99", "good"]
    lines = [
        [
            case.name,
            rate(rung.rate_per_s),
            seconds(rung.seconds),
            *(number(value) for value in (rung.created, rung.active, rung.error, rung.plug_timeouts)),
            *(seconds(value) for value in (rung.p50_s, rung.p95_s, rung.p99_s)),
            "yes" if rung.good else tag("span", "no", class_="bad"),
        ]
        for case in found.cases
        for rung in sorted(case.rungs, key=lambda rung: rung.rate_per_s)
    ]
    return page.section(
        "The machine, and every run",
        f"{page.moment(found.started_at)}; it took {page.lasted(found.seconds)}.",
        page.facts(found.machine),
        page.fold(f"All {len(lines)} runs", page.table(head, lines, "Every load that was tried")) if lines else None,
    )


def _ring(axis: charts.Axis) -> list[Markup]:
    return charts.pair(axis, 0.5, 0.5)[2:]


def _rung(rung: Rung) -> str:
    return f"{rate(rung.rate_per_s)}: {rung.active} of {rung.created} ACTIVE, p99 {seconds(rung.p99_s)}"


def _in_order(case: Case, names: Sequence[str]) -> list[tuple[str, float]]:
    return [(step, case.steps[step]) for step in names if case.steps.get(step)]


def _close(case: Case) -> bool:
    return case.predicted_knee_per_s > 0 and abs(case.knee_per_s / case.predicted_knee_per_s - 1) <= CLOSE


def _off(case: Case) -> str:
    if case.predicted_knee_per_s <= 0:
        return NOTHING
    return f"{100 * (case.knee_per_s / case.predicted_knee_per_s - 1):+.0f}{GAP}%".replace("-", "−")


def _end(rung: Rung) -> float:
    """When the last window is over: as long as the one before it."""
    starts = [each.start for each in rung.windows]
    return starts[-1] + (starts[-1] - starts[-2] if len(starts) > 1 else rung.seconds)


def _first(rung: Rung) -> float | None:
    return next((each.p99_s for each in rung.windows if each.p99_s is not None), None)


def _last(rung: Rung) -> float | None:
    return next((each.p99_s for each in reversed(rung.windows) if each.p99_s is not None), None)


def _growth(rung: Rung) -> str:
    found = stability.ends([each.p99_s for each in rung.windows])
    if found is None:
        return "too short to tell"
    return f"grows: p99 {seconds(found[0])} to {seconds(found[1])}" if stability.grows(rung.windows) else f"flat: p99 {seconds(found[1])}"


def _times(axis: charts.Axis) -> list[str]:
    return [short(tick) for tick in axis.ticks]


def _ticks(axis: charts.Axis, written: Callable[[float], str]) -> list[str]:
    return _times(axis) if written is seconds else [f"{tick:,g}" for tick in axis.ticks]


def _setting(case: Case, key: str) -> str:
    return _written(case.settings[key]) if key in case.settings else "the default"


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else page.plain(value) if isinstance(value, bool | str | dict | list) else str(value)


def _change(key: str, before: str, after: str) -> Markup:
    return join((f"{key} ", tag("s", before), " → ", tag("b", after)))


def _chips(entries: Iterable[Markup], none: str) -> Markup:
    made = [tag("li", each) for each in entries]
    return tag("ul", *made, class_="chips") if made else tag("span", none, class_="quiet")


def _names(names: Sequence[str]) -> str:
    quoted = [f"“{name}”" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
