"""Whose certificates an https URL must show."""

from __future__ import annotations

import ssl

from pileus.errors import StartupError


def trust(url: str, ca: str) -> ssl.SSLContext | bool:
    """`ca`: file of certificates; empty: the system's. An http URL needs none, and reading them takes its time. Raises StartupError."""
    if not url.startswith("https:"):
        return False
    try:
        return ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        raise StartupError(f"setting service_auth.ca: {ca}: {getattr(error, 'strerror', None) or error}") from None
