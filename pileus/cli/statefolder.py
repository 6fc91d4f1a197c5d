"""A state folder as somebody outside of the cloud's process sees it: does a cloud run here, and who is it?"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path

from pileus.errors import StartupError

GUESTS, SWITCH, DHCP = "guests", "switch", "dhcp"
"""Folders of a real host's parts."""

LOCKS = ("lock", "lock-compute", "lock-network")
"""Who runs here holds one: a cloud or a whole host, or each side of a host whose two sides are processes of their own."""


@dataclass(frozen=True)
class Login:
    """What clouds.yaml says of the cloud `pileus`."""

    auth_url: str
    username: str
    password: str = field(repr=False)
    project_name: str


def is_known(state: Path) -> bool:
    """Whether it is said here how to reach the cloud."""
    return (state / "clouds.yaml").exists()


def is_held_while_running(state: Path) -> bool:
    """Whether `pileus up` was here: it holds the folder's lock while it runs. Any number of `pileus serve api` share a folder."""
    return (state / "lock").exists()


def running_pid(state: Path, lock: str = LOCKS[0]) -> int | None:
    """The process that holds the folder's lock; None when nobody does. Raises StartupError where the folder is not readable."""
    try:
        file = (state / lock).open("r")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StartupError(f"state folder {state}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            text = file.read().strip()
            return int(text) if text.isdigit() and _is_pileus(int(text)) else None
    return None


def running_parts(state: Path) -> list[tuple[str, int]]:
    """Lock and process of whoever runs here: one, or the two sides of a host. Raises StartupError."""
    return [(lock, pid) for lock in LOCKS if (pid := running_pid(state, lock)) is not None]


def login(state: Path) -> Login:
    """How to reach the cloud of this folder. Raises StartupError in words for who has not started one."""
    path = state / "clouds.yaml"
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise StartupError(f"there is no cloud in {state}; start one with `pileus up`, or name its folder with --state DIR") from None
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror}") from None
    found = _values(text)
    try:
        return Login(found["auth_url"], found["username"], found["password"], found["project_name"])
    except KeyError as missing:
        raise StartupError(
            f"{path} does not name {missing} of the cloud `pileus`; remove the file, and `pileus up` writes it anew"
        ) from None


def _values(text: str) -> dict[str, str]:
    """`key: value` lines of the first cloud, as `pileus up` writes them; no YAML parser for six strings."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.strip().partition(":")
        if colon and value.strip() and not key.startswith("#"):
            found.setdefault(key, value.strip().strip("\"'"))
    return found


def _is_pileus(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any("pileus" in Path(os.fsdecode(word)).name for word in words[:4])
