"""The report's sections on what the processes measured of themselves, and on every run."""

from __future__ import annotations

from collections.abc import Callable

from pileus.lab import charts, page
from pileus.lab.charts import Row
from pileus.lab.judged import at_load
from pileus.lab.markup import Markup, number, rate, seconds, tag
from pileus.lab.results import Experiment

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
        "What healing asks of the network API to read caches anew: counted on the way there, while servers are made beside.",
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


def figures(found: Experiment) -> Markup | None:
    """What was waited for at the load of the comparison."""
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


def runs(found: Experiment) -> Markup:
    """The machine, and every load as figures."""
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


def _ticks(axis: charts.Axis, written: Callable[[float], str]) -> list[str]:
    return charts.durations(axis) if written is seconds else [f"{tick:,g}" for tick in axis.ticks]
