"""The five services on one store and one bus, and their faces."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from pileus import operator_api
from pileus.bus import Bus
from pileus.compute.api.face import face as compute_face
from pileus.compute.service import Compute
from pileus.http.face import Limits
from pileus.http.mount import mount
from pileus.identity.api.face import face as identity_face
from pileus.identity.service import Identity
from pileus.image.api.face import face as image_face
from pileus.image.service import Images
from pileus.network.api.face import face as network_face
from pileus.network.client import InProcessNetwork
from pileus.network.service import Network
from pileus.placement.api.face import face as placement_face
from pileus.placement.service import Placement
from pileus.settings import Settings
from pileus.store import Store


@dataclass(frozen=True)
class Services:
    """What a process of the control plane has; which of it runs, and which faces answer, is its role's choice."""

    settings: Settings
    store: Store
    bus: Bus
    base_url: str
    identity: Identity
    placement: Placement
    images: Images
    network: Network
    compute: Compute


def assemble(settings: Settings, state: Path, store: Store, bus: Bus, base_url: str) -> Services:
    """`base_url`: what clients reach the faces by. Raises StartupError for settings that cannot be."""
    identity = Identity(store, settings, state / "keys", base_url)
    placement = Placement(store)
    images = Images(store, Path(settings.image.folder or state / "images"), settings)
    network = Network(store, bus, settings, notify=settings.compute.plug_signal == "callback")
    compute = Compute(store, bus, settings, images, InProcessNetwork(store, network.config), placement)
    return Services(settings, store, bus, base_url, identity, placement, images, network, compute)


def faces(services: Services, wanted: Collection[str]) -> ASGIApp:
    """The faces of these services (keys of `FACES`) on one port; compute's brings the operators' with it."""
    limits = Limits(services.settings.api.max_body, services.settings.api.max_limit)
    apps = {f"/{name}": FACES[name](services, limits) for name in FACES if name in wanted}
    if "compute" in wanted:
        ask, url = services.identity.authenticate, _identity_url(services)
        apps["/pileus"] = operator_api.face(services.compute, ask, url, services.base_url, limits)
    return mount(apps)


def _identity_url(services: Services) -> str:
    return f"{services.base_url}/identity"


FACES: dict[str, Callable[[Services, Limits], ASGIApp]] = {
    "identity": lambda s, limits: identity_face(s.identity, limits),
    "image": lambda s, limits: image_face(s.images, s.identity.authenticate, _identity_url(s), s.base_url, limits),
    "placement": lambda s, limits: placement_face(s.placement, s.identity.authenticate, _identity_url(s), s.base_url, limits),
    "compute": lambda s, limits: compute_face(s.compute, s.identity.authenticate, _identity_url(s), s.base_url, limits),
    "network": lambda s, limits: network_face(s.network, s.identity.authenticate, _identity_url(s), s.base_url, limits),
}
