"""Glance's tables. The data of an image is a file beside the database (files.py)."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, String, Table

from pileus.store.schema import Big, Time, metadata, text, uid

images = Table(
    "image_images",
    metadata,
    uid("id", primary_key=True),
    Column("owner", String(255), nullable=False, index=True),
    Column("name", String(255)),
    Column("status", String(16), nullable=False),
    Column("visibility", String(16), nullable=False),
    Column("disk_format", String(16)),
    Column("container_format", String(16)),
    Column("size", Big),
    Column("virtual_size", Big),
    Column("checksum", String(32)),
    Column("os_hash_value", String(128)),
    Column("min_disk", Integer, nullable=False),
    Column("min_ram", Integer, nullable=False),
    Column("protected", Boolean, nullable=False),
    Column("os_hidden", Boolean, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    uid("upload"),
)
"""`upload` names the upload that is under way or made the image active."""

properties = Table(
    "image_properties",
    metadata,
    Column("image_id", String(64), ForeignKey("image_images.id"), primary_key=True),
    Column("name", String(255), primary_key=True),
    text("value", nullable=False),
)
Index("image_properties_by_name", properties.c.name)

tags = Table(
    "image_tags",
    metadata,
    Column("image_id", String(64), ForeignKey("image_images.id"), primary_key=True),
    Column("tag", String(255), primary_key=True, index=True),
)

ticket_keys = Table(
    "image_ticket_keys",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("secret", String(64), nullable=False),
    Column("made_at", Time, nullable=False),
)
"""`number`: of the period that the key signs for."""

members = Table(
    "image_members",
    metadata,
    Column("image_id", String(64), ForeignKey("image_images.id"), primary_key=True),
    Column("member", String(255), primary_key=True, index=True),
    Column("status", String(16), nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
)
