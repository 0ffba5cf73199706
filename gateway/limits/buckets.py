"""Token buckets, and bounded tables of them. Pure: the caller brings the time."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

__all__ = ["Bucket", "BucketTable"]

_MAX_BUCKETS: Final = 50_000
"""Keys that a table remembers; the longest unused goes first, and begins with a full bucket again."""

_ROUNDING: Final = 1e-6
"""Seconds that sums of floats may be off: not the last unit of a bucket may be refused for them."""


class Bucket:
    """``rate`` units a second, and up to ``burst`` seconds' worth at once.

    Kept as one number, the time at which the bucket is full again (the generic cell rate
    algorithm of ATM, ITU-T I.371), so that it needs no refilling.
    """

    __slots__ = ("_burst", "_full_at", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._full_at = 0.0

    def wait(self, cost: float, now: float) -> float:
        """Seconds until ``cost`` units may be taken; 0.0 when they may be taken now.

        A cost above the whole bucket is allowed when the bucket is full.
        """
        if self._full_at <= now:
            return 0.0
        wait = self._full_at + min(cost / self._rate, self._burst) - now - self._burst
        return wait if wait > _ROUNDING else 0.0

    def take(self, cost: float, now: float) -> None:
        """Take ``cost`` units, also more than there are."""
        self._full_at = max(self._full_at, now) + cost / self._rate


class BucketTable:
    """One bucket for each key; none at all when the rate is 0."""

    def __init__(self, rate: float, burst: float, *, max_buckets: int = _MAX_BUCKETS) -> None:
        self._rate = rate
        self._burst = burst
        self._max = max_buckets
        self._buckets: OrderedDict[object, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def get(self, key: object) -> Bucket | None:
        """The bucket of ``key``, or None when there is no limit."""
        if not self._rate:
            return None
        bucket = self._buckets.get(key)
        if bucket is None:
            while len(self._buckets) >= self._max:
                self._buckets.popitem(last=False)
            bucket = self._buckets[key] = Bucket(self._rate, self._burst)
        else:
            self._buckets.move_to_end(key)
        return bucket
