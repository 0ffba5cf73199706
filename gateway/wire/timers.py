"""Timers: one task that wakes all others that wait for a time.

Each connection has deadlines all its life: the next ping, the end of its token, of typing, of a closing
handshake. To wait for one with ``trio.move_on_at`` takes a cancel scope, its status and two sets, 0.8 kB of
each idle connection's memory. Here it takes an entry in a heap, and who waits does so for its own
:class:`~gateway.wire.signal.Signal`, by which others may wake it as well.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import Final

import trio

from gateway.wire.signal import Signal

__all__ = ["Timer", "Timers"]

_WASTE: Final = 64
"""So many entries may be stale before the heap is made anew."""


class Timer(Signal):
    """A signal that is also set at a time. Whoever is woken looks at the clock, and sets the next time."""

    __slots__ = ("_timers", "time")

    def __init__(self, timers: Timers) -> None:
        super().__init__()
        self._timers = timers
        self.time = math.inf
        """Trio time at which it rings, ``math.inf`` for never."""

    def at(self, time: float) -> None:
        """Ring at ``time``; what was asked for before is forgotten."""
        if time != self.time:
            self._timers.move(self, time)


class Timers:
    """The timers of all connections; :meth:`run` has to run for them to ring."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._tickets = itertools.count()
        self._wasted = 0
        """Entries of the heap whose timer has another time now."""
        self._nearer = Signal()

    def __len__(self) -> int:
        return len(self._heap) - self._wasted

    def move(self, timer: Timer, time: float) -> None:
        """Have ``timer`` ring at ``time``; see :meth:`Timer.at`."""
        heap = self._heap
        self._wasted += timer.time != math.inf
        timer.time = time
        if time != math.inf:
            heapq.heappush(heap, (time, next(self._tickets), timer))
            if heap[0][2] is timer:
                self._nearer.set()
        if self._wasted > _WASTE + len(heap) // 2:
            # One entry for each: a time may have been set, moved, and set again.
            heap[:] = {entry[2]: entry for entry in heap if entry[0] == entry[2].time}.values()
            heapq.heapify(heap)
            self._wasted = 0

    async def run(self) -> None:
        """Ring until cancelled."""
        while True:
            with trio.move_on_at(self._ring()):
                await self._nearer.wait()

    def _ring(self) -> float:
        """Set what is due; returns when that is to be done again."""
        heap = self._heap
        now = trio.current_time()
        while heap:
            time, _, timer = heap[0]
            if time == timer.time:
                if time > now:
                    return time
                timer.time = math.inf
                timer.set()
            else:
                self._wasted -= 1
            heapq.heappop(heap)
        return math.inf
