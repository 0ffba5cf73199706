"""What is known of the clocks of those who issue tokens.

A revocation hits the tokens that were issued before it, and ``iat`` says when that was: in whole seconds,
by a clock that is not ours. A token that is presented at once shows how far that clock is behind: at most
by the age that the token seems to have. The youngest of the last tokens is as near as one comes.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

__all__ = ["IssuerClocks"]

_MAX_ISSUERS: Final = 10_000
_WINDOW: Final = 600.0
"""Seconds for which a token's age counts, at least; twice that at most."""
_BELIEVED: Final = 10.0
"""Seconds; tokens that all seem older than this were not new when they came, and say nothing of a clock."""
_LONGEST: Final = 2.0


class IssuerClocks:
    """The age of the youngest token of each organisation; bounded in organisations."""

    def __init__(self, now: Callable[[], float]) -> None:
        """``now`` gives seconds since 1970 UTC."""
        self._now = now
        self._seen: OrderedDict[str, tuple[float, float, float]] = OrderedDict()
        """Organisation → when its window began, least age in it and in the one before."""

    def saw(self, org: str, issued_at: float) -> None:
        """A good token of ``org`` says that it was issued then."""
        if issued_at != int(issued_at):
            return  # one of our own
        now = self._now()
        age = now - issued_at
        began, least, before = self._seen.get(org, (now, math.inf, math.inf))
        if now - began > _WINDOW:
            began, least, before = now, math.inf, least if now - began <= 2 * _WINDOW else math.inf
        elif age >= least:
            return
        self._seen[org] = began, min(age, least), before
        self._seen.move_to_end(org)
        if len(self._seen) > _MAX_ISSUERS:
            self._seen.popitem(last=False)

    def cutoff(self, org: str) -> float:
        """The latest that the issuer's clock can be now: every token issued by now says that or less."""
        age = self._age(org)
        # An age below one second is that of a right clock: iat has lost its fraction.
        return self._now() - (age - 1.0 if not 0.0 <= age < 1.0 else 0.0)

    def wait(self, org: str, cutoff: float) -> float:
        """Seconds until the issuer's clock surely shows a whole second later than ``cutoff``; at most 2."""
        earliest = self._now() - self._age(org)
        return min(max(0.0, math.floor(cutoff) + 1.0 - earliest), _LONGEST)

    def _age(self, org: str) -> float:
        _, least, before = self._seen.get(org, (0.0, math.inf, math.inf))
        age = min(least, before)
        return age if age < _BELIEVED else 0.0
