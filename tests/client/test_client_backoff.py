"""The delays between tries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client import Backoff
from gateway.client.backoff import MAX_RETRY_AFTER


def test_the_bound_doubles_up_to_the_maximum() -> None:
    backoff = Backoff(jitter=lambda: 1.0)
    assert [backoff.delay(n) for n in range(1, 10)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_the_jitter_is_a_share_of_the_bound() -> None:
    assert Backoff(base=8, jitter=lambda: 0.25).delay(1) == 2
    assert Backoff(base=8, jitter=lambda: 0.0).delay(5) == 0


def test_what_the_gateway_asks_for_comes_before_the_jitter() -> None:
    backoff = Backoff(jitter=lambda: 0.5)
    assert backoff.delay(1, 7.0) == 7.25
    assert backoff.delay(1, 1e9) == MAX_RETRY_AFTER + 0.25
    assert backoff.delay(1, -1.0) == 0.25


@given(st.integers(1, 10**9), st.floats(1, 10), st.floats(0.001, 100), st.floats(0.001, 100))
def test_no_delay_is_above_the_maximum(failures: int, factor: float, base: float, maximum: float) -> None:
    assert 0 <= Backoff(base=base, factor=factor, maximum=maximum).delay(failures) <= maximum


def test_tries_end_or_not() -> None:
    assert [Backoff(tries=2).exhausted(n) for n in (1, 2, 3)] == [False, False, True]
    assert Backoff(tries=0).exhausted(1)
    assert not Backoff(tries=None).exhausted(10**6)


@pytest.mark.parametrize(
    "bad", [{"base": 0}, {"maximum": -1}, {"factor": 0.5}, {"factor": 11}, {"tries": -1}, {"stable": -1}]
)
def test_senseless_values_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Backoff(**bad)  # type: ignore[arg-type]
