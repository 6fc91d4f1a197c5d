"""Keys of image tickets."""

import sqlalchemy as sa
from alembic import op

revision = "0007_image_tickets"
down_revision = "0006_compute_queue"


def upgrade() -> None:
    op.create_table(
        "image_ticket_keys",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("secret", sa.String(length=64), nullable=False),
        sa.Column("made_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
