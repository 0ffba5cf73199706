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

The place itself is in one of four states; the first is that it has no ``Lag``:

========  =====================================================================================
live      what comes is queued
BEHIND    what comes is kept, or left to history; the catch-up sends what is next as the socket drains
AHEAD     history was read beyond what this node has delivered: nothing is to be sent, and the place is
          live when the node delivers the event at ``position``
HELD      a join is under way that will say from where to go on: nothing goes out before it has
========  =====================================================================================

``_TRANSITIONS`` holds every change between the three states of a ``Lag``. It begins in BEHIND when an
event does not fit (``Membership.fall_behind``), and ends when the place is live again
(``Membership.caught_up``), or left: from BEHIND when nothing is left to send, from AHEAD when the node has
come to its position, from each of the three when the broker begins another epoch. A HELD one outlives even
that, because its join will begin in the new epoch.

Memory: events are shared by all who lag, so a lagging member costs a reference each; the bounds
of the queue hold for all lagging rooms of a connection together (:class:`Backlog`). The
outbox itself stops at ``Outbox.congested``, far below its bounds.
"""

from __future__ import annotations

import math
from bisect import bisect
from enum import Enum, auto
from heapq import heappop, heappush
from operator import attrgetter
from typing import Any, Final, Literal, NamedTuple

from gateway.broker.base import Event, HistoryPage

__all__ = ["PAGE", "Backlog", "Lag", "Lost", "Overflow", "State", "Step"]

Overflow = Literal["disconnect", "drop_oldest", "conflate", "replay"]

PAGE: Final = 64
"""Events that a replay reads at once."""


class State(Enum):
    """Of a lagging place; see the essay above."""

    BEHIND = auto()
    AHEAD = auto()
    HELD = auto()


class Step(Enum):
    """What changes the state of a lagging place."""

    HOLD = auto()
    """A join with ``since`` has begun."""
    RELEASE = auto()
    """That join came to nothing."""
    GO_ON = auto()
    """A join has said from where to go on, and more is to be sent."""
    READ_UP = auto()
    """All of history was read, and this node has not delivered all of that."""
    LOOK_AGAIN = auto()
    """The order in which history was read has ended."""


_TRANSITIONS: Final = {
    (State.BEHIND, Step.HOLD): State.HELD,
    (State.AHEAD, Step.HOLD): State.HELD,
    (State.HELD, Step.HOLD): State.HELD,  # joins may overlap
    (State.HELD, Step.RELEASE): State.BEHIND,
    (State.BEHIND, Step.GO_ON): State.BEHIND,
    (State.AHEAD, Step.GO_ON): State.BEHIND,
    (State.HELD, Step.GO_ON): State.BEHIND,
    (State.BEHIND, Step.READ_UP): State.AHEAD,
    (State.AHEAD, Step.LOOK_AGAIN): State.BEHIND,
}


class Lost(NamedTuple):
    """Events of one room that will not come; both ends included."""

    first: int
    last: int
    reason: str


class Backlog:
    """What all lagging rooms of one connection keep."""

    __slots__ = ("_lags", "bytes", "max_bytes", "max_messages", "messages")

    def __init__(self, *, max_messages: int, max_bytes: int) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.messages = 0
        self.bytes = 0
        self._lags: set[Lag] = set()

    def grow(self, lag: Lag, event: Event) -> None:
        """``lag`` keeps one event more."""
        self._lags.add(lag)
        self.messages += 1
        self.bytes += event.size

    def shrink(self, lag: Lag, event: Event) -> None:
        """``lag`` keeps one event less."""
        if not lag.messages:
            self._lags.discard(lag)
        self.messages -= 1
        self.bytes -= event.size

    def fattest(self) -> Lag | None:
        """The lag that has to give something up; None while the bounds hold. One event always fits."""
        if self.messages > self.max_messages:
            return max(self._lags, key=_messages)
        if self.bytes > self.max_bytes and self.messages > 1:
            return max(self._lags, key=_bytes)
        return None


class Lag:
    """One lagging place. Sequence numbers below are those of its room."""

    __slots__ = (
        "_backlog",
        "_dropped",
        "_kept",
        "_key",
        "bytes",
        "epoch",
        "overtaken",
        "policy",
        "position",
        "state",
        "turn",
    )

    def __init__(self, policy: Overflow, epoch: str, position: int, *, key: str, backlog: Backlog) -> None:
        """``position`` is the last event queued; ``key`` names the field of ``data`` to conflate by."""
        self.policy = policy
        self.epoch = epoch
        self.position = position
        self.state = State.BEHIND
        self.turn = 0
        """When it was last brought further: of several rooms, the one that has waited longest is next."""
        self.overtaken: set[int] = set()
        """Critical events that went out at once: a replay must not bring them again."""
        self.bytes = 0
        """Of the kept events."""
        self._key = key
        self._backlog = backlog
        self._kept: dict[Any, Event] = {}
        self._dropped: list[int] = []
        """A heap."""

    @property
    def replays(self) -> bool:
        """What is missing is to be read from history."""
        return self.policy in {"replay", "disconnect"}

    @property
    def messages(self) -> int:
        """Kept events."""
        return len(self._kept)

    @property
    def due(self) -> bool:
        """There is something to be done about it when the socket has drained."""
        return self.state is State.BEHIND

    def step(self, step: Step) -> None:
        """Change the state; raises ``KeyError`` for what cannot happen in it."""
        self.state = _TRANSITIONS[self.state, step]

    def go_on_from(self, epoch: str, position: int) -> None:
        """A join was answered up to ``position``; what comes behind it is to be sent."""
        self.step(Step.GO_ON)
        self.epoch, self.position = epoch, position

    def add(self, event: Event) -> list[tuple[Event, Overflow]]:
        """Take one more event that matched; returns what was dropped for it, of whichever lag, and why."""
        if self.replays:
            return []
        if event.epoch != self.epoch:
            # The new epoch itself tells the client that what it lacks of the old one is gone.
            self._begin_anew(event.epoch or "")
        key: Any = event.seq
        dropped: list[tuple[Event, Overflow]] = []
        if self.policy == "conflate":
            data = event.data
            key = (event.event, _hashable(data.get(self._key)) if isinstance(data, dict) else None)
            if key in self._kept:
                dropped.append((self._drop(key), self.policy))
        self._kept[key] = event
        self.bytes += event.size
        self._backlog.grow(self, event)
        while (fattest := self._backlog.fattest()) is not None:
            dropped.append((fattest._drop(next(iter(fattest._kept))), fattest.policy))
        return dropped

    def clear(self) -> None:
        """Nothing of what is kept is of interest any more."""
        while self._kept:
            self._remove(next(iter(self._kept)))
        self._dropped.clear()
        self.overtaken.clear()

    def _begin_anew(self, epoch: str) -> None:
        self.clear()
        self.epoch = epoch
        self.position = 0

    def overtake(self, event: Event) -> None:
        """A critical event went out at once."""
        if self.replays and event.seq is not None:
            self.overtaken.add(event.seq)

    def miss(self, first: int, last: int) -> None:
        """These never came; they are announced like what was dropped."""
        self._note(first)
        self._note(last)

    def _remove(self, key: Any) -> Event:
        event = self._kept.pop(key)
        self.bytes -= event.size
        self._backlog.shrink(self, event)
        return event

    def _drop(self, key: Any) -> Event:
        event = self._remove(key)
        assert event.seq is not None
        self._note(event.seq)
        return event

    def _note(self, seq: int) -> None:
        heappush(self._dropped, seq)
        if len(self._dropped) > 2 * self._backlog.max_messages + 64:
            self._thin_out()

    def _thin_out(self) -> None:
        """Of the dropped numbers between two kept events, only the first and the last matter."""
        kept = [event.seq or 0 for event in self._kept.values()]
        gaps: dict[int, tuple[int, int]] = {}
        for seq in self._dropped:
            gap = bisect(kept, seq)
            first, last = gaps.get(gap, (seq, seq))
            gaps[gap] = (min(first, seq), max(last, seq))
        self._dropped = sorted({seq for ends in gaps.values() for seq in ends})  # which is a heap

    @property
    def head(self) -> Event | None:
        """The next kept event; None when nothing is left."""
        return next(iter(self._kept.values()), None)

    def gap(self) -> Lost | None:
        """What is missing in front of the ``head``, or behind the last event; it is told once."""
        head = self.head
        dropped = self._dropped
        end = math.inf if head is None or head.seq is None else head.seq
        if not dropped or dropped[0] > end:
            return None
        first = last = dropped[0]
        while dropped and dropped[0] < end:
            last = heappop(dropped)
        self.position = last
        return Lost(first, last, "conflated" if self.policy == "conflate" else "slow")

    def take(self) -> None:
        """The ``head`` was sent."""
        event = self._remove(next(iter(self._kept)))
        assert event.seq is not None
        self.position = event.seq

    def read(self, page: HistoryPage) -> Lost | None:
        """Take note of a page of history after ``position``; returns what is missing in front of it.

        The position is then in front of the page's first event, and goes on with each that is sent.
        """
        if page.epoch != self.epoch:
            self._begin_anew(page.epoch)
        behind = page.events[0].seq if page.events else page.seq + 1
        assert behind is not None
        first, last = self.position + 1, behind - 1
        self.position = max(self.position, last)
        while first in self.overtaken:
            first += 1
        while last in self.overtaken:
            last -= 1
        self.overtaken = {seq for seq in self.overtaken if seq > self.position}
        return Lost(first, last, "history") if first <= last else None


_messages = attrgetter("messages")
_bytes = attrgetter("bytes")


def _hashable(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
