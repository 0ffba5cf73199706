"""The tables of executions as the newest migration leaves them.

``number`` sorts by the time of creation and holds it (``ids``), so one column gives the order of a list, the
range of days and the cursor. Every index is named by the question that it answers; what follows ``number`` in
an index lets a list pass over what it does not want without looking at the rows. ``docs/executions.md`` has
the plans.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Float, Index, Integer, Table, Text

from gateway.store.tables import metadata, partial_index

__all__ = ["ACTIVE", "days", "executions", "untold", "updates"]

ACTIVE: Final = "finished_ms IS NULL"
"""Queued or running. As text, so that a statement has the very condition of the partial index."""

executions: Final = Table(
    "executions",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("org", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("team", Text),
    Column("method", Text),
    Column("status", Text, nullable=False),
    Column("progress", Float),
    Column("version", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("started_ms", BigInteger),
    Column("updated_ms", BigInteger, nullable=False),
    Column("heartbeat_ms", BigInteger, nullable=False),
    Column("finished_ms", BigInteger),
    Column("duration_ms", BigInteger),
    Column("bucket", Integer, nullable=False),
    Column("updates_total", BigInteger, nullable=False),
    Column("updates_cut", BigInteger, nullable=False),
    Column("sender", Text),
    Column("step", Text),
    Column("tools", Text),
    Column("error", Text),
    Column("metadata", Text),
    Column("input", Text),
    Column("result", Text),
)
"""``updates_total`` are the bytes of all updates that there were, ``updates_cut`` of those removed since."""

_e = executions.c
Index("executions_id", _e.org, _e.id, unique=True)
Index(
    "executions_time",
    *(_e.org, _e.number, _e.status, _e.agent, _e.team, _e.method, _e.bucket, _e.duration_ms, _e.finished_ms),
)
Index("executions_agent", _e.org, _e.agent, _e.number, _e.status, _e.method, _e.team)
Index("executions_team", _e.org, _e.team, _e.number, _e.status, _e.method)
Index("executions_method", _e.org, _e.method, _e.number, _e.status)
Index("executions_status", _e.org, _e.status, _e.number)
# The last one is always null; with it SQLite counts without looking at the rows.
partial_index(
    "executions_active",
    *(_e.org, _e.number, _e.status, _e.agent, _e.team, _e.method, _e.finished_ms),
    where=ACTIVE,
)

updates: Final = Table(
    "execution_updates",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("total", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    sqlite_with_rowid=False,
)
"""The timeline. ``total`` are the bytes of all updates up to this one, so that the oldest can be cut off."""

days: Final = Table(
    "execution_days",
    metadata,
    Column("org", Text, primary_key=True),
    Column("agent", Text, primary_key=True),
    Column("team", Text, primary_key=True),
    Column("method", Text, primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("status", Text, primary_key=True),
    Column("bucket", Integer, primary_key=True, autoincrement=False),
    Column("n", BigInteger, nullable=False),
    Column("sum_ms", BigInteger, nullable=False),
    Column("min_ms", BigInteger, nullable=False),
    Column("max_ms", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""What has ended, counted by UTC day of creation, for every choice of filters: empty text stands for any."""
Index("execution_days_day", days.c.day)

untold: Final = Table(
    "execution_outbox",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("lease_ms", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Changes that are committed and not yet told."""
Index("execution_outbox_lease", untold.c.lease_ms, untold.c.number)
