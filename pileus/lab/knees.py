"""The report's sections on knees: foretold and found, and the loads that were tried to find them."""

from __future__ import annotations

from pileus.lab import charts, page
from pileus.lab.charts import Row
from pileus.lab.judged import CLOSE, is_close, off
from pileus.lab.markup import GAP, NOTHING, Markup, prose, rate, seconds, tag
from pileus.lab.results import Experiment, Rung


def knees(found: Experiment) -> Markup:
    """Foretold and found, with the arithmetic."""
    far = [case for case in found.cases if not is_close(case)]
    right = len(found.cases) - len(far)
    axis = charts.logarithmic(value for case in found.cases for value in (case.knee_per_s, case.predicted_knee_per_s))
    lines = [
        Row(
            case.name,
            charts.pair(axis, case.predicted_knee_per_s, case.knee_per_s, "good" if is_close(case) else "bad"),
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
            tag("span", off(case), class_=None if is_close(case) else "bad"),
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


def ladder(found: Experiment) -> Markup | None:
    """Every load that was tried, good or not."""
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


def _ring(axis: charts.Axis) -> list[Markup]:
    return charts.pair(axis, 0.5, 0.5)[2:]


def _rung(rung: Rung) -> str:
    return f"{rate(rung.rate_per_s)}: {rung.active} of {rung.created} ACTIVE, p99 {seconds(rung.p99_s)}"
