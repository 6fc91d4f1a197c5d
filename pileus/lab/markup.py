"""HTML and SVG as Python values: what is not markup already is escaped, so no name from outside can become part of a page."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable

GAP = "\N{NARROW NO-BREAK SPACE}"
"""Between a number and its unit."""
NOTHING = "–"
_EMPTY = frozenset(("meta", "br", "rect", "line", "circle", "polyline", "path"))


class Markup(str):
    """Text that is markup and stands as it is."""

    __slots__ = ()


Node = str | Iterable["Node"] | None
"""Markup, text to be escaped, several of them, or nothing."""


def tag(name: str, /, *children: Node, **attributes: object) -> Markup:
    """One element. A `_` at an attribute's end is dropped, inside it is a `-`; None and False leave the attribute out."""
    written = "".join(f" {_key(key)}{_value(value)}" for key, value in attributes.items() if value is not None and value is not False)
    if name in _EMPTY and not children:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(nodes: Iterable[Node]) -> Markup:
    """Several nodes as one piece of markup."""
    return Markup("".join(_text(node) for node in nodes))


def prose(text: str) -> Markup:
    """Text in which `…` is code."""
    parts = re.split(r"`([^`]+)`", text)
    return join(tag("code", part) if n % 2 else part for n, part in enumerate(parts))


def percent(part: float, whole: float) -> str:
    """`61 %`. What is not all is never written as 100 %, what is not nothing never as 0 %."""
    if whole <= 0:
        return NOTHING
    share = 100 * part / whole
    digits = 0 if share in (0, 100) or 1 <= share <= 99 else 1
    shown = min(max(share, 0.1), 99.9) if 0 < share < 100 else share
    return f"{shown:.{digits}f}{GAP}%"


def number(value: float | None) -> str:
    """Three digits that matter, thousands with a comma; a number that is not finite is nothing."""
    if value is None or not math.isfinite(value):
        return NOTHING
    size = abs(value)
    if size >= 1000 or size == int(size):
        return f"{value:,.0f}"
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 else 3
    return f"{value:,.{digits}f}"


def seconds(value: float | None) -> str:
    """`85 ms`, `0.42 s`, `151 s`."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if 0 < value < 0.1:
        return f"{number(round(value * 1000, 1) if value >= 0.001 else value * 1000)}{GAP}ms"
    return f"{number(value)}{GAP}s"


def short(value: float) -> str:
    """As `seconds`, of a round value: `2.5 s`, `50 ms`."""
    return f"{value * 1000:g}{GAP}ms" if 0 < value < 0.1 else f"{value:,g}{GAP}s"


def rate(value: float | None) -> str:
    """`4.25/s`."""
    return NOTHING if value is None or not math.isfinite(value) else f"{number(value)}/s"


def times(factor: float) -> str:
    """`12 ×`."""
    return f"{number(float(f'{factor:.2g}'))}{GAP}×"


def _text(node: Node) -> str:
    if node is None:
        return ""
    if isinstance(node, Markup):
        return node
    if isinstance(node, str):
        return html.escape(node, quote=False)
    return "".join(_text(each) for each in node)


def _key(key: str) -> str:
    return key.removesuffix("_").replace("_", "-") if key not in ("viewBox", "preserveAspectRatio") else key


def _value(value: object) -> str:
    return "" if value is True else f'="{html.escape(f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value))}"'
