"""`pileus config`: every setting, its value, origin, help and what is allowed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from pileus.configuration import describe
from pileus.settings import Settings


def show(settings: Settings, origins: Mapping[str, str], *, as_json: bool) -> None:
    """A table at a terminal; tab-separated lines in a pipe; or JSON."""
    found = describe(settings, origins)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    if not sys.stdout.isatty():
        for item in found:
            print(item.key, written(item.value), item.origin, item.help, item.allowed, sep="\t")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("setting", "value", "origin", "what it does", "allowed", box=None, padding=(0, 2, 0, 0))
    for item in found:
        style = "" if item.origin == "default" else "bold"
        table.add_row(*(Text(part, style) for part in (item.key, written(item.value), item.origin, item.help, item.allowed)))
    Console().print(table)


def written(value: Any) -> str:
    """A value as a TOML file would have it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {written(each)}" for key, each in value.items()) + "}"
    return msgspec.json.encode(value).decode()
