"""One self-contained HTML page: no network, no script, and a policy in its head that would refuse both."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pileus.lab.markup import NOTHING, Markup, Node, number, prose, tag
from pileus.lab.style import STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Tile:
    """One figure that stands out. `tone`: good, bad or nothing."""

    what: str
    figure: str
    words: str = ""
    tone: str = ""


def page(title: str, kicker: str, lead: str, sections: Sequence[Node], foot: str) -> str:
    """The whole document."""
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(STYLE)),
    ]
    header = tag("header", tag("p", kicker, class_="kicker"), tag("h1", title), tag("p", lead, class_="lead"))
    main = tag("main", header, *sections, tag("footer", prose(foot)))
    return "<!DOCTYPE html>\n" + tag("html", tag("head", *head), tag("body", main), lang="en") + "\n"


def section(title: str, words: Node, *parts: Node) -> Markup:
    """A part of the page. The title says what is found, the words how to read it."""
    return tag("section", tag("h2", title), tag("p", words) if words else None, *parts)


def figure(chart: Node, title: str = "", note: str = "") -> Markup:
    """A chart with its name above and a note below."""
    return tag("figure", tag("h3", title) if title else None, chart, tag("figcaption", note, class_="note") if note else None)


def tiles(found: Sequence[Tile]) -> Markup:
    made = [
        tag(
            "div",
            tag("dt", one.what),
            tag("dd", one.figure),
            tag("dd", one.words) if one.words else None,
            class_=f"tile {one.tone}".strip(),
        )
        for one in found
    ]
    return tag("dl", *made, class_="tiles")


def table(head: Sequence[str], lines: Sequence[Sequence[Node]], caption: str, *, words: Sequence[int] = (0,)) -> Markup:
    """A table that can be scrolled where it is too wide. `words`: the columns that are text; the others are numbers."""
    kind = [None if n in words else "n" for n in range(len(head))]
    top = tag("tr", *(tag("th", name, scope="col", class_=kind[n]) for n, name in enumerate(head)))
    body = [
        tag("tr", *(tag("th", cell, scope="row") if n == 0 else tag("td", cell, class_=kind[n]) for n, cell in enumerate(line)))
        for line in lines
    ]
    made = tag("table", tag("caption", caption), tag("thead", top), tag("tbody", *body))
    return tag("div", made, class_="scroll", tabindex=0, role="region", aria_label=caption)


def fold(summary: str, *parts: Node) -> Markup:
    """What is shown to who asks for it."""
    return tag("details", tag("summary", summary), *parts)


def facts(found: Mapping[str, Any]) -> Markup:
    """Names and values."""
    return tag(
        "dl", *(node for name, value in found.items() for node in (tag("dt", words(name)), tag("dd", prose(plain(value))))), class_="facts"
    )


def lists(found: Mapping[str, Sequence[str]]) -> Markup:
    """Several short lists beside one another."""
    made = [
        tag(
            "div",
            tag("h3", title),
            tag("ul", *(tag("li", prose(line)) for line in lines)) if lines else tag("p", "nothing", class_="quiet"),
        )
        for title, lines in found.items()
    ]
    return tag("div", *made, class_="three")


def plain(value: Any) -> str:
    """A value in words."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: NOTHING}[value]
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return number(value)
    return msgspec.json.encode(value).decode()


def words(name: str) -> str:
    """`cpu_model` as `cpu model`."""
    return name.replace("_", " ")


def moment(at: float) -> str:
    """A Unix time as date and time of day, UTC."""
    return time.strftime("%-d %B %Y, %H:%M UTC", time.gmtime(at))


def lasted(seconds: float) -> str:
    """`2 h 5 min`, `4 min`, `12 s`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
