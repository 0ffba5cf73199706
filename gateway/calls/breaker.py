"""A circuit breaker: a backend that fails again and again is left alone for a while.

====================  =====================  ==================================
state                 what happens           goes to
====================  =====================  ==================================
closed                calls go through       open, after ``failures`` in a row
open                  calls are refused      half-open, after ``pause`` seconds
half-open             one call goes through  closed when it succeeds, else open
====================  =====================  ==================================
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import trio

__all__ = ["Breaker", "State"]


class State(Enum):
    """See the table above."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """The breaker of one backend."""

    def __init__(
        self, *, failures: int, pause: float, clock: Callable[[], float] = trio.current_time
    ) -> None:
        """``failures`` in a row open it for ``pause`` seconds."""
        self._limit = failures
        self._pause = pause
        self._clock = clock
        self._failures = 0
        self._open_until = 0.0
        self.state = State.CLOSED

    def admit(self) -> float:
        """0.0 when a call may go through now, else the seconds until it is worth trying again.

        Every admitted call must end in :meth:`succeeded`, :meth:`failed` or :meth:`abandoned`.
        """
        if self.state is State.CLOSED:
            return 0.0
        left = self._open_until - self._clock()
        if self.state is State.OPEN and left <= 0:
            self.state = State.HALF_OPEN
            return 0.0
        return max(left, 1.0)

    def succeeded(self) -> None:
        """An admitted call was answered."""
        self._failures = 0
        self.state = State.CLOSED

    def failed(self) -> None:
        """An admitted call was not answered, or the backend said that it could not."""
        self._failures += 1
        if self.state is State.HALF_OPEN or self._failures >= self._limit:
            self.state = State.OPEN
            self._open_until = self._clock() + self._pause

    def abandoned(self) -> None:
        """An admitted call says nothing about the backend: its caller has gone."""
        if self.state is State.HALF_OPEN:
            self.state = State.OPEN
            self._open_until = self._clock()
