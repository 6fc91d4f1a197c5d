"""The keys that tokens are sealed with: rows that all processes share, each known everywhere before it seals.

A key is made some time before it seals anything (staged), seals until its successor does, and is kept for the tokens that it has
sealed (Keystone's staged, primary and secondary keys). What a key is now follows from `signs_from` and the clock, so that a turn
changes no row: it adds one, and the number after the newest can be added once only.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import bindparam, delete, select

from pileus.errors import StartupError
from pileus.identity.tables import keys as table
from pileus.store import Tx
from pileus.store.sql import Row, insert_new, rows

STAGED = 300.0
"""Most seconds between a key's making and its first use: longer than any process needs to re-read them, and than clocks differ."""
READS = 4
"""How often a process reads the keys while one is staged."""
SUFFIX = ".key"

_KEPT = select(table).order_by(table.c.number)
_DROP = delete(table).where(table.c.number < bindparam("least"))


class Keys:
    """The keys as this process has read them last."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._signs_from: list[float] = []
        self._fernets: list[Fernet] = []
        self._all: MultiFernet | None = None

    def take(self, kept: Sequence[Row]) -> None:
        """Use these from now on. Raises StartupError for a row that holds no key."""
        try:
            fernets = [Fernet(row["secret"]) for row in kept]
        except ValueError:
            raise StartupError(
                "table identity_keys holds something that is no Fernet key; restore it, or delete the row (its tokens end then)"
            ) from None
        self._fernets, self._signs_from = fernets, [row["signs_from"] for row in kept]
        self._all = MultiFernet(list(reversed(fernets)))

    def seal(self, payload: bytes) -> str:
        """By the newest key whose time has come; where the clock was set back before all of them, by the oldest."""
        assert self._fernets, "take() comes first"
        now = self._now()
        primary = max((at for at, start in enumerate(self._signs_from) if start <= now), default=0)
        return self._fernets[primary].encrypt(payload).decode().rstrip("=")

    def unseal(self, token: str) -> bytes | None:
        """What was sealed; None for what none of our keys has sealed."""
        assert self._all is not None, "take() comes first"
        try:
            return self._all.decrypt(token + "=" * (-len(token) % 4))
        except (InvalidToken, ValueError):
            return None


def staging(rotation: float) -> float:
    """Seconds that a key is staged where one seals for `rotation` seconds."""
    return min(STAGED, rotation / 2)


def kept(tx: Tx) -> list[Row]:
    """All keys, the oldest first."""
    return rows(tx, _KEPT)


def due(found: Sequence[Row], now: float, *, rotation: float, lifetime: float) -> bool:
    """Has `tend` something to do?"""
    return not found or _next_is_due(found, now, rotation) or _least_needed(found, now, rotation, lifetime) != found[0]["number"]


def tend(tx: Tx, now: float, *, rotation: float, lifetime: float) -> None:
    """Make the first key, stage the next one when its time is near, drop those that no living token needs.

    Any number of processes may do it at once: a number is added by one of them.
    """
    found = kept(tx)
    if not found:
        _add(tx, 1, Fernet.generate_key().decode(), now)
        return
    if _next_is_due(found, now, rotation):
        newest = found[-1]
        _add(tx, newest["number"] + 1, Fernet.generate_key().decode(), max(now, newest["signs_from"]) + staging(rotation))
    least = _least_needed(found, now, rotation, lifetime)
    if least != found[0]["number"]:
        tx.execute(_DROP, {"least": least})


def adopt(tx: Tx, found: Sequence[tuple[float, str]]) -> list[str]:
    """Take over keys from files (made at, secret; the oldest first) where there is no key yet; the secrets that are rows now."""
    if not kept(tx):
        for number, (made_at, secret) in enumerate(found, 1):
            _add(tx, number, secret, made_at)
    return [row["secret"] for row in kept(tx)]


def in_files(folder: Path) -> list[tuple[float, str]]:
    """The keys of a state folder that Pileus used when it was one process: `<second made>.key`. Raises StartupError."""
    found = []
    try:
        names = [path.name.removesuffix(SUFFIX) for path in folder.glob("*" + SUFFIX)]
        for at in sorted(int(name) for name in names if name.isascii() and name.isdigit()):
            path = folder / f"{at}{SUFFIX}"
            secret = path.read_bytes().strip()
            Fernet(secret)
            found.append((float(at), secret.decode()))
    except OSError as error:
        raise StartupError(f"token keys in {folder}: {error.strerror}") from None
    except ValueError:
        raise StartupError(f"{path} holds no Fernet key; restore it, or remove it (its tokens end then)") from None
    return found


def remove_files(folder: Path, found: Sequence[tuple[float, str]], adopted: Sequence[str]) -> None:
    """Those of the files that are rows now, and the folder when nothing is left in it. Raises OSError."""
    for at, secret in found:
        if secret in adopted:
            (folder / f"{at:.0f}{SUFFIX}").unlink(missing_ok=True)
    for leftover in folder.glob("*.part"):
        leftover.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _add(tx: Tx, number: int, secret: str, signs_from: float) -> None:
    insert_new(tx, table, {"number": number, "secret": secret, "signs_from": signs_from})


def _next_is_due(found: Sequence[Row], now: float, rotation: float) -> bool:
    return bool(now >= found[-1]["signs_from"] + rotation - staging(rotation))


def _least_needed(found: Sequence[Row], now: float, rotation: float, lifetime: float) -> int:
    """A key seals until its successor does everywhere, and is needed for one token lifetime after that."""
    for key, after in itertools.pairwise(found):
        if after["signs_from"] + staging(rotation) + lifetime > now:
            return int(key["number"])
    return int(found[-1]["number"])
