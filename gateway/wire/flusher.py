"""Emptying many outboxes, fairly between organisations and in slices of time.

Every organisation has a *share*. An outbox that gets its first frame stands in its share's
list of dirty ones. The turns of the shares are short, and the next one always goes to the share that
has used the least time, for reading and writing together, since it last had nothing to do
(start-time fair queueing). So an organisation that publishes to ten thousand clients delays
another one's events by one turn (some 0.3 ms), not by ten thousand sends, and one that uses less
than its share does not stand in line at all.

A flush stops after a slice of time even when outboxes are left, because the loop has more to
do than to write; what is left goes on in the next slice. Meanwhile more frames may be
queued behind: they leave together, in one ``send``, so being late makes it cheaper.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

import trio

from gateway.wire.newcomers import Newcomers
from gateway.wire.shares import FairQueue, Share, Tally
from gateway.wire.signal import Signal

__all__ = ["Flusher"]

_QUANTUM: Final = 16
"""Outboxes emptied in one turn of a share."""
_QUANTUM_ALONE: Final = 48
"""The same when no other share has anything; nothing new can come before the slice is over."""


class Flusher:
    """Empties dirty outboxes, share by share."""

    def __init__(
        self, *, slice_seconds: float = 0.0005, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.active = FairQueue(self)
        """Shares with dirty outboxes."""
        self.served = 0.0
        """What the share had used that was served last."""
        self.tally = Tally()
        self.share = Share(self)
        """Where connections stand that belong to no organisation (yet)."""
        self.newcomers = Newcomers()
        """The line of those who are being taken in; they have no share yet."""
        self._slice = slice_seconds
        self._clock = clock
        self._signal = Signal()

    def flush(self) -> None:
        """Flush for one slice. What is left waits for the next call; :meth:`run` makes it if nobody does."""
        self.serve()
        self.wake()

    def serve(self, limit: float = math.inf) -> None:
        """Flush for one slice, as long as it is the turn of a share that has used at most ``limit``.

        For a caller that comes again by itself while anything is left.
        """
        active = self.active
        if not active:
            return
        clock = self._clock
        begun = clock()
        deadline = begun + self._slice
        while active and active.least() <= limit:
            share = active.next()
            while True:
                more = share.flush(_QUANTUM if active else _QUANTUM_ALONE)
                now = clock()
                share.used += (now - begun) / share.weight
                begun = now
                if not more or active or now > deadline or share.used > limit:
                    break
                self.served = share.used
            if more:
                active.join(share)
            if begun > deadline:
                break

    def wake(self) -> None:
        """Ask for a flush soon, from outside the read path."""
        if self.active:
            self._signal.set()

    async def run(self) -> None:
        """Flush whenever woken, a slice at a time."""
        while True:
            await self._signal.wait()
            while self.active:
                self.flush()
                await trio.lowlevel.checkpoint()
