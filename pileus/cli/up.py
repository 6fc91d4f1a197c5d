"""`pileus up`: the whole cloud in one process, until it is told to end."""

from __future__ import annotations

from pathlib import Path

from pileus import process
from pileus.choice import choose
from pileus.cloud import Cloud
from pileus.settings import Settings


def up(settings: Settings) -> None:
    """Run until SIGTERM or Ctrl-C; requests under way are finished, guests go on. Raises StartupError."""
    process.log_to_stderr(settings.log_level)
    choice = choose(settings)
    cloud = Cloud(settings, choice)

    def ready(_: process.Program) -> None:
        print(greeting(cloud), flush=True)
        process.tell_service_manager("READY=1")

    process.run(lambda: cloud, ready)


def greeting(cloud: Cloud) -> str:
    """The lines that a user needs next."""
    kind = f"{len(cloud.hosts)} simulated host{'s' if len(cloud.hosts) > 1 else ''} ({cloud.choice.reason})"
    real = cloud.choice.hypervisor == "qemu"
    what, guests = ("one real host", "guests go on") if real else (kind, "its simulated guests end with it")
    return "\n".join(
        (
            f"Pileus is up: {cloud.base_url}, {what}. Ctrl-C ends it; {guests}.",
            f"  export OS_CLIENT_CONFIG_FILE={_short(found)}" if (found := cloud.access.clouds_yaml) else f"  {cloud.access.words}",
            "  openstack --os-cloud pileus flavor list",
            f"  pileus status --state {_short(cloud.state)}",
        )
    )


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
