"""The network info cache stands with its server; compute is told of changes beside levels; chores need no place to go on from."""

import sqlalchemy as sa
from alembic import op

revision = "0008_info_cache"
down_revision = "0007_image_tickets"

_HEALED = sa.text("deleted_at IS NULL AND host IS NOT NULL")


def upgrade() -> None:
    with op.batch_alter_table("compute_servers") as table:
        table.add_column(sa.Column("addresses", sa.JSON()))
        table.add_column(sa.Column("addresses_asked", sa.BigInteger(), nullable=False, server_default="0"))
        table.add_column(sa.Column("addresses_known", sa.BigInteger(), nullable=False, server_default="0"))
        table.add_column(sa.Column("refresh_at", sa.Double()))
        table.add_column(sa.Column("heal_at", sa.Double(), nullable=False, server_default="0"))
    op.execute("UPDATE compute_servers SET refresh_at = 0 WHERE deleted_at IS NULL AND host IS NOT NULL")
    op.execute("UPDATE compute_servers SET addresses = '[]' WHERE host IS NULL")
    must_read = sa.text("refresh_at IS NOT NULL")
    op.create_index("compute_servers_refresh", "compute_servers", ["refresh_at"], sqlite_where=must_read, postgresql_where=must_read)
    for name, columns in (("compute_servers_heal", ["heal_at"]), ("compute_servers_heal_of_host", ["host", "heal_at"])):
        op.create_index(name, "compute_servers", columns, sqlite_where=_HEALED, postgresql_where=_HEALED)
    with op.batch_alter_table("compute_host_beats") as table:
        table.add_column(sa.Column("heal_at", sa.Double(), nullable=False, server_default="0"))
    with op.batch_alter_table("compute_chores") as table:
        table.drop_column("cursor")
    op.drop_index("ix_network_outbox_due_at", "network_outbox")
    op.rename_table("network_outbox", "network_outbox_before")
    op.create_table(
        "network_outbox",
        sa.Column("port_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("server_id", sa.String(length=64), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("lease", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("port_id", "kind"),
    )
    op.create_index("ix_network_outbox_due_at", "network_outbox", ["due_at"])
    op.execute(
        "INSERT INTO network_outbox (port_id, kind, version, generation, name, server_id, attempts, created_at, due_at, lease) "
        "SELECT port_id, 'level', version, generation, name, server_id, attempts, created_at, due_at, lease FROM network_outbox_before"
    )
    op.drop_table("network_outbox_before")
