"""Where the real parts can be installed they must be there: then nothing is skipped, and a missing one fails the run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pileus import tinyguest
from pileus.hosts import missing_for_real
from pileus.settings import Settings
from tests.engines import postgresql
from tests.lab import browser


def test_root_on_debian_has_everything() -> None:
    if os.geteuid() == 0 and Path("/etc/debian_version").exists() and shutil.which("apt-get"):
        assert missing_for_real(Settings()) is None
        assert postgresql.programs() is not None, "PostgreSQL is not installed: tools/install-parts test"
        assert shutil.which("nats-server"), "nats-server is not installed: tools/install-parts test"
        assert shutil.which("systemd-analyze"), "systemd is not installed: tools/install-parts test"
        if "ID=debian" in Path("/etc/os-release").read_text().split():
            assert browser.program(), "Chromium is not installed: tools/install-parts test"
        assert tinyguest.find(tinyguest.default_folder()) is not None, "the tiny guest is not built: python -m pileus.tinyguest"
