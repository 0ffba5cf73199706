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
from typing import Any, Final, Protocol, TypeAlias

import trio

from gateway.wire.signal import Signal

__all__ = ["Alarm", "Timed", "Timers"]

_WASTE: Final = 64
"""So many entries may be stale before the heap is made anew."""
_TURN: Final = 0.001
"""Seconds after which others have their turn: after a storm of connections their pings are due together."""


Alarm: TypeAlias = list[Any]
"""An entry of the heap: the Trio time, a number that no other has, and whom to call; None for nobody."""


class Timed(Protocol):
    """What is called at a time."""

    alarm: Alarm | None
    """What it is set for; None at first. Only the timers change it."""

    def on_time(self) -> None:
        """The time has come, and no other one is set. Must not raise, nor wait."""


class Timers:
    """The deadlines of all connections; :meth:`run` has to run for them to come."""

    def __init__(self) -> None:
        self._heap: list[Alarm] = []
        self._tickets = itertools.count()
        self._wasted = 0
        """Entries of the heap that call nobody."""
        self._nearer = Signal()

    def __len__(self) -> int:
        return len(self._heap) - self._wasted

    def set(self, timed: Timed, due: float) -> None:
        """Call ``timed`` at the Trio time ``due``, or never (``math.inf``), and not when it was set for."""
        heap, alarm = self._heap, timed.alarm
        if alarm is not None:
            if alarm[0] == due:
                return
            alarm[2] = timed.alarm = None  # the heap keeps nobody alive
            self._wasted += 1
        if due != math.inf:
            timed.alarm = alarm = [due, next(self._tickets), timed]
            heapq.heappush(heap, alarm)
            if heap[0] is alarm:
                self._nearer.set()
        if self._wasted > _WASTE + len(heap) // 2:
            heap[:] = [each for each in heap if each[2] is not None]
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
            if timed is None:
                self._wasted -= 1
                heapq.heappop(heap)
                continue
            if due > now:
                return float(due)
            if time.perf_counter() - begun > _TURN:
                return now
            heapq.heappop(heap)[2] = timed.alarm = None
            timed.on_time()
        return math.inf
