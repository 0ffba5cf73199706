"""Executions, their updates, their roll-up by days, and what is still to be told of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ACTIVE = "finished_ms IS NULL"


def upgrade() -> None:
    op.create_table(
        "executions",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("org", sa.Text, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("team", sa.Text),
        sa.Column("method", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("progress", sa.Float),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("started_ms", sa.BigInteger),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        sa.Column("heartbeat_ms", sa.BigInteger, nullable=False),
        sa.Column("finished_ms", sa.BigInteger),
        sa.Column("duration_ms", sa.BigInteger),
        sa.Column("bucket", sa.Integer, nullable=False),
        sa.Column("updates_total", sa.BigInteger, nullable=False),
        sa.Column("updates_cut", sa.BigInteger, nullable=False),
        sa.Column("sender", sa.Text),
        sa.Column("step", sa.Text),
        sa.Column("tools", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("metadata", sa.Text),
        sa.Column("input", sa.Text),
        sa.Column("result", sa.Text),
    )
    op.create_index("executions_id", "executions", ["org", "id"], unique=True)
    for name, columns in {
        "executions_time": [
            *("org", "number", "status", "agent", "team", "method", "bucket", "duration_ms", "finished_ms")
        ],
        "executions_agent": ["org", "agent", "number", "status", "method", "team"],
        "executions_team": ["org", "team", "number", "status", "method"],
        "executions_method": ["org", "method", "number", "status"],
        "executions_status": ["org", "status", "number"],
    }.items():
        op.create_index(name, "executions", columns)
    op.create_index(
        "executions_active",
        "executions",
        ["org", "number", "status", "agent", "team", "method", "finished_ms"],
        sqlite_where=sa.text(_ACTIVE),
        postgresql_where=sa.text(_ACTIVE),
    )
    op.create_table(
        "execution_updates",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "execution_days",
        sa.Column("org", sa.Text, primary_key=True),
        sa.Column("agent", sa.Text, primary_key=True),
        sa.Column("team", sa.Text, primary_key=True),
        sa.Column("method", sa.Text, primary_key=True),
        sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("status", sa.Text, primary_key=True),
        sa.Column("bucket", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("n", sa.BigInteger, nullable=False),
        sa.Column("sum_ms", sa.BigInteger, nullable=False),
        sa.Column("min_ms", sa.BigInteger, nullable=False),
        sa.Column("max_ms", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("execution_days_day", "execution_days", ["day"])
    op.create_table(
        "execution_outbox",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("lease_ms", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("execution_outbox_lease", "execution_outbox", ["lease_ms", "number"])


def downgrade() -> None:
    for table in ("execution_outbox", "execution_days", "execution_updates", "executions"):
        op.drop_table(table)
