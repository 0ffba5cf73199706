"""Token buckets, against the definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.buckets import Bucket, BucketTable

RATE, BURST = 10.0, 2.0
"""Units a second, and seconds: twenty at once."""


class Model:
    """A bucket that is filled by the second, written down naively."""

    def __init__(self) -> None:
        self.level = RATE * BURST
        self.at = 0.0

    def fill(self, now: float) -> None:
        self.level = min(RATE * BURST, self.level + RATE * (now - self.at))
        self.at = now


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 50)), max_size=60))
def test_against_the_definition(steps: list[tuple[int, int]]) -> None:
    """Time passes by tenths of a second; whole units, so that nothing hangs on rounding."""
    bucket, model, tenths = Bucket(RATE, BURST), Model(), 0
    for pause, cost in steps:
        tenths += pause
        now = tenths / 10
        model.fill(now)
        wait = bucket.wait(cost, now)
        # What costs more than a bucket holds is allowed when it is full.
        lacking = min(cost, RATE * BURST) - model.level
        assert abs(wait - max(0.0, lacking / RATE)) < 1e-6
        if wait < 1e-6:
            bucket.take(cost, now)
            model.level -= cost


def test_waiting_as_long_as_told_is_enough_and_no_less() -> None:
    bucket = Bucket(RATE, BURST)
    bucket.take(20, 100.0)
    wait = bucket.wait(5, 100.0)
    assert wait == 0.5
    assert bucket.wait(5, 100.0 + wait - 0.01) > 0
    assert bucket.wait(5, 100.0 + wait + 1e-9) == 0.0


def test_a_table_has_one_bucket_for_each_key_and_forgets_the_longest_unused() -> None:
    table = BucketTable(RATE, BURST, max_buckets=3)
    first = table.get("a")
    assert first is not None
    first.take(20, 0.0)
    for key in "bc":
        table.get(key)
    assert table.get("a") is first
    table.get("d")  # now b is the longest unused
    assert len(table) == 3 and table.get("a") is first
    for key in range(1000):
        table.get(key)
    assert len(table) == 3
    fresh = table.get("a")
    assert fresh is not None and fresh.wait(20, 0.0) == 0.0


def test_no_rate_is_no_bucket() -> None:
    table = BucketTable(0.0, BURST)
    assert table.get("a") is None and len(table) == 0
