"""The schema's history. Who changes a tables.py adds one file to `versions/` in the same commit.

**The file** is `NNNN_<service>_<what>.py`, NNNN one more than the highest there is; its revision is its name (32 characters at most),
its `down_revision` the name of the file before it. One line of them, no branches: who comes second renames his file (a test says so).

    \"\"\"Servers remember who asked.\"\"\"

    import sqlalchemy as sa
    from alembic import op

    revision = "0002_compute_askers"
    down_revision = "0001_first"


    def upgrade() -> None:
        with op.batch_alter_table("compute_servers") as table:   # batch: SQLite cannot alter, so the table is made anew there
            table.add_column(sa.Column("asker", sa.Text()))
            table.create_index("compute_servers_asker", ["asker"])
        op.create_table("compute_askers", …)

**What it holds**: plain SQLAlchemy types, never our tables (those are of today; the file is of its day). A new column that is NOT NULL
needs a `server_default`, for the rows there are; drop the default again afterwards in a second `alter_column`, since our tables have
none. No downgrades. Both engines run every file; tests/store/test_migrations.py compares the outcome with our tables on both, and
says what differs. A file that has been released is never edited.

**Who runs it**: a SQLite file when it is opened; PostgreSQL by `pileus db upgrade`. A new database is made from today's tables and
stamped with the last revision, without Alembic. The revision of a database is in `alembic_version`.
"""
