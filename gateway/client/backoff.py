"""How long to wait before the next try. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["MAX_RETRY_AFTER", "Backoff"]

MAX_RETRY_AFTER: Final = 300.0
"""The longest wait, in seconds, that a gateway may ask for."""

_MAX_EXPONENT: Final = 64
# Every sensible delay has reached its maximum by then, and the power still is a float.


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter: the n-th delay is from 0 to ``base * factor ** (n - 1)`` seconds.

    Full jitter spreads the clients of a gateway that has just gone away; what they have in common is
    only the wait that the gateway asked for.
    """

    base: float = 0.5
    """Upper bound of the first delay, in seconds."""
    factor: float = 2.0
    """From 1 to 10."""
    maximum: float = 30.0
    """Upper bound of every delay, in seconds."""
    tries: int | None = 10
    """So many further tries in a row may fail; None is without end."""
    stable: float = 5.0
    """The count begins anew only after a connection that lasted this long, in seconds: one that is
    accepted and dropped at once must not be tried for ever at the pace of ``base``."""
    jitter: Callable[[], float] = random.random
    """Gives the share of the upper bound, from 0 to 1."""

    def __post_init__(self) -> None:
        if not (self.base > 0 and self.maximum > 0 and self.stable >= 0):
            raise ValueError("base and maximum must be positive, stable must not be negative")
        if not 1 <= self.factor <= 10:
            raise ValueError("factor must be from 1 to 10")
        if self.tries is not None and self.tries < 0:
            raise ValueError("tries must not be negative")

    def exhausted(self, failures: int) -> bool:
        """Tell whether there is no further try after this many failures in a row."""
        return self.tries is not None and failures > self.tries

    def delay(self, failures: int, retry_after: float | None = None) -> float:
        """Seconds until the next try after this many (from 1) failures in a row.

        ``retry_after`` seconds, at most ``MAX_RETRY_AFTER``, are waited in any case; the jitter comes on top.
        """
        exponent = min(failures - 1, _MAX_EXPONENT)
        bound = min(self.maximum, self.base * self.factor**exponent)
        asked = min(max(retry_after or 0.0, 0.0), MAX_RETRY_AFTER)
        return asked + self.jitter() * bound
