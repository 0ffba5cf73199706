"""Taking turns: one organisation's work never waits for all of another's.

:class:`Turns` is a queue of queues: what is added under a name comes out in order for that name, and
the names come round one after the other. :class:`Inbox` uses it to hand events to the hub in slices of
time: a batch of a thousand events, each to a thousand members, holds the loop for one slice.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

import trio

__all__ = ["Inbox", "Throttle", "Turns", "Wake"]

Item = TypeVar("Item")

_SILENCE: Final = 10.0
"""Seconds for which a log line is not repeated: a full server refuses every batch."""
_NAMES: Final = 100

_TURN: Final = 0.0005
"""Seconds of delivering that an organisation gets before the next one's turn."""
_HOLD: Final = 0.002
"""Seconds after which the other tasks of the loop get theirs."""


class Wake:
    """An event that can be used again; one task waits for it."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        """Let the one who waits, or will wait, go on."""
        self._event.set()

    async def wait(self) -> None:
        """Wait for the next ``set``, or take the one that was; a checkpoint."""
        await self._event.wait()
        self._event = trio.Event()


class Throttle:
    """Lets something be said once in ``_SILENCE`` seconds for each name, of ``_NAMES`` names at most."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def may(self, name: str) -> bool:
        """Whether it is time to say it (again)."""
        now = trio.current_time()
        said = self._said.get(name)
        if said is not None and now - said < _SILENCE:
            return False
        if len(self._said) >= _NAMES:
            oldest = next(iter(self._said))
            if now - self._said[oldest] < _SILENCE:
                return False  # enough is being said
            del self._said[oldest]
        self._said.pop(name, None)
        self._said[name] = now
        return True


class Turns(Generic[Item]):
    """A fair queue."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[Item]] = {}
        self._names: deque[str] = deque()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, name: str, item: Item) -> None:
        """Put ``item`` behind what ``name`` has."""
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = deque()
            self._names.append(name)
        queue.append(item)
        self._length += 1

    def first(self) -> tuple[str, Item]:
        """Whose turn it is, and with what."""
        name = self._names[0]
        return name, self._queues[name][0]

    def take(self) -> Item:
        """Take what is first; the same name's next item is first then, until :meth:`turn`."""
        name = self._names[0]
        queue = self._queues[name]
        item = queue.popleft()
        self._length -= 1
        if not queue:
            del self._queues[name]
            self._names.popleft()
        return item

    def pop(self) -> Item:
        """Take what is first; then it is the next one's turn."""
        name = self._names[0]
        item = self.take()
        if self._names and self._names[0] == name:
            self.turn()
        return item

    def turn(self) -> None:
        """It is the next one's turn."""
        self._names.rotate(-1)


class Inbox:
    """What was read from Redis and is not delivered yet, bounded by ``full``."""

    def __init__(self, bound: int, settled: Callable[[], None]) -> None:
        """``bound`` is in bytes; ``settled`` is called after each slice."""
        self._bound = bound
        self._settled = settled
        self._turns: Turns[tuple[int, Iterator[None]]] = Turns()
        self.bytes = 0
        """Of what is not delivered."""
        self._wake = Wake()
        self._waiting = trio.lowlevel.ParkingLot()

    @property
    def full(self) -> bool:
        """Nothing more should be read now."""
        return self.bytes > self._bound

    async def room(self) -> None:
        """Wait until it is not full."""
        while self.full:
            await self._waiting.park()

    def put(self, org: str, steps: Iterator[None], size: int) -> None:
        """Have ``steps`` done in the turns of ``org`` after ``work``; ``size`` is its memory in bytes."""
        self._turns.add(org, (size, steps))
        self.bytes += size

    def work(self) -> None:
        """Deliver for a while; what is left then is seen to by :meth:`run`."""
        clock = time.perf_counter
        turns = self._turns
        stop = clock() + _HOLD
        while turns:
            self._slice(clock() + _TURN)
            self._settled()
            if clock() > stop:
                self._wake.set()
                return

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            await self._wake.wait()
            self.work()

    def _slice(self, stop: float) -> None:
        clock = time.perf_counter
        turns = self._turns
        name, (size, steps) = turns.first()
        while True:
            for _ in steps:
                if clock() > stop:
                    turns.turn()
                    return
            turns.take()
            self.bytes -= size
            if self._waiting and not self.full:
                self._waiting.unpark_all()
            if not turns:
                return
            following, (size, steps) = turns.first()
            if following != name:
                return
