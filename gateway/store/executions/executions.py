"""Executions: created, changed, listed, summed up. Everything that a caller asks for is checked before."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection

from gateway.store.cursors import cursor_of, position_of
from gateway.store.database import Database
from gateway.store.executions.days import DAY_MS, NO_DURATION, Count, percentile
from gateway.store.executions.outbox import ExecutionOutbox
from gateway.store.executions.queries import (
    NO_DAY,
    ONE,
    STATE,
    TIMELINE,
    newest,
    page,
    page_parameters,
    summary,
    summary_parameters,
)
from gateway.store.executions.upkeep import Upkeep
from gateway.store.executions.values import STATUSES, Change, Entry, Execution, Filters, entry_from
from gateway.store.executions.writes import Applied, Creation, Patch, Writes, execution_of
from gateway.store.ids import Ids
from gateway.store.rows import parse_json
from gateway.store.writer import Writer

__all__ = ["Executions", "Page", "State", "Summary"]

_MAX_DAYS: Final = 400


class Page(msgspec.Struct, frozen=True):
    """A part of a list, newest first."""

    executions: list[dict[str, Any]]
    next: str | None
    """The cursor of the next page; None when this was the last one."""


class State(msgspec.Struct, frozen=True):
    """One execution as it is, and its oldest change that may not be told yet, if there is one."""

    number: int
    id: str
    row: dict[str, Any]
    waiting: Entry | None


class Summary(msgspec.Struct, frozen=True):
    """How executions went; durations in milliseconds, None without any."""

    total: int
    by_status: dict[str, int]
    average: float | None
    p50: float | None
    p95: float | None
    days: list[tuple[int, int, int, int]]
    """Day since 1970, total, completed, failed; without a gap."""


class Executions:
    """All raise ``ProtocolError``: what ``Writer.write`` or ``Database.read`` raises, and what is named."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        ids: Ids,
        clock: Callable[[], int],
        *,
        owner: str,
        lease: float,
        updates_bytes: int,
    ) -> None:
        """``lease`` is in seconds; ``updates_bytes`` bounds the timeline of one execution."""
        self._database = database
        self._writer = writer
        self._clock = clock
        postgres = database.postgresql
        self.outbox = ExecutionOutbox(writer, clock, owner=owner, lease=lease, postgres=postgres)
        self._writes = Writes(self.outbox, ids, clock, updates_bytes=updates_bytes)
        self._newest = newest(postgres=postgres)
        self.upkeep = Upkeep(database, writer, clock, owner=owner)
        self.tell: Callable[[Sequence[Entry], Collection[int]], None] = lambda entries, held: None
        """Takes what has been committed, in the order of the commits, and which executions are held (see
        ``Handed``); must not raise. Without one it is left to the outbox."""

    def _told(self, applied: Applied) -> None:
        if applied.handed is not None:
            self.tell(applied.handed.entries, applied.handed.held)

    async def create(
        self,
        org: str,
        *,
        id: str | None = None,
        agent: str,
        team: str | None = None,
        method: str | None = None,
        status: str = "queued",
        input: str | None = None,
        metadata: str | None = None,
        sender: str | None = None,
    ) -> dict[str, Any]:
        """A new execution, as clients are shown it; ``input`` and ``metadata`` are JSON texts.

        Raises CONFLICT when the organisation has one of this ``id``.
        """
        now = self._clock()
        execution = Execution(
            number=0, org=org, id=id or "", agent=agent, team=team, method=method, status=status,
            created_ms=now, updated_ms=now, heartbeat_ms=now, sender=sender, input=input, metadata=metadata,
        )  # fmt: skip
        size = 400 + len(input or "") + len(metadata or "")
        applied: Applied = await self._writer.write(
            self._writes.apply, Creation(execution), rows=3, size=size, then=self._told
        )
        return applied.row

    async def change(self, org: str, id: str, change: Change) -> dict[str, Any]:
        """The execution after ``change``. Raises NOT_FOUND; CONFLICT for what may not follow, and for a
        version that is not the latest, with the row as it is."""
        size = 400 + sum(len(text or "") for text in (change.result, change.tools))
        applied: Applied = await self._writer.write(
            self._writes.apply, Patch(org, id, change), rows=3, size=size, then=self._told
        )
        return applied.row

    async def get(self, org: str, id: str) -> dict[str, Any] | None:
        """One execution with its ``updates``, the oldest first; None when there is none."""

        def fetch(connection: Connection) -> dict[str, Any] | None:
            found = connection.execute(ONE, {"org": org, "id": id}).first()
            if found is None:
                return None
            execution = execution_of(found)
            asked = {"number": execution.number, "version": execution.version}
            bodies = connection.execute(TIMELINE, asked).scalars()
            row = execution.as_data()
            row["updates"] = [parse_json(body) for body in bodies]
            return row

        return await self._database.read(fetch)

    async def list(self, org: str, filters: Filters, *, limit: int, cursor: str | None) -> Page:
        """A page of up to ``limit``, newest first. Raises BAD_FIELD for the cursor of another list."""
        of = ("executions", org, *msgspec.structs.astuple(filters))
        before = None if cursor is None else position_of(cursor, of)
        statement = page(filters, postgres=self._database.postgresql)
        asked = page_parameters(org, filters, before, limit + 1)

        def fetch(connection: Connection) -> Page:
            found = [execution_of(row) for row in connection.execute(statement, asked)]
            following = cursor_of(found[limit - 1].number, of) if len(found) > limit else None
            return Page([each.as_data() for each in found[:limit]], following)

        return await self._database.read(fetch)

    async def summary(self, org: str, filters: Filters) -> Summary:
        """Of executions created in the time that ``filters`` name, which is at most 400 days."""
        statement, asked = summary(filters), summary_parameters(org, filters, self._clock())

        def fetch(connection: Connection) -> Summary:
            return _summed(connection.execute(statement, asked).all(), filters)

        return await self._database.read(fetch)

    async def state(self, org: str, id: str) -> State | None:
        """One execution, for whoever follows its changes."""

        def fetch(connection: Connection) -> State | None:
            row = connection.execute(STATE, {"org": org, "id": id}).first()
            return None if row is None else _state_of(row)

        return await self._database.read(fetch)

    async def newest(self, org: str, limit: int) -> Sequence[State]:
        """The newest of an organisation, for whoever follows their changes."""
        asked = page_parameters(org, Filters(), None, limit)

        def fetch(connection: Connection) -> Sequence[State]:
            return [_state_of(row) for row in connection.execute(self._newest, asked)]

        return await self._database.read(fetch)


