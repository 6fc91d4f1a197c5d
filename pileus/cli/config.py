"""`pileus config`: every setting, its value, origin, help and what is allowed; or what a profile sets, and why."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from pileus.configuration import Difference, describe, differences
from pileus.settings import Settings


def show(settings: Settings, origins: Mapping[str, str], *, as_json: bool) -> None:
    """A table at a terminal; tab-separated lines in a pipe; or JSON."""
    found = describe(settings, origins)
    if as_json:
        _print_json(found)
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


def show_profile(settings: Settings, origins: Mapping[str, str], *, as_json: bool) -> None:
    """What the profile of these settings sets: default, profile, what holds where you chose otherwise, and the reason.

    Those in which it is the default are named too, behind the others. The forms are those of `show`.
    """
    found = sorted(differences(settings, origins), key=lambda item: item.default == item.profile)
    if as_json:
        _print_json(found)
        return
    if not sys.stdout.isatty():
        for item in found:
            print(item.key, written(item.default), written(item.profile), _holds(item, settings), _reason(item), sep="\t")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, name = Console(), settings.profile
    if not found:
        console.print(f"The profile {name} sets nothing: all settings are the defaults or your own.")
        return
    table = Table("setting", "default", name, "here", "why", box=None, padding=(0, 2, 0, 0))
    for item in found:
        style = "dim" if item.default == item.profile else ""
        parts = (item.key, written(item.default), written(item.profile), _holds(item, settings), _reason(item))
        table.add_row(*(Text(part, style) for part in parts))
    console.print(table)
    words = f"\nUsed by `pileus up --profile {name}`, `pileus serve … --profile {name}` and PILEUS_PROFILE={name}."
    console.print(words, style="bold", highlight=False)


def written(value: Any) -> str:
    """A value as a TOML file would have it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {written(each)}" for key, each in value.items()) + "}"
    return msgspec.json.encode(value).decode()


def _holds(item: Difference, settings: Settings) -> str:
    """What you chose yourself instead; empty where the profile's value holds."""
    return "" if item.origin == f"profile {settings.profile}" else f"{written(item.value)} ({item.origin})"


def _reason(item: Difference) -> str:
    same = " The default is the same." if item.default == item.profile else ""
    where = f" Only in `pileus serve {item.where}`." if item.where else ""
    return f"{item.reason}{where}{same}"


def _print_json(found: Any) -> None:
    print(msgspec.json.format(msgspec.json.encode(found)).decode())
