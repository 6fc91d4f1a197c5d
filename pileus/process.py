"""What every process of Pileus does around its work: logs, limits, signals, the collector, and the word that it is ready."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import Protocol

import structlog
import uvloop

from pileus.errors import StartupError

GARBAGE = 20_000
"""Objects more than were freed before the collector looks: a boot makes some thousands, and few of them in circles."""


class Program(Protocol):
    """`start` returns when it is ready, `wait` only if it ends by itself, `close` lets go."""

    async def start(self) -> None: ...

    async def wait(self) -> None: ...

    async def close(self) -> None: ...


def run(program: Callable[[], Program], ready: Callable[[Program], None]) -> None:
    """Run a program until SIGTERM or Ctrl-C; `ready` is called when it is. Raises StartupError."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # two descriptors a guest, one a connection
    uvloop.run(_run(program(), ready))


async def _run(program: Program, ready: Callable[[Program], None]) -> None:
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    starting = asyncio.create_task(program.start())
    told = asyncio.create_task(ending.wait())
    try:
        await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return
        starting.result()
        gc.collect()
        gc.freeze()  # what is there now stays: no collection has to walk it again
        gc.set_threshold(GARBAGE)
        ready(program)
        served = asyncio.create_task(program.wait())
        await asyncio.wait({told, served}, return_when=asyncio.FIRST_COMPLETED)
        served.cancel()
        if not ending.is_set():
            raise StartupError("the HTTP server ended by itself; the log says why, guests go on")
    finally:
        told.cancel()
        await program.close()


def tell_service_manager(state: str) -> None:
    """Say `READY=1` or the like to who started us as a service of Type=notify. Source: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.sendall(state.encode())


def log_to_stderr(level: str) -> None:
    """One line an event, to stderr; what libraries log, from warnings up."""
    number = getattr(logging, level.upper())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # what it logs, the driver raises in its own words
    logging.basicConfig(level=max(number, logging.WARNING), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
