"""The image service's face."""

from __future__ import annotations

from pileus.http import faults
from pileus.http.face import Authenticate, Face, Limits
from pileus.image.api import data, images, members, schemas, tags, versions
from pileus.image.service import Images

ROUTES = [
    *versions.ROUTES,
    *images.ROUTES,
    *data.ROUTES,
    *tags.ROUTES,
    *members.ROUTES,
    *schemas.ROUTES,
]


def face(service: Images, authenticate: Authenticate, identity_url: str, base_url: str, limits: Limits) -> Face[Images]:
    return Face(
        service,
        ROUTES,
        base=f"{base_url}/image",
        fault=faults.image,
        authenticate=authenticate,
        identity_url=identity_url,
        limits=limits,
    )
