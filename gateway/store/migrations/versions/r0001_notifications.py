"""Notifications, the outbox, and the leases of jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "notifications",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("org", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("mid", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("data", sa.Text),
        sa.Column("action", sa.Text),
        sa.Column("sender", sa.Text),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger),
        sa.Column("read_ms", sa.BigInteger),
        sa.Column("deleted_ms", sa.BigInteger),
    )
    op.create_index("notifications_mid", "notifications", ["org", "mid", "user_id"], unique=True)
    _partial(
        "notifications_read",
        ["org", "user_id", "id", "type"],
        "read_ms IS NOT NULL AND deleted_ms IS NULL",
    )
    _partial(
        "notifications_unread",
        ["org", "user_id", "id", "type", "expires_ms", "read_ms", "deleted_ms"],
        "read_ms IS NULL AND deleted_ms IS NULL",
    )
    _partial("notifications_expiring", ["expires_ms"], "expires_ms IS NOT NULL")
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("org", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("ref", sa.BigInteger),
        sa.Column("body", sa.Text),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("lease_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("outbox_lease", "outbox", ["lease_ms", "id"])
    op.create_table(
        "leases",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("until_ms", sa.BigInteger, nullable=False),
    )


def _partial(name: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, "notifications", columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    for table in ("leases", "outbox", "notifications"):
        op.drop_table(table)
