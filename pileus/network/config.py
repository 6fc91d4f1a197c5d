"""What the rules need to know of the settings, read and checked once."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pileus.errors import StartupError
from pileus.settings import Settings

_VLANS = re.compile(r"([^:\s]+)(?::(\d{1,4}):(\d{1,4}))?")
_VNIS = re.compile(r"(\d{1,8}):(\d{1,8})")
_LARGEST_VNI = (1 << 24) - 1


@dataclass(frozen=True)
class Config:
    """`vlans`: physical network → the ranges of VLAN ids that tenants' networks come from. `vnis`: those of tunnel networks' numbers.
    `notify`: compute is told of levels."""

    settings: Settings
    notify: bool
    vlans: dict[str, list[tuple[int, int]]]
    vnis: list[tuple[int, int]]


def read(settings: Settings, *, notify: bool) -> Config:
    """Raises StartupError for a range that is none, and a default type that has none."""
    vlans: dict[str, list[tuple[int, int]]] = {}
    for entry in settings.network.vlan_ranges:
        found = _VLANS.fullmatch(entry)
        if found is None:
            raise _bad_vlans(entry)
        ranges = vlans.setdefault(found[1], [])
        if found[2] is not None:
            first, last = int(found[2]), int(found[3])
            if not 1 <= first <= last <= 4094:
                raise _bad_vlans(entry)
            ranges.append((first, last))
    default, vnis = settings.network.default_type, [_vnis(entry) for entry in settings.network.vni_ranges]
    if default == "vlan" and not any(vlans.values()):
        raise StartupError("setting network.default_type is vlan, but network.vlan_ranges has no range: add one as physnet:first:last")
    if default in ("geneve", "vxlan") and not vnis:
        raise StartupError(f"setting network.default_type is {default}, but network.vni_ranges has no range: add one as first:last")
    return Config(settings, notify, vlans, vnis)


def _vnis(entry: str) -> tuple[int, int]:
    found = _VNIS.fullmatch(entry)
    if found is None or not 1 <= int(found[1]) <= int(found[2]) <= _LARGEST_VNI:
        raise StartupError(f"setting network.vni_ranges: {entry!r} is not `first:last` with numbers from 1 to {_LARGEST_VNI}")
    return int(found[1]), int(found[2])


def _bad_vlans(entry: str) -> StartupError:
    return StartupError(
        f"setting network.vlan_ranges: {entry!r} is neither `physnet` nor `physnet:first:last` with VLAN ids from 1 to 4094"
    )
