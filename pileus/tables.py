"""Every service's tables, registered with the one MetaData: who makes or upgrades a schema imports this first."""

from __future__ import annotations

import pileus.compute.tables
import pileus.identity.tables
import pileus.image.tables
import pileus.network.tables
import pileus.placement.tables  # noqa: F401
from pileus.store.schema import metadata

__all__ = ["metadata"]
