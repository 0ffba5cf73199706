"""How long to wait before the next try. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["MAX_RETRY_AFTER", "Backoff", "Retries"]

MAX_RETRY_AFTER: Final = 300.0
"""The longest wait, in seconds, that a gateway may ask for."""

_QUICK: Final = 1.0
_QUICK_FOR: Final = 2.0
# Seconds: no wait is longer while the waits together are shorter, so that a gateway that restarts within 2 s
# is found again within 3 s.

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
    """After so many further tries in a row have failed the client says so, and goes on at the pace of
    ``maximum``. None: that is never said."""
    give_up: bool = False
    """It ends then, with ``ReconnectFailed``."""
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
        """Tell whether more tries than ``tries`` have failed after this many failures in a row."""
        return self.tries is not None and failures > self.tries

    def delay(self, failures: int, retry_after: float | None = None) -> float:
        """Seconds until the next try after this many (from 1) failures in a row.

        ``retry_after`` seconds, at most ``MAX_RETRY_AFTER``, are waited in any case; the jitter comes on top.
        """
        return asked(retry_after) + self.jitter() * self.bound(failures)

    def bound(self, failures: int) -> float:
        """What the jitter is a share of, in seconds."""
        exponent = min(failures - 1, _MAX_EXPONENT)
        return min(self.maximum, self.base * self.factor**exponent)


class Retries:
    """The tries since the last connection that lasted, and how long each waits."""

    def __init__(self, policy: Backoff) -> None:
        self._policy = policy
        self.failures = 0
        self._step = 1
        self._waited = 0.0

    def afresh(self) -> None:
        """A connection has lasted."""
        self.failures = 0
        self._step = 1
        self._waited = 0.0

    def failed(self) -> bool:
        """Count a failure; tells whether it is the one after which the client says that it failed."""
        before = self._policy.exhausted(self.failures)
        self.failures += 1
        return self._policy.exhausted(self.failures) and not before

    def wait(self, retry_after: float | None = None) -> float:
        """Seconds until the next try; the jitter comes on top of what the gateway asked for.

        That is what ``Backoff.delay`` gives, but at most a second (or ``base``) while the waits together are
        shorter than two, and up to ``maximum`` after ``tries``.
        """
        policy = self._policy
        quick = max(_QUICK, policy.base)
        slowest = policy.exhausted(self.failures)
        bound = policy.maximum if slowest else policy.bound(self._step)
        if bound > quick and self._waited < _QUICK_FOR:
            bound = quick
        else:
            self._step += 1
        wait = policy.jitter() * bound
        self._waited += wait
        return asked(retry_after) + wait


def asked(retry_after: float | None) -> float:
    """The seconds that a gateway asked for, as far as they are heeded."""
    return min(max(retry_after or 0.0, 0.0), MAX_RETRY_AFTER)
