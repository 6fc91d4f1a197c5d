"""Free addresses: a range is known by its end and counts what it has given. Events for compute: who is sending them."""

import sqlalchemy as sa
from alembic import op

revision = "0004_network_ranges"
down_revision = "0003_network_tunnels"


def upgrade() -> None:
    op.execute("CREATE TABLE network_free_before AS SELECT subnet_id, first, last, freed FROM network_free_addresses")
    op.drop_table("network_free_addresses")
    op.create_table(
        "network_free_addresses",
        sa.Column("subnet_id", sa.String(length=64), nullable=False),
        sa.Column("last", sa.String(length=32), nullable=False),
        sa.Column("first", sa.String(length=32), nullable=False),
        sa.Column("taken", sa.BigInteger(), nullable=False),
        sa.Column("freed", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("subnet_id", "last"),
    )
    op.create_index("network_free_order", "network_free_addresses", ["subnet_id", "freed", "last"])
    op.execute(
        "INSERT INTO network_free_addresses (subnet_id, last, first, taken, freed) "
        "SELECT subnet_id, last, first, 0, freed FROM network_free_before"
    )
    op.drop_table("network_free_before")
    with op.batch_alter_table("network_outbox") as table:
        table.add_column(sa.Column("lease", sa.String(length=64), nullable=False, server_default=""))
    with op.batch_alter_table("network_outbox") as table:
        table.alter_column("lease", server_default=None)