def _state_of(row: Any) -> State:
    execution = execution_of(row)
    waiting = None if row.waiting is None else entry_from(execution.number, 0, row.waiting)
    return State(execution.number, execution.id, execution.as_data(), waiting)


def _summed(rows: Any, filters: Filters) -> Summary:
    assert filters.first is not None and filters.until is not None
    by_status = dict.fromkeys(STATUSES, 0)
    first, last = filters.first // DAY_MS, max(filters.first, filters.until - 1) // DAY_MS
    series = {day: [0, 0, 0] for day in range(first, min(last, first + _MAX_DAYS) + 1)}
    counts: dict[int, Count] = {}
    total_ms = 0
    for day, status, bucket, n, sum_ms, min_ms, max_ms in rows:
        n = int(n)
        if day != NO_DAY:
            by_status[status] += n
            of_day = series.setdefault(day, [0, 0, 0])
            of_day[0] += n
            of_day[1] += n if status == "completed" else 0
            of_day[2] += n if status == "failed" else 0
        if bucket != NO_DURATION:
            total_ms += int(sum_ms)
            known = counts.get(bucket)
            counts[bucket] = (
                Count(n, min_ms, max_ms)
                if known is None
                else Count(known.n + n, min(known.min_ms, min_ms), max(known.max_ms, max_ms))
            )
    ordered = [counts[bucket] for bucket in sorted(counts)]
    measured = sum(count.n for count in ordered)
    return Summary(
        total=sum(by_status.values()),
        by_status={str(status): n for status, n in by_status.items()},
        average=total_ms / measured if measured else None,
        p50=percentile(ordered, 0.5),
        p95=percentile(ordered, 0.95),
        days=[(day, total, done, failed) for day, (total, done, failed) in sorted(series.items())],
    )
