"""Tunnel networks: their numbers, and the hosts that have ports in them."""

import sqlalchemy as sa
from alembic import op

revision = "0003_network_tunnels"
down_revision = "0002_identity_keys"


def upgrade() -> None:
    with op.batch_alter_table("network_networks") as table:
        table.add_column(sa.Column("members_version", sa.BigInteger(), nullable=False, server_default="0"))
    with op.batch_alter_table("network_networks") as table:
        table.alter_column("members_version", server_default=None)
    op.create_table(
        "network_vnis",
        sa.Column("type", sa.String(length=16), nullable=False),
        sa.Column("vni", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("network_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("type", "vni"),
    )
    op.create_index("ix_network_vnis_network_id", "network_vnis", ["network_id"])
    op.create_table(
        "network_members",
        sa.Column("network_id", sa.String(length=64), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("ports", sa.Integer(), nullable=False),
        sa.Column("address", sa.Text()),
        sa.Column("announced", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("network_id", "host"),
    )
    op.create_index("network_members_of_host", "network_members", ["host"])
    news = (
        sa.text("announced IS false OR ports <= 0")
        if op.get_bind().dialect.name == "postgresql"
        else sa.text("announced IS 0 OR ports <= 0")
    )
    op.create_index("network_members_news", "network_members", ["network_id"], sqlite_where=news, postgresql_where=news)
