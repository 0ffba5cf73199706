"""What an organisation has to write and to read, and whose turn it is.

Every organisation has a *share*. An outbox that gets its first frame stands in its share's list of dirty
ones, a connection that can be read in its list of ready ones. Shares that have something to do stand in a
queue from which the one that has used the least time comes first (start-time fair queueing); the flusher and
the pump each keep such a queue, and what both spend counts for the same share.

The lower end of the wire: nothing here knows outboxes, broadcasts or connections, only the few methods of
them that a turn needs.
"""

from __future__ import annotations

import heapq
import itertools
from array import array
from collections import deque
from collections.abc import Container
from typing import Any, Final, Protocol

__all__ = ["FairQueue", "Member", "Readable", "Share", "Tally", "Turns", "Waiting"]


_TURN_BYTES: Final = 128 * 1024
"""Bytes after which a turn ends before it has used up its sends: to encrypt and copy them takes 0.2 ms."""
_LOOKED_AT: Final = 4
"""Outboxes that send before their bytes are looked at; one sends ``outbox._PIECE`` bytes at most."""


class Member(Protocol):
    """One outbox, as its share sees it."""

    def flush(self) -> None:
        """Send what the kernel takes. Must not raise."""


class Waiting(Protocol):
    """What waits to be sent to many members (``gateway/wire/broadcast.py``)."""

    standing: bool
    """It is in its share's line."""
    stamped: bool
    """Its frames hold stamps (``gateway/wire/stamped.py``)."""

    @property
    def outboxes(self) -> Container[object]:
        """Whom it is for."""

    @property
    def done(self) -> bool:
        """Nothing waits."""

    def give(self, outbox: Any) -> None:
        """Queue for one member alone what waits for it."""

    def flush(self, count: int) -> int:
        """Send to the next ``count`` members; returns for how many sends that counts."""


class Readable(Protocol):
    """One connection that can be read (``gateway/wire/reader.py``)."""

    armed: bool
    """The pump watches its socket."""
    queued: bool
    """It stands in its share, to be read."""

    def on_readable(self) -> None:
        """Read once and handle what came. Must not raise."""


class Turns(Protocol):
    """What the shares of one node have in common; the flusher is it."""

    served: float
    """What the share had used that was served last."""

    @property
    def active(self) -> FairQueue:
        """Shares that have something to write."""

    @property
    def tally(self) -> Tally:
        """Where the outboxes of all shares count what they sent."""


class Share:
    """One organisation's place in the round: what it has to write, and (for the pump) to read."""

    __slots__ = (
        "_standing",
        "_turns",
        "broadcasts",
        "dirty",
        "ready",
        "sent_bytes",
        "slow",
        "tally",
        "used",
        "weight",
    )

    def __init__(self, turns: Turns, weight: int = 1) -> None:
        """``weight`` is how much time it gets where another share gets a second; at least 1."""
        self._turns = turns
        self._standing = False
        self.tally = turns.tally
        self.weight = weight
        self.used = 0.0
        """Seconds it was served, by its weight; only differences between shares mean anything."""
        self.dirty: deque[Member] = deque()
        """Outboxes that hold something and do not wait for their socket."""
        self.broadcasts: deque[Waiting] = deque()
        """What waits to be sent to many outboxes (``gateway/wire/broadcast.py``)."""
        self.slow: set[Any] = set()
        """Outboxes into which a broadcast must not write by itself: blocked, sealed, or no socket."""
        self.sent_bytes = 0
        self.ready: deque[Readable] = deque()
        """Connections that have something to read (``gateway/wire/pump.py``)."""

    def mark(self, outbox: Member) -> None:
        """``outbox`` was empty and is not any more."""
        self.dirty.append(outbox)
        if not self._standing:
            self.stand()

    def stand(self) -> None:
        """There is something to flush: stand in line with the other shares."""
        if not self._standing:
            self._standing = True
            self._turns.active.join(self)

    def catch_up(self, outbox: Member) -> None:
        """Something is about to be queued for ``outbox``: what waits to be broadcast goes first."""
        for broadcast in self.broadcasts:
            if outbox in broadcast.outboxes:
                broadcast.give(outbox)

    def flush(self, quantum: int) -> bool:
        """Take one turn of ``quantum`` sends; returns whether something is left."""
        dirty = self.dirty
        broadcasts = self.broadcasts
        sends = min(quantum, len(dirty))
        if sends <= _LOOKED_AT:
            for _ in range(sends):
                dirty.popleft().flush()
        else:
            sends = self._flush_dirty(sends)
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

    def _flush_dirty(self, sends: int) -> int:
        """Let so many outboxes send, or fewer when they send much; returns how many of ``sends`` are used."""
        dirty = self.dirty
        enough = self.sent_bytes + _TURN_BYTES
        for done in range(0, sends, _LOOKED_AT):
            for _ in range(min(_LOOKED_AT, sends - done)):
                dirty.popleft().flush()
            if self.sent_bytes >= enough:
                break
        return sends


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

    @property
    def used(self) -> int:
        """Slots that are taken."""
        return len(self.messages) - len(self._free)

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

    __slots__ = ("_tickets", "_turns")

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._tickets = itertools.count()

    def join(self, share: Share) -> None:
        """Stand in line; a share that stands in it must not."""
        used = share.used
        if used < self._turns.served:
            used = share.used = self._turns.served
        heapq.heappush(self, (used, next(self._tickets), share))

    def next(self) -> Share:
        """Take out the share whose turn it is; the line must not be empty."""
        used = self.least()
        self._turns.served = max(self._turns.served, used)
        return heapq.heappop(self)[2]

    def least(self) -> float:
        """What the share whose turn it is has used; the line must not be empty."""
        while True:
            used, _, share = self[0]
            if used == share.used:
                return used
            # It has been served from another line meanwhile.
            heapq.heapreplace(self, (share.used, next(self._tickets), share))
