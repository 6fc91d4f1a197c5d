"""Connecting to the switch's unix sockets, whose path may be longer than a socket address can hold (108 bytes, unix(7))."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

from pileus.host.switch import SwitchError

_LONGEST = 100


class SwitchGone(SwitchError):
    """The switch went away in the middle. Doing it again once it is back may help: every step is idempotent."""


async def connect_unix(path: Path) -> socket.socket:
    """A connected, non-blocking stream socket. Raises OSError."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    channel.setblocking(False)
    try:
        if len(os.fsencode(path)) <= _LONGEST:
            await asyncio.get_running_loop().sock_connect(channel, str(path))
        else:
            folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                await asyncio.get_running_loop().sock_connect(channel, f"/proc/self/fd/{folder}/{path.name}")
            finally:
                os.close(folder)
    except BaseException:
        channel.close()
        raise
    return channel
