"""Ids that the application makes: 63 bit integers that sort by the time of their making.

The upper 43 bits are milliseconds since 1970, the lower 20 a counter that begins anywhere in each
millisecond. Within a process every id is higher than the one before, also when the clock is set back. Two
processes may, rarely, make the same one: the primary key refuses it, and the writer tries again with others.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

__all__ = ["Ids", "first_of", "millisecond_of", "now_ms"]

_COUNTER: Final = 20
_START: Final = 1 << 19
"""Counters begin below this, so that as many more fit into the same millisecond."""


def now_ms() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


def first_of(millisecond: int) -> int:
    """The lowest id of this millisecond."""
    return millisecond << _COUNTER


def millisecond_of(id: int) -> int:
    """When the id was made, in milliseconds since 1970 UTC."""
    return id >> _COUNTER


class Ids:
    """Makes ids; used by one thread at a time."""

    def __init__(self, clock: Callable[[], int] = now_ms) -> None:
        self._clock = clock
        self._last = 0

    def next(self) -> int:
        """An id that is higher than all that this object has made before."""
        now = self._clock()
        if now > millisecond_of(self._last):
            self._last = first_of(now) + random.randrange(_START)
        else:
            self._last += 1
        return self._last
