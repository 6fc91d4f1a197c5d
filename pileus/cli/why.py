"""`pileus why SERVER`: where a server's time went."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from pileus.cli.client import Client
from pileus.errors import StartupError


def show(state: Path, ref: str, *, request_id: str | None, everything: bool, as_json: bool) -> None:
    """Print the timeline of the server's last action, of one request, or of all. Raises StartupError."""
    with Client.of_state(state) as client:
        story = client.get("pileus", f"/v1/servers/{quote(ref, safe='')}/timeline")
    chosen = choose(story, request_id=request_id, everything=everything)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode({**story, "actions": chosen})).decode())
        return
    from rich.text import Text

    from pileus.cli import bars

    console = bars.terminal()
    server = story["server"]
    for told in chosen:
        for line in bars.draw(bars.read(told), server["name"], console.width):
            console.print(line)
        console.print()
    where = f" on host {server['host']}" if server["host"] else ""
    told_already = chosen[-1]["state"] == "failed"
    fault = f"; its fault: {server['fault']}" if server["fault"] and not told_already else ""
    console.print(Text(f"{server['name']} ({server['id']}) is {server['status']}{where}{fault}"))


def choose(story: dict[str, Any], *, request_id: str | None, everything: bool) -> list[dict[str, Any]]:
    """The actions asked for, the oldest first. Raises StartupError where there is none."""
    newest_first: list[dict[str, Any]] = story["actions"]
    if request_id is not None:
        found = [action for action in newest_first if action["request_id"] == request_id]
        if not found:
            raise StartupError(f"{story['server']['name']} has no action of request {request_id}; --all shows those there are")
        return found
    if not newest_first:
        raise StartupError(f"of {story['server']['name']} no action is remembered any more")
    return newest_first[::-1] if everything else newest_first[:1]
