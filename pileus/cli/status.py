"""`pileus status`: the services, the hosts and what they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from pileus.cli.client import Client
from pileus.cli.statefolder import running_pid
from pileus.errors import StartupError

SERVICES = {"identity": "identity", "image": "image", "placement": "placement", "compute": "compute", "network": "network"}
"""Name → type in the catalogue."""


def show(state: Path, *, as_json: bool) -> None:
    """Print how the cloud of this folder is. Raises StartupError, also when none runs."""
    with Client.of_state(state) as client:
        told: dict[str, Any] = client.get("pileus", "/v1/status")
        told["url"] = client.urls["pileus"].removesuffix("/pileus")
        told["state"], told["pid"] = str(state), running_pid(state)
        told["services"] = [_service(client, name, kind) for name, kind in SERVICES.items()]
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(told)).decode())
        return
    from pileus.cli.bars import terminal

    console = terminal()
    for line in _lines(told):
        console.print(line)


def _service(client: Client, name: str, kind: str) -> dict[str, Any]:
    url = client.urls.get(kind)
    try:
        return {"name": name, "url": url, "ok": True, "ms": round(client.answer_time(kind) * 1000, 1)}
    except (StartupError, KeyError) as error:
        return {"name": name, "url": url, "ok": False, "error": str(error)}


def _lines(told: dict[str, Any]) -> list[Any]:
    from rich.table import Table
    from rich.text import Text

    def table(*columns: str) -> Table:
        return Table(*columns, box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)

    services = table("service", "state", "answers in", "url")
    for each in told["services"]:
        if each["ok"]:
            services.add_row(each["name"], Text("ok", "green"), f"{each['ms']:.1f} ms", each["url"])
        else:
            services.add_row(each["name"], Text("no answer", "red"), "", Text(each["error"]))
    hosts = table("host", "state", "servers", "vCPUs", "memory", "guests run by", "acceleration")
    for host in told["hosts"]:
        hosts.add_row(
            Text(host["name"]),
            _state(host),
            str(host["servers"]),
            f"{host['vcpus_used']} given of {host['vcpus']}",
            f"{host['memory_mb_used']} of {host['memory_mb']} MiB",
            Text(host["hypervisor"]),
            Text(f"{host['acceleration']}: {host['acceleration_reason']}"),
        )
    counts = ", ".join(f"{count} {word}" for word, count in sorted(told["servers"].items())) or "none"
    process = f"pid {told['pid']}, " if told["pid"] is not None else ""
    settings = ", ".join(f"{key.rpartition('.')[2]} {_plain(value)}" for key, value in told["settings"].items())
    return [
        Text(f"Pileus {told['version']} runs at {told['url']} ({process}state folder {told['state']})", "bold"),
        Text(f"Settings of a boot's wait: {settings}"),
        "",
        services,
        "",
        hosts if told["hosts"] else Text("no host has said yet that it lives", "yellow"),
        "",
        Text(f"Servers: {counts}"),
        Text(f"Creates: {', '.join(f'{count} {word}' for word, count in told['creates'].items())}"),
    ]


def _state(host: dict[str, Any]) -> Any:
    from rich.text import Text

    if not host["up"]:
        return Text(f"down, not heard of for {host['seen_seconds_ago']:.0f} s", "red")
    if host["disabled"]:
        return Text(": ".join(filter(None, ("up, disabled", host["disabled_reason"]))), "yellow")
    return Text("up", "green")


def _plain(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
