"""The tables of approvals. Times are milliseconds since 1970 UTC, JSON is text."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Table, Text

from gateway.store.tables import metadata, partial_index

__all__ = ["approval_audit", "approval_users", "approvals"]

approvals: Final = Table(
    "approvals",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("org", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("message", Text),
    Column("data", Text),
    Column("choices", Text, nullable=False),
    Column("users", Text),
    Column("role", Text),
    Column("fallback", Text),
    Column("execution", Text),
    Column("task", Text),
    Column("sender", Text),
    Column("size", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("deadline_ms", BigInteger, nullable=False),
    Column("choice", Text),
    Column("comment", Text),
    Column("decided_ms", BigInteger),
    Column("decided_by", Text),
)
"""``name`` is the id that clients know. Open as long as ``decided_ms`` is null:
whoever sets it has decided."""

_OPEN = "decided_ms IS NULL"
_ROLE = "role IS NOT NULL"
_ROLE_OPEN = "role IS NOT NULL AND decided_ms IS NULL"
_DECIDED = "decided_ms IS NOT NULL"
_EXPIRED = "decided_ms IS NOT NULL AND choice IS NULL"
_a = approvals.c
Index("approvals_name", _a.org, _a.name, unique=True)
Index("approvals_org", _a.org, _a.id)
partial_index("approvals_open", _a.org, _a.id, _a.size, where=_OPEN)
partial_index("approvals_due", _a.deadline_ms, _a.id, where=_OPEN)
partial_index("approvals_role", _a.org, _a.role, _a.id, where=_ROLE)
partial_index("approvals_role_open", _a.org, _a.role, _a.id, where=_ROLE_OPEN)
partial_index("approvals_role_newest", _a.id, _a.org, _a.role, where=_ROLE_OPEN)
partial_index("approvals_decided", _a.decided_ms, _a.id, where=_DECIDED)
partial_index("approvals_expired", _a.org, _a.id, where=_EXPIRED)

approval_users: Final = Table(
    "approval_users",
    metadata,
    Column("approval", BigInteger, primary_key=True, autoincrement=False),
    Column("user_id", Text, primary_key=True),
    Column("org", Text, nullable=False),
    Column("notification", BigInteger, nullable=False),
)
"""Who was told: the users who are asked, and those of an asked role as they are met."""
Index("approval_users_user", approval_users.c.org, approval_users.c.user_id, approval_users.c.approval)

approval_audit: Final = Table(
    "approval_audit",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("approval", BigInteger, nullable=False),
    Column("action", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("user_id", Text),
    Column("address", Text),
    Column("connection", Text),
    Column("choice", Text),
)
Index("approval_audit_of", approval_audit.c.approval, approval_audit.c.id)
