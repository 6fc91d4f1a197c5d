"""Placement's tables. `used` and `capacity` stand on the inventory row, so that a claim is one guarded UPDATE."""

from __future__ import annotations

from sqlalchemy import Column, Double, ForeignKey, Integer, String, Table

from pileus.store.schema import Big, Time, metadata, uid

_CLASS = 255

providers = Table(
    "placement_providers",
    metadata,
    uid("id", primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("generation", Integer, nullable=False, default=0),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
)

inventories = Table(
    "placement_inventories",
    metadata,
    Column("provider_id", String(64), ForeignKey("placement_providers.id"), primary_key=True),
    Column("resource_class", String(_CLASS), primary_key=True),
    Column("total", Integer, nullable=False),
    Column("reserved", Integer, nullable=False),
    Column("min_unit", Integer, nullable=False),
    Column("max_unit", Integer, nullable=False),
    Column("step_size", Integer, nullable=False),
    Column("allocation_ratio", Double, nullable=False),
    Column("capacity", Big, nullable=False),
    Column("used", Big, nullable=False, default=0),
    Column("updated_at", Time, nullable=False),
)

consumers = Table(
    "placement_consumers",
    metadata,
    uid("id", primary_key=True),
    Column("project_id", String(255), nullable=False, index=True),
    Column("user_id", String(255), nullable=False),
    Column("consumer_type", String(255)),
    Column("generation", Integer, nullable=False),
    Column("updated_at", Time, nullable=False),
)

allocations = Table(
    "placement_allocations",
    metadata,
    Column("consumer_id", String(64), ForeignKey("placement_consumers.id"), primary_key=True),
    Column("provider_id", String(64), ForeignKey("placement_providers.id"), primary_key=True, index=True),
    Column("resource_class", String(_CLASS), primary_key=True),
    Column("used", Integer, nullable=False),
)

resource_classes = Table(
    "placement_resource_classes",
    metadata,
    Column("name", String(_CLASS), primary_key=True),
    Column("updated_at", Time, nullable=False),
)
"""The custom ones; the standard ones are code (classes.py)."""
