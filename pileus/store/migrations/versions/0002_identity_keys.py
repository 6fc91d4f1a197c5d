"""Token keys, which were files, and what is done once in a cloud's life, which was a file too."""

import sqlalchemy as sa
from alembic import op

revision = "0002_identity_keys"
down_revision = "0001_first"


def upgrade() -> None:
    op.create_table(
        "identity_keys",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("signs_from", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_table(
        "identity_marks",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
