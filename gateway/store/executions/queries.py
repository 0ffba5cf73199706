"""The statements that read executions. Each is one statement, so it sees one state of the database.

A list takes the index of the most selective filter that it has, in the order of ``_INDEXES``. SQLite is told
so, because without statistics it guesses. PostgreSQL knows better, but for one thing: it assumes that the
rows of an organisation lie everywhere, so it may scan the primary key backwards, through all rows for one
that has only old ones. It is asked for an order that the primary key does not give.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from sqlalchemy import Select, TextClause, bindparam, select, text

from gateway.store.executions.days import ANY, DAY_MS, NO_DURATION
from gateway.store.executions.tables import ACTIVE, executions, untold, updates
from gateway.store.executions.values import Filters
from gateway.store.ids import first_of

__all__ = [
    "NO_DAY", "ONE", "STATE", "TIMELINE", "newest", "page", "page_parameters", "summary",
    "summary_parameters",
]  # fmt: skip

_c = executions.c
_FILTERS: Final = ("agent", "team", "method", "status")
_INDEXES: Final = ("agent", "team", "method", "status")
NO_DAY: Final = -1
"""The day of a row that counts durations only."""
_LARGEST: Final = 2**63 - 1
_ONE_DAY: Final = first_of(DAY_MS)
"""A number divided by this is a day since 1970."""

ONE: Final = select(executions).where(_c.org == bindparam("org"), _c.id == bindparam("id"))
TIMELINE: Final = (
    select(updates.c.body)
    .where(updates.c.number == bindparam("number"), updates.c.version <= bindparam("version"))
    .order_by(updates.c.version)
)
_oldest_untold: Final = (
    select(untold.c.body)
    .where(untold.c.number == _c.number)
    .order_by(untold.c.version)
    .limit(1)
    .scalar_subquery()
    .label("waiting")
)


STATE: Final = select(executions, _oldest_untold).where(_c.org == bindparam("org"), _c.id == bindparam("id"))
"""One execution, with its oldest change that is not told."""


def newest(*, postgres: bool) -> Select[Any]:
    """As :data:`STATE`, of the newest ``n`` of an organisation; also takes :func:`page_parameters`."""
    return _scan(select(executions, _oldest_untold), "time", postgres=postgres)


def _scan(found: Select[Any], index: str, *, postgres: bool) -> Select[Any]:
    """The newest ``n`` of an organisation, from this index."""
    order = [_c.number.desc()]
    if postgres:
        order.append(_c.status.desc())  # says nothing, since numbers differ; the primary key does not have it
    between = _c.number.between(bindparam("low"), bindparam("last"))
    found = found.where(_c.org == bindparam("org"), between)
    return (
        found.with_hint(executions, f"INDEXED BY executions_{index}", "sqlite")
        .order_by(*order)
        .limit(bindparam("n"))
    )


def _given(filters: Filters) -> tuple[str, ...]:
    return tuple(name for name in _FILTERS if getattr(filters, name) is not None)


def page(filters: Filters, *, postgres: bool) -> Select[Any]:
    """The newest ``n``, with :func:`page_parameters`."""
    return _page(_given(filters), postgres)


@cache
def _page(given: tuple[str, ...], postgres: bool) -> Select[Any]:
    found = select(executions).where(*(_c[name] == bindparam(name) for name in given))
    return _scan(found, next((name for name in _INDEXES if name in given), "time"), postgres=postgres)


def page_parameters(org: str, filters: Filters, before: int | None, n: int) -> dict[str, Any]:
    """``before`` is the number that the page before ended with."""
    low, high = _range(filters)
    parameters = {name: getattr(filters, name) for name in _given(filters)}
    last = (high if before is None else min(before, high)) - 1
    return parameters | {"org": org, "low": low, "last": last, "n": n}


def _range(filters: Filters) -> tuple[int, int]:
    low = 0 if filters.first is None else min(first_of(max(0, filters.first)), _LARGEST)
    high = _LARGEST if filters.until is None else min(first_of(max(0, filters.until)), _LARGEST)
    return low, high


def summary(filters: Filters) -> TextClause:
    """Rows of day, status, bucket, n, sum_ms, min_ms, max_ms, with :func:`summary_parameters`."""
    return _summary(_given(filters))


@cache
def _summary(given: tuple[str, ...]) -> TextClause:
    wanted = "".join(f" AND {name} = :{name}" for name in given)
    status = " AND status = :status" if "status" in given else ""
    key = (
        "org = :org AND agent = :any_agent AND team = :any_team AND method = :any_method"
        " AND day >= :first_day AND day < :end_day"
    )
    return text(
        # Whole days of what has ended, once by day and once by duration: few rows, whatever there is.
        f"SELECT day, status, {NO_DURATION} AS bucket, sum(n), 0, 0, 0"
        f" FROM execution_days WHERE {key}{status} GROUP BY day, status"
        f" UNION ALL SELECT {NO_DAY}, '', bucket, sum(n), sum(sum_ms), min(min_ms), max(max_ms)"
        f" FROM execution_days WHERE {key}{status} AND bucket <> {NO_DURATION} GROUP BY bucket"
        # The parts of days at both ends, row by row.
        + "".join(
            f" UNION ALL SELECT {day}, status, bucket, count(*),"
            " coalesce(sum(duration_ms), 0), coalesce(min(duration_ms), 0), coalesce(max(duration_ms), 0)"
            " FROM executions"
            f" WHERE org = :org AND number >= :{low} AND number < :{high} AND NOT ({ACTIVE}){wanted}"
            " GROUP BY status, bucket"
            for day, low, high in ((":head_day", "low", "head"), (":tail_day", "tail", "high"))
        )
        # What has not ended: few.
        + f" UNION ALL SELECT number / {_ONE_DAY}, status, {NO_DURATION}, count(*), 0, 0, 0 FROM executions"
        f" WHERE org = :org AND {ACTIVE} AND number >= :low AND number < :high{wanted}"
        f" GROUP BY number / {_ONE_DAY}, status"
    )


def summary_parameters(org: str, filters: Filters, now: int) -> dict[str, Any]:
    """``filters`` have both ends of the time; what lies after ``now`` is empty, and so a whole day."""
    assert filters.first is not None and filters.until is not None
    low, high = _range(filters)
    until = filters.until if filters.until <= now else -(-filters.until // DAY_MS) * DAY_MS
    first_day, end_day = -(-filters.first // DAY_MS), until // DAY_MS
    head = tail = 0
    if first_day > end_day:  # both ends in one day
        head, tail = high, high
    else:
        head, tail = first_of(first_day * DAY_MS), first_of(end_day * DAY_MS)
        if until != filters.until:
            tail = high = max(high, tail)
    parameters = {name: getattr(filters, name) for name in _given(filters)}
    return parameters | {
        "org": org,
        "any_agent": filters.agent or ANY,
        "any_team": filters.team or ANY,
        "any_method": filters.method or ANY,
        "first_day": first_day,
        "end_day": end_day,
        "low": low,
        "head": min(head, high),
        "tail": tail,
        "high": high,
        "head_day": filters.first // DAY_MS,
        "tail_day": until // DAY_MS,
    }
