"""What happens to a member of a room that cannot keep up: the overflow policies.

A client reads too slowly, its socket is full, and its outbox fills. By default the
connection is closed (``disconnect``). With another policy its place in the room *lags*: from
that event on nothing of the room is queued for it; instead its :class:`Lag` remembers, in a
bounded way, what to do when the socket has drained:

``drop_oldest``  keeps the newest events, up to the bounds of the queue
``conflate``     keeps the newest event of each key, up to the same bounds
``replay``       keeps only its position, and reads the rest from the room's history

Then the connection's catch-up task asks the lag for what is next, until nothing is left and the
place is live again. Whatever was dropped is announced by ``lost`` exactly where it is
missing, before the next event of the room. A join with ``since`` whose replay does not fit
into the outbox uses the same way, whatever its policy.

Memory: events are shared by all who lag, so a lagging member costs a reference each. The
outbox itself stops at ``Outbox.congested``, far below its bounds.
"""

from __future__ import annotations

from bisect import bisect
from typing import Any, Final, Literal, NamedTuple

from gateway.broker.base import Event, HistoryPage

__all__ = ["PAGE", "Lag", "Lost", "Overflow"]

Overflow = Literal["disconnect", "drop_oldest", "conflate", "replay"]

PAGE: Final = 64
"""Events that a replay reads at once."""


class Lost(NamedTuple):
    """Events of one room that will not come; both ends included."""

    first: int
    last: int
    reason: str


class Lag:
    """One lagging place. Sequence numbers below are those of its room."""

    __slots__ = (
        "_bytes",
        "_dropped",
        "_kept",
        "_key",
        "_max_bytes",
        "_max_messages",
        "aligned",
        "epoch",
        "held",
        "overtaken",
        "policy",
        "position",
        "turn",
    )

    def __init__(
        self, policy: Overflow, epoch: str, position: int, *, key: str, max_messages: int, max_bytes: int
    ) -> None:
        """``position`` is the last event queued; ``key`` names the field of ``data`` to conflate by."""
        self.policy = policy
        self.epoch = epoch
        self.position = position
        self.held = False
        """A join is under way, which will say from where to go on; nothing goes out before."""
        self.turn = 0
        """When it was last brought further: of several rooms, the one that has waited longest is next."""
        self.aligned = False
        """Read ahead of what this node has delivered: live again when the node comes by ``position``."""
        self.overtaken: set[int] = set()
        """Critical events that went out at once: a replay must not bring them again."""
        self._key = key
        self._kept: dict[Any, Event] = {}
        self._bytes = 0
        self._dropped: list[int] = []
        self._max_messages = max_messages
        self._max_bytes = max_bytes

    @property
    def replays(self) -> bool:
        """What is missing is to be read from history."""
        return self.policy in {"replay", "disconnect"}

    @property
    def due(self) -> bool:
        """There is something to be done about it when the socket has drained."""
        return not (self.aligned or self.held)

    def add(self, event: Event) -> Event | None:
        """Take one more event that matched; returns the one that was dropped for it, if any."""
        if self.replays:
            return None
        if event.epoch != self.epoch:
            # The new epoch itself tells the client that what it lacks of the old one is gone.
            self._begin_anew(event.epoch or "")
        key: Any = event.seq
        dropped: Event | None = None
        if self.policy == "conflate":
            data = event.data
            key = (event.event, _hashable(data.get(self._key)) if isinstance(data, dict) else None)
            dropped = self._drop(key) if key in self._kept else None
        self._kept[key] = event
        self._bytes += event.size
        if len(self._kept) > self._max_messages or (self._bytes > self._max_bytes and len(self._kept) > 1):
            dropped = self._drop(next(iter(self._kept)))
        return dropped

    def _begin_anew(self, epoch: str) -> None:
        self.epoch = epoch
        self.position = 0
        self.overtaken.clear()
        self._kept.clear()
        self._bytes = 0
        self._dropped.clear()

    def overtake(self, event: Event) -> None:
        """A critical event went out at once."""
        if self.replays and event.seq is not None:
            self.overtaken.add(event.seq)

    def miss(self, first: int, last: int) -> None:
        """These never came; they are announced like what was dropped."""
        self._dropped += (first, last)

    def _drop(self, key: Any) -> Event:
        event = self._kept.pop(key)
        self._bytes -= event.size
        assert event.seq is not None
        self._dropped.append(event.seq)
        if len(self._dropped) > 2 * self._max_messages + 64:
            self._thin_out()
        return event

    def _thin_out(self) -> None:
        """Of the dropped numbers between two kept events, only the first and the last matter."""
        kept = [event.seq or 0 for event in self._kept.values()]
        gaps: dict[int, tuple[int, int]] = {}
        for seq in self._dropped:
            gap = bisect(kept, seq)
            first, last = gaps.get(gap, (seq, seq))
            gaps[gap] = (min(first, seq), max(last, seq))
        self._dropped = [seq for ends in gaps.values() for seq in ends]

    @property
    def head(self) -> Event | None:
        """The next kept event; None when nothing is left."""
        return next(iter(self._kept.values()), None)

    def gap(self) -> Lost | None:
        """What is missing in front of the ``head``; it is told once."""
        head = self.head
        assert head is not None and head.seq is not None
        missing = [seq for seq in self._dropped if seq < head.seq]
        if not missing:
            return None
        self._dropped = [seq for seq in self._dropped if seq > head.seq]
        return Lost(min(missing), max(missing), "conflated" if self.policy == "conflate" else "slow")

    def take(self) -> None:
        """The ``head`` was sent."""
        event = self._kept.pop(next(iter(self._kept)))
        self._bytes -= event.size
        assert event.seq is not None
        self.position = event.seq

    def read(self, page: HistoryPage) -> Lost | None:
        """Take note of a page of history after ``position``; returns what is missing in front of it.

        The position is then in front of the page's first event, and goes on with each that is sent.
        """
        if page.epoch != self.epoch:
            self._begin_anew(page.epoch)
        first = page.events[0].seq if page.events else page.seq + 1
        assert first is not None
        if first <= self.position + 1:
            return None
        lost = Lost(self.position + 1, first - 1, "history")
        self.position = lost.last
        return lost


def _hashable(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
