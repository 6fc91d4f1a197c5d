"""Charts as SVG inside HTML rows. Across they are in percent of the room there is and down in pixels, so they fit a phone and a wall
and their letters keep their size; colours are classes of the page's style.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pileus.lab.markup import Markup, Node, short, tag

ROW = 22
AXIS = 20
PLOT = 120
LEAST = 0.4
"""Percent of the width that the smallest bar has: what is there is seen."""


@dataclass(frozen=True)
class Axis:
    """From a value to percent of the width (or height). `log`: equal factors are equally wide."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def at(self, value: float) -> float:
        """0 to 100; what lies outside stands at the edge."""
        if self.log:
            value = max(value, self.low)
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return 100 * min(1.0, max(0.0, part))


def linear(values: Iterable[float], *, ticks: int = 5, whole: bool = False) -> Axis:
    """From 0 to a round number that no value is above. `whole`: ticks are whole numbers."""
    most = max((value for value in values if math.isfinite(value)), default=0.0)
    if most <= 0:
        most = 1.0
    step = _round_up(most / ticks)
    if whole:
        step = max(1.0, math.ceil(step))
    count = max(1, math.ceil(most / step - 1e-9))
    return Axis(0.0, step * count, tuple(step * n for n in range(count + 1)))


def logarithmic(values: Iterable[float]) -> Axis:
    """Whole or half decades around the values that are above 0."""
    found = [value for value in values if math.isfinite(value) and value > 0] or [1.0]
    first, last = math.floor(math.log10(min(found)) + 1e-9), math.ceil(math.log10(max(found)) - 1e-9)
    last = max(last, first + 1)
    low, high = 10.0**first, 10.0**last
    if last - first > 1:
        low, high = (3 * low if min(found) >= 3 * low else low), (0.3 * high if max(found) <= 0.3 * high else high)
    inside = [10.0**n for n in range(first, last + 1)]
    if last - first <= 3:
        inside += [3 * 10.0**n for n in range(first, last)]
    return Axis(low, high, tuple(sorted(tick for tick in inside if low * 0.999 <= tick <= high * 1.001)), log=True)


@dataclass(frozen=True)
class Row:
    """One line of a chart: its label, what is drawn, what stands beside it in words, and what a reader who sees nothing is told."""

    label: str
    drawn: Sequence[Markup]
    value: Node
    told: str
    height: int = ROW
    tone: str = ""


def rows(lines: Sequence[Row], axis: Axis, written: Sequence[str], *, marks: Sequence[tuple[float, str]] = ()) -> Markup:
    """Rows over one axis. `written`: its ticks in words. `marks`: values with a line through all rows, and what it says."""
    grid = [_across(axis.at(tick), "grid") for tick in axis.ticks] + [_across(axis.at(at), "mark") for at, _ in marks]
    made = [
        tag(
            "div",
            tag("div", line.label, class_="label"),
            tag(
                "svg",
                tag("title", f"{line.label}: {line.told}"),
                *grid,
                *line.drawn,
                class_="strip",
                height=line.height,
                width="100%",
                role="img",
                aria_label=f"{line.label}: {line.told}",
            ),
            tag("div", line.value, class_="value"),
            class_=f"row {line.tone}".strip(),
            role="listitem",
        )
        for line in lines
    ]
    return tag("div", *made, _foot(axis, written, marks), class_="rows", role="list")


def bar(axis: Axis, value: float, tone: str = "") -> Markup:
    """From 0 (or the axis's left end) to the value."""
    width = max(LEAST, axis.at(value)) if value > 0 else 0.0
    return tag("rect", x="0", y=4, width=f"{width:.2f}%", height=ROW - 8, rx=2, class_=f"bar {tone}".strip())


def segments(axis: Axis, parts: Sequence[tuple[str, float, str]]) -> list[Markup]:
    """Name, value and colour class of each, one after the other; each says its name and value to who points at it.

    All of them too short to be seen are as wide together as the smallest bar.
    """
    whole = sum(value for _, value, _ in parts)
    if 0 < axis.at(whole) < LEAST:
        parts = [(name, value / whole * LEAST / 100 * axis.high, tone) for name, value, tone in parts]
    found: list[Markup] = []
    at = 0.0
    for name, value, tone in parts:
        left, right = axis.at(at), axis.at(at + value)
        at += value
        if right > left:
            found.append(
                tag("rect", tag("title", name), x=f"{left:.3f}%", y=3, width=f"{right - left:.3f}%", height=ROW - 6, class_=f"seg {tone}")
            )
    return found


