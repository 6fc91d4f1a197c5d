"""Figures with their spread and their bars: a table for people, JSON for everything else."""

from __future__ import annotations

import json
import operator
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

_HOLDS = {"≤": operator.le, "≥": operator.ge}


@dataclass(frozen=True)
class Figure:
    """`value` is a median where there are several samples; `low` and `high` their 10th and 90th percentile (of few: all)."""

    name: str
    value: float
    unit: str
    low: float
    high: float
    bar: str
    met: bool


def figure(name: str, samples: Sequence[float], unit: str, bar: str) -> Figure:
    """`bar` as in `≤ 30`; empty: only shown."""
    value = statistics.median(samples)
    spread = sorted(samples)
    cut = len(spread) // 10
    sign, _, limit = bar.partition(" ")
    met = _HOLDS[sign](value, float(limit)) if bar else True
    return Figure(name, round(value, 3), unit, round(spread[cut], 3), round(spread[-1 - cut], 3), bar, met)


def show(figures: Sequence[Figure], path: Path, *, beside: bool = False, written: bool = True) -> None:
    """A table, and the file unless not `written`. `beside`: figures in the file that were not measured now stay there."""
    table = Table(title="Pileus, measured on this machine")
    for column in ("figure", "value", "spread", "bar", ""):
        table.add_column(column, justify="right" if column in ("value", "spread", "bar") else "left")
    for one in figures:
        verdict = "" if not one.bar else "[green]met[/]" if one.met else "[red]missed[/]"
        table.add_row(one.name, f"{one.value:g} {one.unit}", f"{one.low:g}-{one.high:g}", one.bar, verdict)
    Console(width=150).print(table)
    if not written:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    all_of_them = {one["name"]: one for one in json.loads(path.read_text())["figures"]} if beside and path.exists() else {}
    all_of_them |= {one.name: asdict(one) for one in figures}
    path.write_text(json.dumps({"figures": list(all_of_them.values())}, indent=1, ensure_ascii=False) + "\n")
