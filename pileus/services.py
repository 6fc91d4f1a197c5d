"""The five services on one store and one bus, and their faces."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from pileus import operator_api
from pileus.bus import Bus
from pileus.clients.compute import ComputeEvents
from pileus.clients.network import NetworkClient
from pileus.clients.rest import Rest
from pileus.clients.tokens import KeystoneTokens, OwnTokens, Tokens
from pileus.compute.api.face import face as compute_face
from pileus.compute.client import InProcessEvents
from pileus.compute.network_http import HttpNetwork
from pileus.compute.service import Compute
from pileus.errors import StartupError
from pileus.http.face import Limits
from pileus.http.mount import mount
from pileus.identity.api.face import face as identity_face
from pileus.identity.service import Identity
from pileus.image.api.face import face as image_face
from pileus.image.service import Images
from pileus.network.api.face import face as network_face
from pileus.network.compute_http import HttpComputeEvents
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
    tokens: Tokens
    """For the Nova and the Neutron that the settings name."""

    async def close(self) -> None:
        """Connections to other services; what runs is closed by whoever started it."""
        if isinstance(self.compute.network, HttpNetwork):
            await self.compute.network.close()
        await self.tokens.close()

    @property
    def calls_with_our_tokens(self) -> bool:
        """Does compute call a network service with tokens of the identity service, which must run for it here?"""
        return bool(self.settings.compute.network_url) and not self.settings.service_auth.auth_url

    def events(self) -> ComputeEvents:
        """How the network service tells compute of ports; the caller closes it. Raises StartupError."""
        network, auth = self.settings.network, self.settings.service_auth
        if network.nova_url:
            return HttpComputeEvents(Rest(network.nova_url, self.tokens, name="Nova", limit=network.notify_timeout, ca=auth.ca))
        if self.settings.compute.plug_signal == "local":
            return InProcessEvents(self.store, self.bus)
        if not self.base_url:
            raise StartupError("with compute.plug_signal = callback the network service calls the compute API: set api.public_url")
        own = OwnTokens(self.identity.service_token)
        return HttpComputeEvents(Rest(f"{self.base_url}/compute/v2.1", own, name="compute", limit=network.notify_timeout, ca=auth.ca))


def assemble(settings: Settings, state: Path, store: Store, bus: Bus, base_url: str) -> Services:
    """`base_url`: what clients reach the faces by. Raises StartupError for settings that cannot be."""
    identity = Identity(store, settings, state / "keys", base_url)
    placement = Placement(store)
    images = Images(store, Path(settings.image.folder or state / "images"), settings)
    notify = settings.compute.plug_signal == "callback" or bool(settings.network.nova_url)
    network = Network(store, bus, settings, notify=notify)
    auth = settings.service_auth
    tokens: Tokens = KeystoneTokens(auth) if auth.auth_url else OwnTokens(identity.service_token)
    client: NetworkClient = _neutron(settings, tokens) if settings.compute.network_url else network.client
    compute = Compute(store, bus, settings, images, client, placement)
    return Services(settings, store, bus, base_url, identity, placement, images, network, compute, tokens)


def _neutron(settings: Settings, tokens: Tokens) -> HttpNetwork:
    """Raises StartupError for what cannot work."""
    compute, auth = settings.compute, settings.service_auth
    local = compute.plug_signal == "local"
    if local and auth.auth_url:
        raise StartupError(
            f"compute.network_url names the Neutron of another cloud ({compute.network_url}), whose own agents wire ports: "
            "set compute.plug_signal = callback, or leave service_auth.auth_url out where the network service is our own"
        )
    url, limit, retries = compute.network_url, compute.network_request_timeout, compute.network_retries
    rest = Rest(url, tokens, name="Neutron", limit=limit, retries=retries, ca=auth.ca)
    return HttpNetwork(rest, only_ours=local, limit=compute.network_limit)


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
