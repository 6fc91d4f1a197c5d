"""Image, flavor and network of a storm: what was asked for, or the one sensible choice; where there is none, words that say what to add."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from pileus.errors import StartupError
from pileus.lab.api import Api

NO_IMAGE = "none"
PARTS_OF_IMAGES = ("aki", "ari")
"""Disk formats that nothing starts from."""
MOST_NAMED = 8


class Chosen(msgspec.Struct, frozen=True):
    """What the servers of a storm are made of. `network` None: the cloud has no network service, and gives what it gives."""

    image: str
    image_name: str
    flavor: str
    flavor_name: str
    network: str | None
    network_name: str


async def choose(api: Api, *, image: str | None, flavor: str | None, network: str | None) -> Chosen:
    """By name or id. Raises StartupError."""
    picked = await _image(api, image)
    size = await _flavor(api, flavor, picked)
    net = await _network(api, network)
    return Chosen(
        picked["id"], picked["name"] or picked["id"], size["id"], size["name"], net["id"] if net else None, (net or {}).get("name") or "–"
    )


async def _image(api: Api, wanted: str | None) -> dict[str, Any]:
    if wanted == NO_IMAGE:
        return {"id": "", "name": "none"}
    found = [each async for each in api.pages("image", "/images", "images")]
    found = [each for each in found if each.get("status") == "active" and each.get("disk_format") not in PARTS_OF_IMAGES]
    if wanted is None and not found:
        raise StartupError(
            f"the cloud has no image to start servers from: upload one, or say --image {NO_IMAGE} where servers may have none"
        )
    return _pick("image", wanted, found)


async def _flavor(api: Api, wanted: str | None, image: dict[str, Any]) -> dict[str, Any]:
    """The smallest that the image fits into."""
    found = [each async for each in api.pages("compute", "/flavors/detail", "flavors")]
    if wanted is not None:
        return _pick("flavor", wanted, found)
    fitting = [
        each for each in found if each["ram"] >= image.get("min_ram", 0) and (each["disk"] == 0 or each["disk"] >= image.get("min_disk", 0))
    ]
    if not fitting:
        raise StartupError("the cloud has no flavor that the image fits into: make one, or name one with --flavor")
    smallest: dict[str, Any] = min(fitting, key=lambda each: (each["ram"], each["vcpus"], each["disk"], each["name"]))
    return smallest


async def _network(api: Api, wanted: str | None) -> dict[str, Any] | None:
    """One with a subnet, of the project's own before shared ones, none that leads outside."""
    if not api.has("network"):
        if wanted is not None:
            raise StartupError("--network: the cloud's catalogue has no network service")
        return None
    found = [each async for each in api.pages("network", "/networks", "networks")]
    if wanted is not None:
        return _pick("network", wanted, found)
    usable = [each for each in found if each.get("subnets") and not each.get("router:external") and each.get("admin_state_up", True)]
    own = [each for each in usable if each.get("project_id", each.get("tenant_id")) == api.project]
    return _pick("network", None, own if len(own) == 1 else usable)


def _pick(what: str, wanted: str | None, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    hits = [each for each in found if wanted is None or each["id"] == wanted] or [each for each in found if each["name"] == wanted]
    if len(hits) == 1:
        return hits[0]
    if wanted is not None and hits:
        raise StartupError(f"--{what}: {len(hits)} {what}s are called {wanted!r}; give the id of one")
    if wanted is not None:
        raise StartupError(f"--{what}: the cloud has no {what} {wanted!r}; it has {_named(found)}")
    if not hits:
        raise StartupError(f"the cloud has no {what} to use here: make one, or name one with --{what}")
    raise StartupError(f"which {what}? The cloud has {_named(found)}; say it with --{what} NAME")


def _named(found: Sequence[dict[str, Any]]) -> str:
    names = [str(each["name"] or each["id"]) for each in found]
    return ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "") if names else "none"
