"""Emptying many outboxes, fairly between organisations and in slices of time.

Every organisation has a *lane*. An outbox that gets its first frame stands in its lane's
list of dirty ones; the flusher goes round the lanes that have any, and each turn empties a
fixed number of outboxes of one lane (times the lane's weight), whatever waits in the others.
So an organisation that publishes to ten thousand clients delays another one's events by one
turn of 32 sends (about 0.3 ms), not by ten thousand.

A flush stops after a slice of time even when outboxes are left, because the loop has more to
do than to write; what is left goes on in the next slice. Meanwhile more frames may be
queued behind: they leave together, in one ``send``, so being late makes it cheaper.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from gateway.wire.signal import Signal

if TYPE_CHECKING:
    from gateway.wire.outbox import Outbox
    from gateway.wire.pump import Reader

__all__ = ["Flusher", "Lane"]

_QUANTUM: Final = 32
"""Outboxes emptied in one turn of a lane with weight 1."""


class Lane:
    """One organisation's place in the round: what it has to write, and (for the pump) to read."""

    __slots__ = ("_flusher", "dirty", "ready", "weight")

    def __init__(self, flusher: Flusher, weight: int = 1) -> None:
        """``weight`` is how many turns it gets where another lane gets one; at least 1."""
        self._flusher = flusher
        self.weight = weight
        self.dirty: deque[Outbox] = deque()
        self.ready: deque[Reader] = deque()
        """Connections that have something to read (``gateway/wire/pump.py``)."""

    def mark(self, outbox: Outbox) -> None:
        """``outbox`` was empty and is not any more."""
        if not self.dirty:
            self._flusher.active.append(self)
        self.dirty.append(outbox)


class Flusher:
    """Empties dirty outboxes, lane by lane."""

    def __init__(self, *, slice_seconds: float = 0.0005) -> None:
        self.active: deque[Lane] = deque()
        """Lanes with dirty outboxes, each once, in the order of their turns."""
        self.lane = Lane(self)
        """Where connections stand that belong to no organisation (yet)."""
        self._slice = slice_seconds
        self._signal = Signal()

    def flush(self) -> None:
        """Flush for one slice. What is left waits for the next call; :meth:`run` makes it if nobody does."""
        active = self.active
        if not active:
            return
        deadline = time.perf_counter() + self._slice
        while active:
            lane = active.popleft()
            dirty = lane.dirty
            quantum = _QUANTUM * lane.weight
            for _ in range(min(quantum, len(dirty))):
                dirty.popleft().flush()
            if dirty:
                active.append(lane)
            if time.perf_counter() > deadline:
                break
        if active:
            self._signal.set()

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
