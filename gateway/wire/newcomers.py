"""Whose turn it is among connections that are being taken in: TLS handshakes, then upgrades and admissions.

They belong to no organisation yet, and many come at once. What one of them takes cannot be divided, a
signature above all, so it is counted: between two passes of the loop as much is done as fits into ``_TURN``,
one thing at least. Who comes later waits in a line. The first of the line works in the next pass for all
that stand behind it, as long as the time lasts, and then the next one does: to wake each for its own
work would give each a pass of its own, and a pass costs as much as the small ones of these things.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final, Generic, TypeVar

import trio

__all__ = ["Newcomers"]

_TURN: Final = 0.0004
"""Seconds of newcomers after which everything else has its turn."""
_UPGRADE: Final = 0.0003
"""Seconds that an upgrade counts for: it may wait for others in between, so it cannot be measured."""
_Result = TypeVar("_Result")


class _Place(Generic[_Result]):
    """One that stands in line."""

    __slots__ = ("_result", "_work", "done", "error", "task")

    def __init__(self, work: Callable[[], _Result]) -> None:
        self.task = trio.lowlevel.current_task()
        self._work = work
        self._result: list[_Result] = []
        self.error: BaseException | None = None
        self.done = False

    def do(self) -> None:
        """Do its work, and keep what comes of it."""
        self.done = True
        try:
            self._result.append(self._work())
        except BaseException as error:
            self.error = error

    def result(self) -> _Result:
        """What the work returned; raises what it raised."""
        if self.error is not None:
            try:
                raise self.error
            finally:
                self.error = None  # its traceback refers to whoever keeps it
        return self._result[0]


class Newcomers:
    """The line of one listener."""

    def __init__(self) -> None:
        self._spent = 0.0
        """Seconds of this pass."""
        self._led = False
        """Somebody works in the next pass for those who stand in line."""
        self._line: deque[_Place[Any]] = deque()

    async def turn(self, work: Callable[[], _Result]) -> _Result:
        """Do ``work``, which must not await, when it is our turn; returns or raises what it does."""
        if self._led:
            place = _Place(work)
            await self._stand(place)
            if place.done:
                return place.result()
        elif self._spent >= _TURN:
            self._led = True
            try:
                await trio.lowlevel.checkpoint()
            except BaseException:
                self._hand_over()
                raise
        else:
            return self._timed(work)
        self._spent = 0.0
        try:
            return self._timed(work)
        finally:
            while self._line and self._spent < _TURN:
                next_one = self._line.popleft()
                self._timed(next_one.do)
                trio.lowlevel.reschedule(next_one.task)
            self._hand_over()

    async def upgrade(self) -> None:
        """Wait for the turn of an upgrade, which comes next."""
        await self.turn(self._count_upgrade)

    def _count_upgrade(self) -> None:
        self._spent += _UPGRADE

    def _timed(self, work: Callable[[], _Result]) -> _Result:
        begun = perf_counter()
        try:
            return work()
        finally:
            self._spent += perf_counter() - begun

    async def _stand(self, place: _Place[_Result]) -> None:
        """Wait until the work is done, or it falls to us to lead the next pass."""
        self._line.append(place)

        def leave(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._line.remove(place)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    def _hand_over(self) -> None:
        """The first of the line leads the next pass."""
        self._led = bool(self._line)
        if self._line:
            trio.lowlevel.reschedule(self._line.popleft().task)
