"""The identity service as the others see it."""

from __future__ import annotations

from typing import Protocol

from pileus.context import Context


class IdentityClient(Protocol):
    async def authenticate(self, token: str) -> Context:
        """The caller behind a token. Raises Unauthorized."""
        ...

    async def service_token(self) -> str:
        """A token with the service role, for calls between services; the same one until it nears its end."""
        ...

    async def project_exists(self, project_id: str) -> bool: ...
