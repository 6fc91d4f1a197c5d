"""The report's sections on the one load that all cases are put under: what became of it, is it stable, where the time went."""

from __future__ import annotations

from collections.abc import Sequence

from pileus.lab import charts, page, stability
from pileus.lab.charts import Row
from pileus.lab.judged import at_load, is_good, quoted, tone
from pileus.lab.markup import GAP, Markup, number, percent, rate, seconds, short, tag
from pileus.lab.results import Case, Experiment, Rung
from pileus.lab.style import step_tone
from pileus.timeline import STEPS


def outcome(found: Experiment) -> Markup:
    """How many became ACTIVE, and how long that took."""
    broken = [case.name for case in found.cases if case.active < case.created]
    good = sum(is_good(case, found) for case in found.cases)
    title = f"At {rate(found.load_per_s)}, {good} of {len(found.cases)} cases bring up every server in time"
    said = f"Servers were lost by {quoted(broken)}." if broken else "No case lost a server."
    success = charts.linear([100.0])
    shares = [
        Row(
            case.name,
            [charts.bar(success, 100 * case.active / case.created if case.created else 0.0, tone(case, found))],
            [tag("b", percent(case.active, case.created)), f" {number(case.active)} of {number(case.created)}"],
            f"{case.active} of {case.created} ACTIVE, {case.error} in ERROR, {case.plug_timeouts} by the plug timeout",
            tone=tone(case, found),
        )
        for case in found.cases
    ]
    known = [(case, case.p50_s, case.p95_s, case.p99_s) for case in found.cases]
    half = found.plug_timeout_s / 2
    axis = charts.logarithmic([*(v for _, *three in known for v in three if v), half])
    latency = [
        Row(
            case.name,
            charts.spread(axis, low, middle, high, tone(case, found)) if low and middle and high else [],
            [tag("b", seconds(high)), f" p50 {seconds(low)}"],
            f"median {seconds(low)}, 95th percentile {seconds(middle)}, 99th {seconds(high)}",
            tone=tone(case, found),
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
                [charts.rows(latency, axis, charts.durations(axis), marks=[(half, f"half the timeout, {short(half)}")]), legend],
                "Seconds from POST to ACTIVE, of those that became so",
            ),
            class_="pair",
        ),
    )


def windows(found: Experiment) -> Markup | None:
    """Latency over time: does it grow while the load stays?"""
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
        colour = tone(case, found)
        lines = [
            charts.Line(colour, [(at, each.p99_s or None) for at, each in middle]),
            charts.Line(f"thin {colour}", [(at, each.p50_s or None) for at, each in middle]),
        ]
        told = f"{case.name}: p99 of windows from {seconds(_first(rung))} at the start to {seconds(_last(rung))} at the end"
        told += f"; servers were lost in {len(lost)} of {len(spans)} windows" if lost else "; no window lost a server"
        picture = charts.Plot(
            across, up, [f"{tick:g} s" for tick in across.ticks], charts.durations(up), told, lines, columns=lost, marks=[(half, "")]
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


def steps(found: Experiment) -> Markup | None:
    """Where the time of a boot went."""
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
                charts.rows([line(case, axis, 1.0) for case in with_steps], axis, charts.durations(axis)),
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


def _in_order(case: Case, names: Sequence[str]) -> list[tuple[str, float]]:
    return [(step, case.steps[step]) for step in names if case.steps.get(step)]


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
