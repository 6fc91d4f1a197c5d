"""The YAML that people write into clouds.yaml: nested maps and lists, plain and quoted words, comments, and `{}` and `[]` on one line.

What is beyond that (anchors, tags, texts of several lines) is refused with its line: it is never read as something else. Words are
typed as YAML 1.1 has them, but what looks like a date, an octal number or a time of day stays as it was written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_WORDS: dict[str, Any] = {"": None, "~": None, "null": None} | {
    word: value for value, words in ((True, "true yes on"), (False, "false no off")) for word in words.split()
}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_REAL = re.compile(r"[-+]?[0-9][0-9_]*\.[0-9_]*([eE][-+][0-9]+)?")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPED = {
    "0": "\0",
    "a": "\a",
    "b": "\b",
    "t": "\t",
    "n": "\n",
    "v": "\v",
    "f": "\f",
    "r": "\r",
    "e": "\x1b",
    "N": "\x85",
    "_": "\xa0",
    "L": "\u2028",
    "P": "\u2029",
    " ": " ",
    '"': '"',
    "/": "/",
    "\\": "\\",
}
_STRANGE = "&*!|>%@`"
"""What begins something that is not read here."""
_SIGNS = ("?", "-", ":", "=", "<<")
_OPENING = ("[", "{", ",", ":")
_BEGINS = re.compile(r"""(- +)*(("(\\.|[^"])*"|'(''|[^'])*'|[^ \t"'\[{#][^#]*?)[ \t]*:[ \t]+)?""")
"""What stands on a line before its value."""
DEEPEST = 40


class YamlError(ValueError):
    """What cannot be read, and where."""


@dataclass(frozen=True)
class _Line:
    number: int
    indent: int
    text: str


def read(text: str) -> Any:
    """The value of one document. Raises YamlError."""
    lines = _lines(text)
    if not lines:
        return None
    if len(lines) == 1 and _key(lines[0]) is None and not _is_item(lines[0].text):
        return _value(lines[0].text, lines[0].number)
    value, rest = _block(lines, 0, 0)
    if rest < len(lines):
        raise YamlError(f"line {lines[rest].number}: it is indented less than what it follows")
    return value


def _lines(text: str) -> list[_Line]:
    found = []
    for number, raw in enumerate(text.lstrip("\ufeff").splitlines(), 1):
        stripped = raw.lstrip(" ")
        if stripped.startswith("\t") and stripped.strip(" \t"):
            raise YamlError(f"line {number}: indented by a tab")
        content = _uncommented(stripped, number)
        if content in ("", "---"):
            continue
        if content == "...":
            break
        found.append(_Line(number, len(raw) - len(stripped), content))
    return found


def _uncommented(text: str, number: int) -> str:
    """The line without its comment. A quote counts as one only where a value or key begins: elsewhere it is a letter."""
    if text.startswith("#"):
        return ""
    at, brackets = 0, 0
    while at < len(text):
        letter = text[at]
        begins = text[:at].rstrip(" \t")[-1:] in _OPENING if brackets else _BEGINS.fullmatch(text, 0, at) is not None
        if begins and letter in "\"'":
            at = _quoted(text, at, number)[1]
            continue
        if letter in "[{" and (begins or brackets):
            brackets += 1
        elif letter in "]}" and brackets:
            brackets -= 1
        elif letter == "#" and text[at - 1] in " \t":
            return text[:at].rstrip(" \t")
        at += 1
    return text.rstrip(" \t")


def _block(lines: list[_Line], at: int, depth: int) -> tuple[Any, int]:
    """The map or list that begins with a line, and the number of the line after it."""
    if depth > DEEPEST:
        raise YamlError(f"line {lines[at].number}: nested too deeply")
    return _list(lines, at, depth) if _is_item(lines[at].text) else _map(lines, at, depth)


def _map(lines: list[_Line], at: int, depth: int) -> tuple[dict[Any, Any], int]:
    indent, found = lines[at].indent, {}
    while at < len(lines) and lines[at].indent == indent and not _is_item(lines[at].text):
        line = lines[at]
        pair = _key(line)
        if pair is None:
            raise YamlError(f"line {line.number}: `key: value` is expected")
        key, rest = pair
        at += 1
        if rest:
            found[key] = _value(rest, line.number)
        elif at < len(lines) and (lines[at].indent > indent or (lines[at].indent == indent and _is_item(lines[at].text))):
            found[key], at = _block(lines, at, depth + 1)
        else:
            found[key] = None
        _check_end(lines, at, indent)
    return found, at


def _list(lines: list[_Line], at: int, depth: int) -> tuple[list[Any], int]:
    indent, found = lines[at].indent, []
    while at < len(lines) and lines[at].indent == indent and _is_item(lines[at].text):
        line = lines[at]
        rest = line.text[1:].lstrip(" ")
        inner = _Line(line.number, indent + len(line.text) - len(rest), rest)
        if not rest:
            at += 1
            if at < len(lines) and lines[at].indent > indent:
                value, at = _block(lines, at, depth + 1)
                found.append(value)
            else:
                found.append(None)
        elif _is_item(rest) or _key(inner) is not None:
            lines[at] = inner
            value, at = _block(lines, at, depth + 1)
            found.append(value)
        else:
            found.append(_value(rest, line.number))
            at += 1
        _check_end(lines, at, indent)
    return found, at


