"""The root shell that a tiny guest has on its serial console."""

from __future__ import annotations

import itertools
import re
import time
from pathlib import Path
from types import TracebackType

from pileus.host.hypervisor.guestfolder import connect_unix

_numbers = itertools.count(1)


class Console:
    """One connection; the shell must be there already."""

    def __init__(self, path: Path) -> None:
        self._line = connect_unix(path)
        self._line.setblocking(True)

    def __enter__(self) -> Console:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._line.close()

    def run(self, command: str, limit: float = 40.0) -> tuple[int, str]:
        """Type a command; its exit code and what it printed."""
        number = next(_numbers)
        self._line.sendall(f"{command}; echo end-$?-{number}-\n".encode())
        said, ends = "", time.monotonic() + limit
        while (found := re.search(rf"end-(\d+)-{number}-", said)) is None:
            left = ends - time.monotonic()
            assert left > 0, f"{command!r} did not end within {limit:g} s; the console: {said[-1000:]!r}"
            self._line.settimeout(left)
            try:
                data = self._line.recv(4096)
            except TimeoutError:
                continue
            assert data, f"the guest ended during {command!r}; the console: {said[-1000:]!r}"
            said += data.decode(errors="replace")
        _, _, printed = said[: found.start()].partition("\n")
        return int(found[1]), printed.replace("\r", "")

    def type(self, command: str) -> None:
        """Type and not wait."""
        self._line.sendall(f"{command}\n".encode())