def spread(axis: Axis, low: float, middle: float, high: float, tone: str = "") -> list[Markup]:
    """A line from the lowest to the highest of three with a dot at each: hollow, ring, full."""
    y = ROW // 2
    return [
        tag("line", x1=f"{axis.at(low):.2f}%", x2=f"{axis.at(high):.2f}%", y1=y, y2=y, class_=f"span {tone}"),
        tag("circle", cx=f"{axis.at(low):.2f}%", cy=y, r=4, class_=f"dot hollow {tone}"),
        tag("circle", cx=f"{axis.at(middle):.2f}%", cy=y, r=3, class_=f"dot {tone}"),
        tag("circle", cx=f"{axis.at(high):.2f}%", cy=y, r=5, class_=f"dot {tone}"),
    ]


def pair(axis: Axis, said: float, found: float, tone: str = "") -> list[Markup]:
    """What was said before (a ring) and what was found (a dot)."""
    y = ROW // 2
    return [
        tag("line", x1=f"{axis.at(said):.2f}%", x2=f"{axis.at(found):.2f}%", y1=y, y2=y, class_=f"span {tone}"),
        tag("circle", cx=f"{axis.at(found):.2f}%", cy=y, r=5, class_=f"dot {tone}"),
        tag("circle", cx=f"{axis.at(said):.2f}%", cy=y, r=6, class_="ring"),
    ]


def point(axis: Axis, value: float, good: bool, told: str) -> Markup:
    """A dot where it was good, a cross where not."""
    x, y = f"{axis.at(value):.2f}%", ROW // 2
    if good:
        return tag("circle", tag("title", told), cx=x, cy=y, r=5, class_="dot good")
    cross = tag("path", tag("title", told), d="M-4.5,-4.5 L4.5,4.5 M-4.5,4.5 L4.5,-4.5", class_="cross")
    return tag("svg", cross, x=x, y=y, overflow="visible", width=1, height=1)


@dataclass(frozen=True)
class Line:
    """Points of a line over time; None cuts it."""

    tone: str
    points: Sequence[tuple[float, float | None]]


@dataclass(frozen=True)
class Plot:
    """A picture of lines or points over two axes. `told` is for who does not see it."""

    across: Axis
    up: Axis
    across_ticks: Sequence[str]
    up_ticks: Sequence[str]
    told: str
    lines: Sequence[Line] = ()
    points: Sequence[tuple[float, float, str]] = ()
    columns: Sequence[tuple[float, float, float, str, str]] = ()
    """Left, right, height, colour class, words."""
    marks: Sequence[tuple[float, str]] = ()
    height: int = PLOT


def plot(picture: Plot) -> Markup:
    """The picture as one SVG; the letters stand outside of the part that is stretched."""
    height, top = picture.height, 8

    def y(value: float) -> float:
        return top + height * (1 - picture.up.at(value) / 100)

    grid = [tag("line", x1="0", x2="100%", y1=y(tick), y2=y(tick), class_="grid") for tick in picture.up.ticks]
    marks: list[Markup] = []
    for at, said in picture.marks:
        marks.append(tag("line", x1="0", x2="100%", y1=y(at), y2=y(at), class_="mark"))
        marks.append(tag("text", said, x="100%", y=y(at) - 4, text_anchor="end", class_="tick warn"))
    drawn: list[Markup] = []
    for left, right, value, tone, told in picture.columns:
        x, width = picture.across.at(left), picture.across.at(right) - picture.across.at(left)
        drawn.append(
            tag(
                "rect",
                tag("title", told),
                x=f"{x:.3f}%",
                y=y(value),
                width=f"{max(0.15, width):.3f}%",
                height=max(0.0, top + height - y(value)),
                class_=f"seg {tone}",
            )
        )
    for line in picture.lines:
        for part in _unbroken(line.points):
            drawn += _polyline(picture, part, line.tone, top)
    drawn += [
        tag("circle", cx=f"{picture.across.at(x):.3f}%", cy=y(value), r=2.2, class_=f"speck {tone}") for x, value, tone in picture.points
    ]
    letters = [
        tag("text", said, x="100%", y=y(tick) + 4, text_anchor="end", class_="tick")
        for tick, said in zip(picture.up.ticks, picture.up_ticks, strict=True)
    ]
    size: dict[str, object] = {"width": "100%", "height": top + height + AXIS}
    beside = tag("svg", *letters, class_="beside", aria_hidden="true", **size)
    told = tag("title", picture.told)
    inner = tag("svg", told, *grid, *drawn, *marks, *_below(picture, top), class_="inner", role="img", aria_label=picture.told, **size)
    return tag("div", beside, inner, class_="plot")