def _check_end(lines: list[_Line], at: int, indent: int) -> None:
    if at < len(lines) and lines[at].indent > indent:
        raise YamlError(f"line {lines[at].number}: it goes on from the line before, which is not read here; put it into quotes on one line")


def _is_item(text: str) -> bool:
    return text == "-" or text.startswith("- ")


def _key(line: _Line) -> tuple[Any, str] | None:
    """Key and rest of a line; None where it is no pair."""
    text = line.text
    if text[0] in "\"'":
        word, end = _quoted(text, 0, line.number)
        rest = text[end:].lstrip(" ")
        return (word, rest[1:].strip(" \t")) if rest.startswith(":") and (len(rest) == 1 or rest[1] == " ") else None
    if text[0] in "[{":
        return None
    found = re.match(r"([^#]+?)[ \t]*:(?:[ \t]+|$)", text)
    if found is None:
        return None
    if text[0] in _STRANGE or text.startswith("? "):
        raise YamlError(f"line {line.number}: `{text[0]}` is not read here")
    return _typed(found[1], line.number), text[found.end() :].strip(" \t")


def _value(text: str, number: int) -> Any:
    value, end = _one(text, 0, number, "", 0)
    rest = text[end:].strip(" \t")
    if rest:
        raise YamlError(f"line {number}: what is `{rest}` after the value?")
    return value


def _one(text: str, at: int, number: int, ends: str, depth: int) -> tuple[Any, int]:
    """The value that begins at a place, and where it ends. `ends`: what ends a plain word inside brackets."""
    if depth > DEEPEST:
        raise YamlError(f"line {number}: nested too deeply")
    letter = text[at] if at < len(text) else ""
    if letter and letter in _STRANGE:
        raise YamlError(f"line {number}: `{letter}` begins something that is not read here; if it is part of a word, put quotes around it")
    if letter and letter in "\"'":
        return _quoted(text, at, number)
    if letter and letter in "[{":
        return _flow(text, at, number, depth)
    end = len(text)
    if ends:
        found = re.compile(r"[,\[\]{}]|:(?=[ ,\]}]|$)").search(text, at)
        end = found.start() if found else end
    word = text[at:end].strip(" \t")
    if not ends and re.search(r":([ \t]|$)", word):
        raise YamlError(f"line {number}: a colon inside of a word; put quotes around it")
    return _typed(word, number), end


def _flow(text: str, at: int, number: int, depth: int) -> tuple[Any, int]:
    closing = "]" if text[at] == "[" else "}"
    items: list[Any] = []
    pairs: dict[Any, Any] = {}
    at = _skip(text, at + 1)
    while at < len(text) and text[at] != closing:
        value, at = _one(text, at, number, ",", depth + 1)
        at = _skip(text, at)
        if closing == "}":
            if at < len(text) and text[at] == ":":
                content, at = _one(text, _skip(text, at + 1), number, ",", depth + 1)
                at = _skip(text, at)
            else:
                content = None
            pairs[value] = content
        else:
            items.append(value)
        if at < len(text) and text[at] == ",":
            at = _skip(text, at + 1)
        elif at >= len(text) or text[at] != closing:
            raise YamlError(f"line {number}: `{closing}` is missing")
    if at >= len(text):
        raise YamlError(f"line {number}: `{closing}` is missing on this line")
    return (items if closing == "]" else pairs), at + 1


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] == " ":
        at += 1
    return at


def _quoted(text: str, at: int, number: int) -> tuple[str, int]:
    quote, start = text[at], at + 1
    at = start
    while at < len(text):
        if (text[at] == "\\" and quote == '"') or (text[at] == quote and quote == "'" and text[at + 1 : at + 2] == "'"):
            at += 2
        elif text[at] == quote:
            inside = text[start:at]
            return (inside.replace("''", "'") if quote == "'" else _ESCAPE.sub(lambda found: _escaped(found[1], number), inside)), at + 1
        else:
            at += 1
    raise YamlError(f"line {number}: a quote is not closed on its line")


def _escaped(code: str, number: int) -> str:
    if code[0] in "xuU" and len(code) > 1:
        return chr(int(code[1:], 16))
    if code not in _ESCAPED:
        raise YamlError(f"line {number}: `\\{code}` means nothing inside of double quotes")
    return _ESCAPED[code]


def _typed(word: str, number: int) -> Any:
    if word in _SIGNS or word.startswith(("? ", "- ", ": ")):
        raise YamlError(f"line {number}: `{word}` is not read here; if it is a word, put quotes around it")
    if word in _WORDS or (word.lower() in _WORDS and word in (word.title(), word.upper())):
        return _WORDS[word.lower()]
    if _INTEGER.fullmatch(word):
        return int(word.replace("_", ""))
    if _REAL.fullmatch(word):
        return float(word.replace("_", ""))
    return word
