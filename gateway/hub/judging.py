"""Events for rooms with very many filters that have not seen the event's name: judged piece by piece.

A member chooses their filters, and a filter that sees a name for the first time looks at up to 64 patterns,
which takes some 10 µs. A thousand in one go would hold up everybody. So an event of such a name waits, and
those of its room behind it, while all filters are asked, some at a time; each remembers its answer.
Then the event is delivered as any other. To everybody else it is as if the broker had brought it later.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

from gateway.broker.base import Event
from gateway.hub.counters import Counters
from gateway.hub.room import Room
from gateway.wire.flusher import Flusher

__all__ = ["Judging"]

_PIECE: Final = 32
"""Groups that are asked without giving way."""
_MOST: Final = 256
_MOST_BYTES: Final = 4 * 2**20
"""Events that wait for one room; with more the oldest is delivered at once, whatever that takes."""


class Judging:
    """Of one node. Without :meth:`run` every event is delivered at once."""

    def __init__(self, counters: Counters, flusher: Flusher) -> None:
        self._counters = counters
        self._flusher = flusher
        self._rooms: deque[Room] = deque()
        self._wake = trio.Event()
        self._running = False

    def take(self, room: Room, event: Event) -> None:
        """Have ``event`` delivered in its turn. Returns at once."""
        waiting = room.waiting
        if waiting is None:
            waiting = room.waiting = deque()
            if self._running:
                self._rooms.append(room)
                self._wake.set()
        waiting.append(event)
        while waiting and (not self._running or _is_much(waiting)):
            self._release(room)

    def _release(self, room: Room) -> None:
        self._counters.deliveries += room.release()
        self._flusher.wake()

    async def run(self) -> None:
        """Judge until cancelled."""
        self._running = True
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    while self._rooms:
                        nursery.start_soon(self._judge, self._rooms.popleft())
                    self._wake = trio.Event()
                    await self._wake.wait()
        finally:
            self._running = False

    async def _judge(self, room: Room) -> None:
        while room.waiting:
            event = room.waiting[0]
            for number, (first, second) in enumerate(room.filters(), 1):
                if first.allows(event.event):
                    second.allows(event.event)
                if number % _PIECE == 0:
                    await trio.lowlevel.checkpoint()
            if room.waiting and room.waiting[0] is event:
                self._release(room)
            await trio.lowlevel.checkpoint()


def _is_much(waiting: deque[Event]) -> bool:
    return len(waiting) > _MOST or sum(event.size for event in waiting) > _MOST_BYTES
