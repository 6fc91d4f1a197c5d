"""The keys that tokens are signed and encrypted with: files in a folder, the newest one in use, old ones kept while their tokens live.

A key's file is named for the second it was made in. A key signs until its successor is made, so it is needed for one token
lifetime after that, and then removed.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from pileus.errors import StartupError

SUFFIX = ".key"


class Keys:
    """All methods but `seal` and `unseal` work on files: call them off the event loop."""

    def __init__(self, folder: Path, *, rotation: float, lifetime: float) -> None:
        self._folder = folder
        self._rotation = rotation
        self._lifetime = lifetime
        self._made: list[int] = []
        self._fernet: MultiFernet | None = None

    def open(self, now: float) -> None:
        """Make the folder and the first key if they are not there, read all, rotate if it is time. Raises StartupError."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._folder.chmod(0o700)
            for leftover in self._folder.glob("*.part"):
                leftover.unlink()
            self.rotate(now)
        except OSError as error:
            raise StartupError(f"token keys in {self._folder}: {error.strerror}") from None

    def rotate(self, now: float) -> float:
        """Make a new key if the newest is old enough, drop those that no living token needs; seconds until the next turn."""
        made = self._list()
        if not made or now - made[-1] >= self._rotation:
            made.append(max(int(now), made[-1] + 1 if made else 0))
            self._write(made[-1])
        needed = [at for at, after in zip(made, [*made[1:], None], strict=True) if after is None or after + self._lifetime + 1 > now]
        for at in set(made) - set(needed):
            self._path(at).unlink()
        if needed != self._made:
            self._fernet = MultiFernet([self._read(at) for at in reversed(needed)])
            self._made = needed
        return max(1.0, needed[-1] + self._rotation - now)

    def seal(self, payload: bytes) -> str:
        assert self._fernet is not None, "open() comes first"
        return self._fernet.encrypt(payload).decode().rstrip("=")

    def unseal(self, token: str) -> bytes | None:
        """What was sealed; None for what none of our keys has sealed."""
        assert self._fernet is not None, "open() comes first"
        try:
            return self._fernet.decrypt(token + "=" * (-len(token) % 4))
        except (InvalidToken, ValueError):
            return None

    def _list(self) -> list[int]:
        names = [path.name.removesuffix(SUFFIX) for path in self._folder.glob("*" + SUFFIX)]
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def _path(self, at: int) -> Path:
        return self._folder / f"{at}{SUFFIX}"

    def _read(self, at: int) -> Fernet:
        try:
            return Fernet(self._path(at).read_bytes().strip())
        except ValueError:
            raise StartupError(f"{self._path(at)} holds no Fernet key; restore it, or remove it (its tokens end then)") from None

    def _write(self, at: int) -> None:
        """Whole or not at all, and on the disk before a token is signed with it."""
        part = self._path(at).with_suffix(".part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, Fernet.generate_key())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.rename(self._path(at))
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
