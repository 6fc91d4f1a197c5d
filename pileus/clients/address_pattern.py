"""Regular expressions for addresses, as far as they are taken: characters of addresses, `.`, `.*`, `\\.`, `^`, `$`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pileus.errors import BadRequest

_PATTERN = re.compile(r"(\^?)((?:\\[.:]|[0-9a-fA-F:]|\.\*|\.)*)(\$?)")
_PART = re.compile(r"\\(.)|\.\*|\.")
MOST_PATTERN = 64
MOST_WILDCARDS = 3


@dataclass(frozen=True)
class AddressPattern:
    """`body` between the anchors."""

    begins: bool
    body: str
    ends: bool

    @property
    def like(self) -> str:
        """A LIKE pattern that matches what the regular expression does."""
        body = _PART.sub(lambda m: m[1] or ("%" if m[0] == ".*" else "_"), self.body)
        return f"{'' if self.begins else '%'}{body.lower()}{'' if self.ends else '%'}"

    @property
    def part(self) -> str:
        """The longest piece that stands in every address that matches."""
        pieces = _PART.sub(lambda m: m[1] or " ", self.body).lower().split(" ")
        return max(pieces, key=len)

    def matches(self, address: str) -> bool:
        return re.search(f"{'^' if self.begins else ''}{self.body.lower()}{'$' if self.ends else ''}", address) is not None


def parse(pattern: str) -> AddressPattern:
    """Raises BadRequest for other patterns: one must not be able to keep the database busy."""
    found = _PATTERN.fullmatch(pattern)
    if found is None or len(pattern) > MOST_PATTERN or pattern.count(".*") > MOST_WILDCARDS:
        raise BadRequest(f"ip pattern {pattern!r}: an address or a part of it, with `.`, `\\.`, at most {MOST_WILDCARDS} `.*`, `^` and `$`")
    return AddressPattern(bool(found[1]), found[2], bool(found[3]))
