"""Approvals, who was asked, and who did what from where."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "approvals",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("org", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("message", sa.Text),
        sa.Column("data", sa.Text),
        sa.Column("choices", sa.Text, nullable=False),
        sa.Column("users", sa.Text),
        sa.Column("role", sa.Text),
        sa.Column("fallback", sa.Text),
        sa.Column("execution", sa.Text),
        sa.Column("task", sa.Text),
        sa.Column("sender", sa.Text),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("deadline_ms", sa.BigInteger, nullable=False),
        sa.Column("choice", sa.Text),
        sa.Column("comment", sa.Text),
        sa.Column("decided_ms", sa.BigInteger),
        sa.Column("decided_by", sa.Text),
    )
    op.create_index("approvals_name", "approvals", ["org", "name"], unique=True)
    op.create_index("approvals_org", "approvals", ["org", "id"])
    _partial("approvals_open", ["org", "id", "size"], "decided_ms IS NULL")
    _partial("approvals_due", ["deadline_ms", "id"], "decided_ms IS NULL")
    _partial("approvals_role", ["org", "role", "id"], "role IS NOT NULL")
    _partial("approvals_role_open", ["org", "role", "id"], "role IS NOT NULL AND decided_ms IS NULL")
    _partial("approvals_role_newest", ["id", "org", "role"], "role IS NOT NULL AND decided_ms IS NULL")
    _partial("approvals_decided", ["decided_ms", "id"], "decided_ms IS NOT NULL")
    _partial("approvals_expired", ["org", "id"], "decided_ms IS NOT NULL AND choice IS NULL")
    op.create_table(
        "approval_users",
        sa.Column("approval", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("org", sa.Text, nullable=False),
        sa.Column("notification", sa.BigInteger, nullable=False),
    )
    op.create_index("approval_users_user", "approval_users", ["org", "user_id", "approval"])
    op.create_table(
        "approval_audit",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("approval", sa.BigInteger, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("user_id", sa.Text),
        sa.Column("address", sa.Text),
        sa.Column("connection", sa.Text),
        sa.Column("choice", sa.Text),
    )
    op.create_index("approval_audit_of", "approval_audit", ["approval", "id"])


def _partial(name: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, "approvals", columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    for table in ("approval_audit", "approval_users", "approvals"):
        op.drop_table(table)
