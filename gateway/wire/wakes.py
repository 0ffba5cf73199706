"""Wakes tasks a few in each pass of the loop.

Whatever one event or one moment wakes, Trio runs in one pass: five thousand polls that wait for the same room
would keep everybody else waiting until the last is answered. Here the first few are woken at once, the others
in the passes that follow.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Final

import trio

from gateway.wire.signal import Signal

__all__ = ["Wakes"]

_AT_ONCE: Final = 6
"""Tasks of a quarter of a millisecond each."""
_WINDOW: Final = 0.002
"""Seconds for which the first few count."""


class Wakes:
    """Sets signals in turns; :meth:`run` has to run for more than a few to be set."""

    def __init__(self) -> None:
        self._waiting: deque[Signal] = deque()
        self._some = Signal()
        self._begun = 0.0
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def wake(self, signal: Signal) -> None:
        """Set ``signal``: now, or after those that were to be set before it."""
        if not self._waiting:
            now = time.perf_counter()
            if now - self._begun > _WINDOW:
                self._begun, self._count = now, 0
            if self._count < _AT_ONCE:
                self._count += 1
                signal.set()
                return
            self._some.set()
        self._waiting.append(signal)

    async def run(self) -> None:
        """Wake until cancelled."""
        while True:
            await self._some.wait()
            while self._waiting:
                await trio.lowlevel.checkpoint()
                for _ in range(min(_AT_ONCE, len(self._waiting))):
                    self._waiting.popleft().set()
