"""The demo from its first to its last step."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.table import Column, Table
from rich.text import Text

from pileus import tinyguest
from pileus.cli import bars
from pileus.cli.demo.cloud import CIDR, NAMES, Demo
from pileus.cli.demo.inside import NotProved
from pileus.cli.demo.leftovers import Count
from pileus.cli.demo.show import Show
from pileus.cli.demo.signals import ended_by_signals, uninterrupted
from pileus.errors import StartupError
from pileus.hosts import missing_for_real
from pileus.settings import Settings
from pileus.tinyguest import TinyGuest


def run(settings: Settings) -> None:
    """Print the demo. Raises StartupError when something could not be done or proved; in any case nothing is left."""
    show = Show()
    show.say(Text("Pileus demo: a throw-away cloud with two servers", "bold"))
    guest, reason = choose(settings, show)
    if guest is None:
        show.say(f"Hypervisor and switch are simulated: {reason}.")
    else:
        show.say("Real guests (QEMU) on a real switch (Open vSwitch), both ended and removed at the end.")
    home = Path(tempfile.mkdtemp(prefix="pileus-demo-"))
    home.chmod(0o711)  # the DHCP server, which is not root, must reach its files
    demo = Demo(settings, show, guest, home)
    with ended_by_signals():
        try:
            demo.count("before")
            _play(demo)
        except BaseException as error:
            with uninterrupted(), show.step("cleaning up"):
                words = log_end(demo.log) if isinstance(error, Exception) else ""
                demo.end()
            if words:
                show.say(f"The end of the cloud's log:\n{words}")
            if isinstance(error, Exception):
                left(demo, demo.count("cloud ended"))
            raise
    show.say()
    show.say(Text("All proved; nothing is left.", "bold green"))


def _play(demo: Demo) -> None:
    show = demo.show
    show.heading("Making it")
    with show.step("starting the cloud") as step:
        client = demo.start()
        step.done = f"the cloud is up at {client.urls['pileus'].removesuffix('/pileus')} (all files in {demo.home})"
    with client:
        demo.count("cloud up")
        with show.step("uploading images") as step:
            images = demo.images(client)
            step.done = "images: " + ", ".join(image["name"] for image in images)
        with show.step("making a network") as step:
            network = demo.network(client)
            step.done = f"network demo with subnet {CIDR}"
        with show.step("making two servers") as step:
            servers, took = demo.servers(client, images[0]["id"], network["id"])
            step.done = "servers: " + ", ".join(f"{name} ACTIVE {bars.duration(took[name])} after its POST" for name in NAMES)
        demo.count("two servers")
        show.heading("Looking from inside, over the serial consoles")
        if demo.guest is None:
            show.say("  skipped: simulated guests have no inside")
        else:
            demo.look_inside(client, servers)
        show.heading("Where the time of the first server went")
        demo.timeline(client, servers[0])
        show.heading("Taking it away")
        with show.step("deleting servers, network and images") as step:
            demo.delete(client, servers, network, images)
            step.done = "servers, network and images are deleted"
        demo.count("all deleted")
    with show.step("ending the cloud") as step, uninterrupted():
        demo.end()
        step.done = "the cloud has ended, and its files are removed"
    left(demo, demo.count("cloud ended"))


def left(demo: Demo, last: Count) -> None:
    """The table of what was there when. Raises NotProved where something is left."""
    show = demo.show
    show.heading("What it had on this machine")
    kinds = [kind for kind in Count.kinds() if demo.guest is not None or kind in ("processes", "files")]
    table = Table(Column("", no_wrap=True), box=None, padding=(0, 2, 0, 0), header_style="dim")
    for moment in demo.counts:
        table.add_column(moment, justify="right", no_wrap=True)
    wrong = []
    before, deleted = demo.counts.get("cloud up"), demo.counts.get("all deleted")
    for kind in kinds:
        table.add_row("  " + kind.replace("_", " "), *(str(getattr(each, kind)) for each in demo.counts.values()))
        if getattr(last, kind):
            wrong.append(f"{getattr(last, kind)} {kind.replace('_', ' ')} after the cloud's end")
        elif kind != "files" and before and deleted and getattr(deleted, kind) > getattr(before, kind):
            more = getattr(deleted, kind) - getattr(before, kind)
            wrong.append(f"{more} {kind.replace('_', ' ')} of the servers after they were deleted")
    show.say(table)
    if wrong:
        raise NotProved(f"not everything went: {'; '.join(wrong)}")


def choose(settings: Settings, show: Show) -> tuple[TinyGuest | None, str]:
    """The guest to boot; None and the reason where all is simulated. Raises StartupError when qemu was asked for and cannot be."""
    if settings.host.hypervisor == "simulated":
        return None, "asked for"
    reason = missing_for_real(settings)
    if reason is None:
        try:
            found = tinyguest.find(tinyguest.default_folder())
            if found is None:
                with show.step("making the small guest (once)"):
                    found = tinyguest.build(tinyguest.default_folder())
            return found, ""
        except StartupError as error:
            reason = str(error)
    if settings.host.hypervisor == "qemu":
        raise StartupError(f"real guests are not possible here: {reason}")
    return None, reason


def log_end(file: Path, lines: int = 12) -> str:
    try:
        return "\n".join(f"    {line}" for line in file.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
