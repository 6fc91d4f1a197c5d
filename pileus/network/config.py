"""What the rules need to know of the settings, read and checked once."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pileus.errors import StartupError
from pileus.settings import Settings

_RANGE = re.compile(r"([^:\s]+)(?::(\d{1,4}):(\d{1,4}))?")


@dataclass(frozen=True)
class Config:
    """`vlans`: physical network → the ranges of VLAN ids that tenants' networks come from. `notify`: compute is told of levels."""

    settings: Settings
    notify: bool
    vlans: dict[str, list[tuple[int, int]]]


def read(settings: Settings, *, notify: bool) -> Config:
    """Raises StartupError for a VLAN range that is none."""
    vlans: dict[str, list[tuple[int, int]]] = {}
    for entry in settings.network.vlan_ranges:
        found = _RANGE.fullmatch(entry)
        if found is None:
            raise _bad(entry)
        ranges = vlans.setdefault(found[1], [])
        if found[2] is not None:
            first, last = int(found[2]), int(found[3])
            if not 1 <= first <= last <= 4094:
                raise _bad(entry)
            ranges.append((first, last))
    if settings.network.default_type == "vlan" and not any(vlans.values()):
        raise StartupError("setting network.default_type is vlan, but network.vlan_ranges has no range: add one as physnet:first:last")
    return Config(settings, notify, vlans)


def _bad(entry: str) -> StartupError:
    return StartupError(
        f"setting network.vlan_ranges: {entry!r} is neither `physnet` nor `physnet:first:last` with VLAN ids from 1 to 4094"
    )
