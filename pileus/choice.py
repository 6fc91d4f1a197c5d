"""What runs the guests here: real ones or simulated, and why."""

from __future__ import annotations

from dataclasses import dataclass

from pileus.errors import StartupError
from pileus.hosts import missing_for_real
from pileus.settings import Settings


@dataclass(frozen=True)
class Choice:
    """Which hypervisor runs the guests, and why in words."""

    hypervisor: str
    reason: str


def choose(settings: Settings) -> Choice:
    """Real guests or simulated ones. Raises StartupError when what was asked for cannot be."""
    wanted, many = settings.host.hypervisor, settings.host.hosts > 1
    missing = missing_for_real(settings)
    if wanted == "qemu":
        if missing:
            raise StartupError(f"--hypervisor qemu is not possible here: {missing}")
        if many:
            raise StartupError(f"--hosts {settings.host.hosts} needs --hypervisor simulated: this machine is one real host")
        return Choice("qemu", "asked for")
    if wanted == "simulated":
        return Choice("simulated", "asked for")
    if many:
        return Choice("simulated", f"{settings.host.hosts} hosts asked for")
    return Choice("simulated", missing) if missing else Choice("qemu", "root, and QEMU and Open vSwitch are installed")
