"""The roll-up: what has ended, counted by UTC day, status and duration.

Durations fall into buckets, each a fifth wider than the one before. A bucket knows how many there are, their
sum, and the smallest and the largest, so that the average is exact, and a percentile is off by less than its
bucket is wide (exact where at most two fell into it).

Each execution is counted once for every choice of filters that it passes: for its agent or any, its team or
any, its method or any. So a summary reads the rows of one key, however many combinations there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection

from gateway.store.executions.tables import days
from gateway.store.executions.values import Execution
from gateway.store.rows import insert_new

__all__ = ["ANY", "DAY_MS", "NO_DURATION", "Count", "bucket_of", "count_ended", "percentile"]

ANY: Final = ""
DAY_MS: Final = 86_400_000
NO_DURATION: Final = -1
"""The bucket of what has ended without having been started."""
_WIDTH: Final = math.log(1.2)
_KEY: Final = ("org", "agent", "team", "method", "day", "status", "bucket")
_ADD: Final = """UPDATE SET
    n = execution_days.n + excluded.n,
    sum_ms = execution_days.sum_ms + excluded.sum_ms,
    min_ms = CASE WHEN excluded.min_ms < execution_days.min_ms
        THEN excluded.min_ms ELSE execution_days.min_ms END,
    max_ms = CASE WHEN excluded.max_ms > execution_days.max_ms
        THEN excluded.max_ms ELSE execution_days.max_ms END"""


def bucket_of(duration_ms: int | None) -> int:
    """Where a duration is counted."""
    if duration_ms is None:
        return NO_DURATION
    return int(math.log(max(1, duration_ms)) / _WIDTH)


def count_ended(connection: Connection, ended: Iterable[Execution]) -> None:
    """In a writer's transaction: count these; in the order of the key, as other nodes count, too."""
    counted: dict[tuple[Any, ...], list[int]] = {}
    for each in ended:
        day, duration = each.created_ms // DAY_MS, each.duration_ms or 0
        choices = ({ANY, each.agent}, {ANY, each.team or ANY}, {ANY, each.method or ANY})
        for agent, team, method in product(*choices):
            key = (each.org, agent, team, method, day, each.status, each.bucket)
            known = counted.get(key)
            if known is None:
                counted[key] = [1, duration, duration, duration]
            else:
                known[:] = known[0] + 1, known[1] + duration, min(known[2], duration), max(known[3], duration)
    rows = [
        dict(zip(_KEY, key, strict=True))
        | dict(zip(("n", "sum_ms", "min_ms", "max_ms"), values, strict=True))
        for key, values in sorted(counted.items())
    ]
    insert_new(connection, days, rows, _KEY, otherwise=_ADD)


class Count(NamedTuple):
    """How many have such a duration, in milliseconds."""

    n: int
    min_ms: int
    max_ms: int


def percentile(counts: Sequence[Count], part: float) -> float | None:
    """The duration (ms) that ``part`` of all do not exceed; ``counts`` are in ascending order of buckets."""
    total = sum(count.n for count in counts)
    rank = max(1, math.ceil(part * total))
    for count in counts:
        if rank <= count.n:
            spread = count.max_ms - count.min_ms
            return count.min_ms + (spread * (rank - 1) / (count.n - 1) if count.n > 1 else 0.0)
        rank -= count.n
    return None