def durations(axis: Axis) -> list[str]:
    """The words at the ticks of an axis of seconds."""
    return [short(tick) for tick in axis.ticks]


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """Colour class and words of each."""
    made = [tag("li", tag("svg", tag("rect", width=12, height=12, rx=2, class_=f"seg {tone}"), **_KEY), said) for tone, said in entries]
    return tag("ul", *made, class_="legend")


def key(entries: Sequence[tuple[Sequence[Markup], str]]) -> Markup:
    """As `legend`, with signs of one's own drawn in 22 × 22 pixels."""
    made = [tag("li", tag("svg", *drawn, width=22, height=ROW, aria_hidden="true"), said) for drawn, said in entries]
    return tag("ul", *made, class_="legend")


_KEY = {"width": 12, "height": 12, "aria_hidden": "true"}


def _below(picture: Plot, top: int) -> list[Markup]:
    last = len(picture.across.ticks) - 1
    return [
        tag(
            "text",
            said,
            x=f"{picture.across.at(tick):.2f}%",
            y=top + picture.height + 15,
            text_anchor="start" if n == 0 else "end" if n == last else "middle",
            class_="tick",
        )
        for n, (tick, said) in enumerate(zip(picture.across.ticks, picture.across_ticks, strict=True))
    ]


def _polyline(picture: Plot, part: Sequence[tuple[float, float]], tone: str, top: int) -> list[Markup]:
    """Stretched across, its stroke not; a single point is a dot."""
    if len(part) == 1:
        (x, value), *_ = part
        y = top + picture.height * (1 - picture.up.at(value) / 100)
        return [tag("circle", cx=f"{picture.across.at(x):.3f}%", cy=y, r=2.5, class_=f"speck {tone}")]
    written = " ".join(f"{picture.across.at(x):.2f},{100 - picture.up.at(value):.2f}" for x, value in part)
    line = tag("polyline", points=written, class_=f"line {tone}", vector_effect="non-scaling-stroke")
    return [
        tag(
            "svg",
            line,
            viewBox="0 0 100 100",
            preserveAspectRatio="none",
            x="0",
            y=top,
            width="100%",
            height=picture.height,
            overflow="visible",
        )
    ]


def _unbroken(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    parts: list[list[tuple[float, float]]] = [[]]
    for x, value in points:
        if value is None:
            parts.append([])
        else:
            parts[-1].append((x, value))
    return [part for part in parts if part]


def _across(at: float, kind: str) -> Markup:
    return tag("line", x1=f"{at:.2f}%", x2=f"{at:.2f}%", y1=0, y2="100%", class_=kind)


def _foot(axis: Axis, written: Sequence[str], marks: Sequence[tuple[float, str]]) -> Markup:
    ticks = list(zip(axis.ticks, written, strict=True))
    letters = [_letter(axis.at(tick), said, 13, "tick") for tick, said in ticks]
    letters += [_letter(axis.at(at), said, 27, "tick warn") for at, said in marks]
    svg = tag("svg", *letters, class_="strip", height=AXIS + (14 if marks else 0), width="100%", aria_hidden="true")
    return tag("div", tag("div", class_="label"), svg, tag("div", class_="value"), class_="row foot", aria_hidden="true")


def _letter(at: float, said: str, y: int, kind: str) -> Markup:
    anchor = "start" if at < 8 else "end" if at > 88 else "middle"
    return tag("text", said, x=f"{at:.2f}%", y=y, text_anchor=anchor, class_=kind)


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5, 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next((factor * power for factor in (1.0, 2.0, 2.5, 5.0) if value <= factor * power * (1 + 1e-9)), 10 * power)
