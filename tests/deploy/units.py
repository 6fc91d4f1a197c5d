"""Reading systemd's unit files. Source: systemd.syntax(7)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"


@dataclass
class Unit:
    """Options by name, sections put together: no name stands in two."""

    options: dict[str, list[str]] = field(default_factory=dict)

    def all(self, name: str) -> list[str]:
        return self.options.get(name, [])

    def last(self, name: str) -> str:
        return self.all(name)[-1] if self.all(name) else ""


def read(file: Path) -> Unit:
    """Raises ValueError for a line that is none of a unit's."""
    unit = Unit()
    for line in file.read_text().splitlines():
        text = line.strip()
        if not text or text[0] in "#;[":
            continue
        name, sign, value = text.partition("=")
        if not sign or text.endswith("\\"):
            raise ValueError(f"{file}: {line}")
        unit.options.setdefault(name, []).append(value)
    return unit
