"""The identity service's face: every route it has."""

from __future__ import annotations

from pileus.http import faults
from pileus.http.face import Face, Limits, Route
from pileus.identity.api import assignments, catalog, domains, projects, roles, tokens, users, versions
from pileus.identity.service import Identity

ROUTES: list[Route[Identity]] = [
    *versions.ROUTES,
    *tokens.ROUTES,
    *projects.ROUTES,
    *users.ROUTES,
    *domains.ROUTES,
    *roles.ROUTES,
    *assignments.ROUTES,
    *catalog.ROUTES,
]


def face(identity: Identity, limits: Limits | None = None) -> Face[Identity]:
    base = f"{identity.base_url}/identity"
    return Face(
        identity,
        ROUTES,
        base=base,
        fault=faults.identity,
        authenticate=identity.authenticate,
        identity_url=base,
        limits=limits,
    )
