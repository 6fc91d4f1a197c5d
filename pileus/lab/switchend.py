"""Ends the Open vSwitch of a folder, for whoever was killed before they could: `python -m pileus.lab.switchend FOLDER`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path


def command(folder: Path) -> list[str]:
    """What ends the switch of this folder, in a process of its own."""
    return [sys.executable, "-m", "pileus.lab.switchend", str(folder)]


def main() -> None:
    from pileus.host.switch.daemons import stop_daemons

    asyncio.run(stop_daemons(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
