"""The report's sections on what was compared and how: settings, those that do not matter, what was real."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pileus.lab import page
from pileus.lab.markup import Markup, Node, join, tag
from pileus.lab.results import Case, Experiment


def notes(found: Experiment) -> Markup | None:
    """Settings that do not matter, and why."""
    noted = {case.name: case.note for case in found.cases if case.note}
    if not noted:
        return None
    return page.section("Where a setting does not matter, and why", None, page.facts(noted))


def honest(found: Experiment) -> Markup:
    """What the figures are made of."""
    return page.section(
        "What was real, what was simulated, what was added",
        "Rates hold for this set-up; what carries over to another cloud is which setting is the limit, and the arithmetic.",
        page.lists({"Real": found.real, "Simulated": found.simulated, "Added": found.added}),
    )


def settings(found: Experiment) -> Markup | None:
    """Of each case, as differences from the first."""
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


def _setting(case: Case, key: str) -> str:
    return _written(case.settings[key]) if key in case.settings else "the default"


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else page.plain(value) if isinstance(value, bool | str | dict | list) else str(value)


def _change(key: str, before: str, after: str) -> Markup:
    return join((f"{key} ", tag("s", before), " → ", tag("b", after)))


def _chips(entries: Iterable[Markup], none: str) -> Markup:
    made = [tag("li", each) for each in entries]
    return tag("ul", *made, class_="chips") if made else tag("span", none, class_="quiet")
