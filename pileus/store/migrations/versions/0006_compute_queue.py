"""Creates queue to be let in; workers have leases of their own; hosts count their builds."""

import sqlalchemy as sa
from alembic import op

revision = "0006_compute_queue"
down_revision = "0005_heartbeats"


def _partial(name: str, columns: list[str], where: str) -> None:
    op.create_index(name, "compute_actions", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def upgrade() -> None:
    with op.batch_alter_table("compute_servers") as table:
        table.add_column(sa.Column("lease_owner", sa.Text(), nullable=False, server_default=""))
    with op.batch_alter_table("compute_actions") as table:
        table.add_column(sa.Column("tag", sa.BigInteger()))
        table.add_column(sa.Column("build_host", sa.Text()))
        table.drop_index("compute_actions_due")
    _partial("compute_actions_due", ["due_at"], "name != 'delete' AND due_at IS NOT NULL")
    _partial("compute_actions_due_deletes", ["due_at"], "name = 'delete' AND due_at IS NOT NULL")
    _partial("compute_actions_queue", ["state", "tag"], "name = 'create' AND finished_at IS NULL")
    _partial("compute_actions_queue_of_project", ["project_id", "state"], "name = 'create' AND finished_at IS NULL")
    with op.batch_alter_table("compute_hosts") as table:
        table.add_column(sa.Column("building", sa.Integer(), nullable=False, server_default="0"))
    with op.batch_alter_table("compute_usage") as table:
        table.add_column(sa.Column("last_tag", sa.BigInteger(), nullable=False, server_default="0"))
        table.add_column(sa.Column("admit_rate", sa.Double(), nullable=False, server_default="0"))
        table.add_column(sa.Column("admitted_at", sa.Double(), nullable=False, server_default="0"))
    op.create_table(
        "compute_workers",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "compute_admission",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("virtual_time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "compute_chores",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("cursor", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
