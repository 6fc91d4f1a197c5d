"""`pileus up`: the whole cloud in one process, until it is told to end."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import structlog
import uvloop

from pileus.cloud import Choice, Cloud, effective
from pileus.errors import StartupError
from pileus.hosts import missing_for_real
from pileus.settings import Settings

GARBAGE = 20_000
"""Objects more than were freed before the collector looks: a boot makes some thousands, and few of them in circles."""


def up(settings: Settings, origins: Mapping[str, str]) -> None:
    """Run until SIGTERM or Ctrl-C; requests under way are finished, guests go on. Raises StartupError."""
    log_to_stderr(settings.log_level)
    choice = choose(settings)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # two descriptors a guest, one a connection
    uvloop.run(_run(Cloud(effective(settings, origins, choice), choice)))


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


async def _run(cloud: Cloud) -> None:
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    await cloud.start()
    gc.collect()
    gc.freeze()  # what is there now stays: no collection has to walk it again
    gc.set_threshold(GARBAGE)
    try:
        print(greeting(cloud), flush=True)
        told, served = asyncio.create_task(ending.wait()), asyncio.create_task(cloud.wait())
        await asyncio.wait({told, served}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        served.cancel()
        if not ending.is_set():
            raise StartupError("the HTTP server ended by itself; the log says why, guests go on")
    finally:
        await cloud.close()


def greeting(cloud: Cloud) -> str:
    """The lines that a user needs next."""
    assert cloud.clouds_yaml is not None
    kind = f"{len(cloud.hosts)} simulated host{'s' if len(cloud.hosts) > 1 else ''} ({cloud.choice.reason})"
    real = cloud.choice.hypervisor == "qemu"
    what, guests = ("one real host", "guests go on") if real else (kind, "its simulated guests end with it")
    return "\n".join(
        (
            f"Pileus is up: {cloud.base_url}, {what}. Ctrl-C ends it; {guests}.",
            f"  export OS_CLIENT_CONFIG_FILE={_short(cloud.clouds_yaml)}",
            "  openstack --os-cloud pileus flavor list",
            f"  pileus status --state {_short(cloud.state)}",
        )
    )


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


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
