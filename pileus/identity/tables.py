"""The identity service's tables. No other service reads them."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, Table, UniqueConstraint

from pileus.store.schema import Json, Time, metadata, text, uid

domains = Table(
    "identity_domains",
    metadata,
    uid("id", primary_key=True),
    text("name", nullable=False, unique=True),
    text("description", nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("extra", Json, nullable=False),
)

projects = Table(
    "identity_projects",
    metadata,
    uid("id", primary_key=True),
    Column("domain_id", ForeignKey("identity_domains.id", ondelete="CASCADE"), nullable=False),
    uid("parent_id", nullable=False, index=True),  # the domain's id at the top
    text("name", nullable=False),
    text("description", nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("extra", Json, nullable=False),
    UniqueConstraint("domain_id", "name"),
)

users = Table(
    "identity_users",
    metadata,
    uid("id", primary_key=True),
    Column("domain_id", ForeignKey("identity_domains.id", ondelete="CASCADE"), nullable=False),
    text("name", nullable=False),
    text("password_hash"),
    Column("enabled", Boolean, nullable=False),
    uid("default_project_id"),
    Column("extra", Json, nullable=False),
    Column("token_epoch", Integer, nullable=False),  # a token of another epoch is revoked; a counter, since clocks can be set back
    UniqueConstraint("domain_id", "name"),
)

roles = Table(
    "identity_roles",
    metadata,
    uid("id", primary_key=True),
    text("name", nullable=False, unique=True),
    text("description"),
    Column("extra", Json, nullable=False),
)

implications = Table(
    "identity_role_implications",
    metadata,
    Column("prior_id", ForeignKey("identity_roles.id", ondelete="CASCADE"), primary_key=True),
    Column("implied_id", ForeignKey("identity_roles.id", ondelete="CASCADE"), primary_key=True),
)

assignments = Table(
    "identity_assignments",
    metadata,
    Column("user_id", ForeignKey("identity_users.id", ondelete="CASCADE"), primary_key=True),
    text("scope", primary_key=True),  # project | domain
    uid("scope_id", primary_key=True),
    Column("role_id", ForeignKey("identity_roles.id", ondelete="CASCADE"), primary_key=True),
    Index("identity_assignments_of_scope", "scope", "scope_id"),
    Index("identity_assignments_of_role", "role_id"),
)

revocations = Table(
    "identity_revocations",
    metadata,
    text("audit_id", primary_key=True),
    Column("expires_at", Time, nullable=False, index=True),
)

keys = Table(
    "identity_keys",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    text("secret", nullable=False),
    Column("signs_from", Time, nullable=False),  # before that the key is staged: it opens tokens and seals none
)

marks = Table(
    "identity_marks",
    metadata,
    text("name", primary_key=True),  # what is done once in a cloud's life
    text("place", nullable=False),  # where: the machine and its state folder
    Column("at", Time, nullable=False),
)
