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

import heapq
import itertools
import math
import time
from array import array
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from gateway.wire.signal import Signal

if TYPE_CHECKING:
    from gateway.wire.broadcast import Broadcast
    from gateway.wire.outbox import Outbox
    from gateway.wire.pump import Reader

__all__ = ["FairQueue", "Flusher", "Share", "Tally"]

_QUANTUM: Final = 16
"""Outboxes emptied in one turn of a share."""
_QUANTUM_ALONE: Final = 48
"""The same when no other share has anything; nothing new can come before the slice is over."""


class Share:
    """One organisation's place in the round: what it has to write, and (for the pump) to read."""

    __slots__ = (
        "_flusher",
        "_standing",
        "broadcasts",
        "dirty",
        "ready",
        "sent_bytes",
        "slow",
        "tally",
        "used",
        "weight",
    )

    def __init__(self, flusher: Flusher, weight: int = 1) -> None:
        """``weight`` is how much time it gets where another share gets a second; at least 1."""
        self._flusher = flusher
        self._standing = False
        self.tally = flusher.tally
        self.weight = weight
        self.used = 0.0
        """Seconds it was served, by its weight; only differences between shares mean anything."""
        self.dirty: deque[Outbox] = deque()
        """Outboxes that hold something and do not wait for their socket."""
        self.broadcasts: deque[Broadcast] = deque()
        """What waits to be sent to many outboxes (``gateway/wire/broadcast.py``)."""
        self.slow: set[Outbox] = set()
        """Outboxes into which a broadcast must not write by itself: blocked, sealed, or no plain socket."""
        self.sent_bytes = 0
        self.ready: deque[Reader] = deque()
        """Connections that have something to read (``gateway/wire/pump.py``)."""

    def mark(self, outbox: Outbox) -> None:
        """``outbox`` was empty and is not any more."""
        self.dirty.append(outbox)
        if not self._standing:
            self.stand()

    def stand(self) -> None:
        """There is something to flush: stand in line with the other shares."""
        if not self._standing:
            self._standing = True
            self._flusher.active.join(self)

    def catch_up(self, outbox: Outbox) -> None:
        """Something is about to be queued for ``outbox``: what waits to be broadcast goes first."""
        for broadcast in self.broadcasts:
            if outbox in broadcast.outboxes:
                broadcast.give(outbox)

    def flush(self, quantum: int) -> bool:
        """Take one turn of ``quantum`` sends; returns whether something is left."""
        dirty = self.dirty
        broadcasts = self.broadcasts
        sends = min(quantum, len(dirty))
        for _ in range(sends):
            dirty.popleft().flush()
        # A broadcast relies on it that no outbox is dirty.
        while broadcasts and sends < quantum and not dirty:
            broadcast = broadcasts[0]
            sends += broadcast.flush(quantum - sends)
            if broadcast.done:
                broadcast.standing = False
                broadcasts.popleft()
            else:
                broadcasts.rotate(-1)
        self._standing = bool(dirty or broadcasts)
        return self._standing


class Tally:
    """How many messages each outbox has sent: numbers side by side, one slot for each outbox.

    An attribute would be an integer object of its own, which each delivery fetches from memory to replace it.
    """

    __slots__ = ("_free", "messages")

    def __init__(self) -> None:
        self.messages = array("q")
        self._free: list[int] = []

    def open(self) -> int:
        """Take a slot; it begins at 0."""
        if self._free:
            return self._free.pop()
        self.messages.append(0)
        return len(self.messages) - 1

    def close(self, slot: int) -> int:
        """Give a slot back; returns what it counted."""
        count = self.messages[slot]
        self.messages[slot] = 0
        self._free.append(slot)
        return count


class FairQueue(list[tuple[float, int, Share]]):
    """Shares that wait for a turn, each once, as a heap: the one that has used the least goes first.

    A share that had nothing to do does not save up for later: it begins where the others are.
    """

    __slots__ = ("_flusher", "_tickets")

    def __init__(self, flusher: Flusher) -> None:
        self._flusher = flusher
        self._tickets = itertools.count()

    def join(self, share: Share) -> None:
        """Stand in line; a share that stands in it must not."""
        used = share.used
        if used < self._flusher.served:
            used = share.used = self._flusher.served
        heapq.heappush(self, (used, next(self._tickets), share))

    def next(self) -> Share:
        """Take out the share whose turn it is; the line must not be empty."""
        used = self.least()
        self._flusher.served = max(self._flusher.served, used)
        return heapq.heappop(self)[2]

    def least(self) -> float:
        """What the share whose turn it is has used; the line must not be empty."""
        while True:
            used, _, share = self[0]
            if used == share.used:
                return used
            # It has been served from another line meanwhile.
            heapq.heapreplace(self, (share.used, next(self._tickets), share))


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
