"""What each heartbeat writes stands in tables of its own."""

import sqlalchemy as sa
from alembic import op

revision = "0005_heartbeats"
down_revision = "0004_network_ranges"


def upgrade() -> None:
    op.create_table(
        "compute_host_beats",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("guests", sa.Integer(), nullable=False),
        sa.Column("mark", sa.BigInteger(), nullable=False),
        sa.Column("down_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        postgresql_with={"fillfactor": 50},
    )
    op.execute(
        "INSERT INTO compute_host_beats (name, seen_at, started_at, guests, mark, down_at) "
        "SELECT name, seen_at, 0, 0, -1, 0 FROM compute_hosts"
    )
    with op.batch_alter_table("compute_hosts") as table:
        table.drop_column("seen_at")
    op.create_table(
        "network_agent_beats",
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("heartbeat_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("mark", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("host"),
        postgresql_with={"fillfactor": 50},
    )
    with op.batch_alter_table("network_agents") as table:
        table.drop_column("started_at")
        table.drop_column("heartbeat_at")
