"""Timers: one task that keeps the time for all connections.

Each connection has deadlines all its life: the next ping, the end of its token, of typing, of a closing
handshake. A task that waits for them takes 1.5 kB of each idle connection's memory, and a cancel scope for
each deadline 0.8 kB more. Here a deadline takes an entry in a heap, and whoever set it is called.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from typing import Final, Protocol

import trio

from gateway.wire.signal import Signal

__all__ = ["Timed", "Timers"]

_WASTE: Final = 64
"""So many entries may be stale before the heap is made anew."""
_TURN: Final = 0.001
"""Seconds after which others have their turn: after a storm of connections their pings are due together."""


class Timed(Protocol):
    """What is called at a time."""

    due: float
    """When, in Trio's seconds; ``math.inf`` for never, which it is at first. Only the timers change it."""

    def on_time(self) -> None:
        """``due`` has come, and is infinite now. Must not raise, nor wait."""


class Timers:
    """The deadlines of all connections; :meth:`run` has to run for them to come."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timed]] = []
        self._tickets = itertools.count()
        self._wasted = 0
        """Entries of the heap whose owner has another time now."""
        self._nearer = Signal()

    def __len__(self) -> int:
        return len(self._heap) - self._wasted

    def set(self, timed: Timed, due: float) -> None:
        """Call ``timed`` at the time ``due``; what was asked for before is forgotten."""
        if due == timed.due:
            return
        heap = self._heap
        self._wasted += timed.due != math.inf
        timed.due = due
        if due != math.inf:
            heapq.heappush(heap, (due, next(self._tickets), timed))
            if heap[0][2] is timed:
                self._nearer.set()
        if self._wasted > _WASTE + len(heap) // 2:
            # One entry for each: a time may have been set, moved, and set again.
            heap[:] = {entry[2]: entry for entry in heap if entry[0] == entry[2].due}.values()
            heapq.heapify(heap)
            self._wasted = 0

    async def run(self) -> None:
        """Keep the time until cancelled."""
        while True:
            with trio.move_on_at(self._ring()):
                await self._nearer.wait()

    def _ring(self) -> float:
        """Call those whose time has come; returns when that is to be done again."""
        heap = self._heap
        now = trio.current_time()
        begun = time.perf_counter()
        while heap:
            due, _, timed = heap[0]
            if due != timed.due:
                self._wasted -= 1
                heapq.heappop(heap)
                continue
            if due > now:
                return due
            if time.perf_counter() - begun > _TURN:
                return now
            heapq.heappop(heap)
            timed.due = math.inf
            timed.on_time()
        return math.inf
