"""Nova's filters by regular expression, as LIKE: the part of the language that people use, the same on every database.

A user's regular expression run by the database (or by Python) can take for ever; LIKE cannot.
"""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import ColumnElement, or_

from pileus.errors import BadRequest

_PART = re.compile(r"\\(?P<escaped>[^a-zA-Z0-9])|(?P<any>\.\*)|(?P<one>\.)|(?P<literal>[^\\^$*+?{}\[\]()|.])")
MOST = 255


def condition(column: ColumnElement[Any], pattern: str, where: str) -> ColumnElement[bool]:
    """Does the column contain the pattern, in any case? Raises BadRequest for what goes beyond `^ $ . .* |` and literal text."""
    return or_(*[column.ilike(like, escape="\\") for like in likes(pattern, where)])


def likes(pattern: str, where: str) -> list[str]:
    """A pattern as LIKE expressions (escape: backslash), one for each alternative. Raises BadRequest."""
    if len(pattern) > MOST:
        raise BadRequest(f"Invalid filter field: {where}. A pattern has at most {MOST} characters.")
    return [_like(part, where) for part in re.split(r"(?<!\\)\|", pattern)]


def _like(part: str, where: str) -> str:
    left, right = "%", "%"
    if part.startswith("^"):
        left, part = "", part[1:]
    if part.endswith("$") and not part.endswith("\\$"):
        right, part = "", part[:-1]
    out, at = [], 0
    while at < len(part):
        match = _PART.match(part, at)
        if match is None:
            raise BadRequest(f"Invalid filter field: {where}. Offered are ^ $ . .* | and literal text; put a backslash before other signs.")
        out.append(_translated(match))
        at = match.end()
    return left + "".join(out) + right


def _translated(match: re.Match[str]) -> str:
    if match["any"]:
        return "%"
    if match["one"]:
        return "_"
    literal = match["escaped"] or match["literal"]
    return "\\" + literal if literal in "%_\\" else literal
