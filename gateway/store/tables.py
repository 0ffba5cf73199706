"""The tables as the newest migration leaves them. Times are milliseconds since 1970 UTC, JSON is text.

Every index is named by the question that it answers; ``docs/store.md`` has the plans.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, Column, Index, MetaData, Table, Text, text

__all__ = ["leases", "metadata", "notifications", "outbox", "partial_index"]

metadata: Final = MetaData()


def partial_index(name: str, *columns: Column[Any], where: str) -> Index:
    """An index over the rows that ``where`` is true for, on both databases."""
    condition = text(where)
    return Index(name, *columns, sqlite_where=condition, postgresql_where=condition)


notifications: Final = Table(
    "notifications",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("org", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("mid", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("data", Text),
    Column("action", Text),
    Column("sender", Text),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger),
    Column("read_ms", BigInteger),
    Column("deleted_ms", BigInteger),
)
"""A deleted row stays until its time is over: until then its ``mid`` is known."""

_n = notifications.c
Index("notifications_mid", _n.org, _n.mid, _n.user_id, unique=True)
# A list merges the two. With one index over all rows a new row would dirty another page, and the pages are
# what a commit costs.
partial_index(
    "notifications_read",
    *(_n.org, _n.user_id, _n.id, _n.type),
    where="read_ms IS NOT NULL AND deleted_ms IS NULL",
)
# The last two are always null; with them SQLite counts without looking at the rows.
partial_index(
    "notifications_unread",
    *(_n.org, _n.user_id, _n.id, _n.type, _n.expires_ms, _n.read_ms, _n.deleted_ms),
    where="read_ms IS NULL AND deleted_ms IS NULL",
)
partial_index("notifications_expiring", _n.expires_ms, where="expires_ms IS NOT NULL")

outbox: Final = Table(
    "outbox",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("event", Text, nullable=False),
    Column("org", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("ref", BigInteger),
    Column("body", Text),
    Column("owner", Text, nullable=False),
    Column("lease_ms", BigInteger, nullable=False),
)
"""What is committed and not yet delivered. ``ref`` is the notification that the event carries; else ``body``
is its data."""
Index("outbox_lease", outbox.c.lease_ms, outbox.c.id)

leases: Final = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("until_ms", BigInteger, nullable=False),
)
"""Jobs that one node does at a time."""
