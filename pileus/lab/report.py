"""An experiment as one page that a person shows in a meeting. Titles and sentences are made from the figures: they say what was found."""

from __future__ import annotations

from pileus.lab import compared, knees, measured, page, setup
from pileus.lab.judged import titled, tone
from pileus.lab.markup import number, percent, rate, seconds, short, times
from pileus.lab.page import Tile
from pileus.lab.results import Experiment


def render(found: Experiment) -> str:
    """The page. Never fails for what is missing in the figures: it says that it is missing."""
    found = titled(found)
    return page.page(
        found.title,
        f"Pileus {found.version} · the lab · {page.moment(found.started_at)}",
        finding(found),
        [
            page.tiles(_tiles(found)),
            compared.outcome(found),
            compared.windows(found),
            compared.steps(found),
            knees.knees(found),
            knees.ladder(found),
            measured.figures(found),
            setup.notes(found),
            setup.honest(found),
            setup.settings(found),
            measured.runs(found),
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
        made.append(Tile(one.name, percent(one.active, one.created), f"ACTIVE; p99 {seconds(one.p99_s)}", tone(one, found)))
    if best is not first and first.knee_per_s > 0:
        words = f"from {rate(first.knee_per_s)} to {rate(best.knee_per_s)}: the highest rate with all ACTIVE and p99 under half the timeout"
        made.append(Tile("Knee", times(best.knee_per_s / first.knee_per_s), words))
    return made
