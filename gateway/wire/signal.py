"""A wake-up call for exactly one waiting task.

``trio.Event`` is one-shot and takes two objects and a set; an idle connection has three
waiting tasks, so what they wait on counts. A signal is re-usable and takes one object.
"""

from __future__ import annotations

from collections.abc import Awaitable

import trio

__all__ = ["Signal"]


class Signal:
    """Remembers one ``set`` until the next ``wait``. At most one task may wait at a time."""

    __slots__ = ("_set", "_task")

    def __init__(self) -> None:
        self._set = False
        self._task: trio.lowlevel.Task | None = None

    def set(self) -> None:
        """Wake the waiting task, or let the next ``wait`` return at once."""
        task = self._task
        if task is None:
            self._set = True
        else:
            self._task = None
            trio.lowlevel.reschedule(task)

    def wait(self) -> Awaitable[object]:
        """Wait for the next ``set``; to be awaited at once, and always a checkpoint.

        Not a coroutine of its own, which would be 0.2 kB for each waiting task.
        """
        if self._set:
            self._set = False
            return trio.lowlevel.checkpoint()  # noqa: ASYNC105
        if self._task is not None:
            raise trio.BusyResourceError("another task waits for this signal")
        self._task = trio.lowlevel.current_task()
        return trio.lowlevel.wait_task_rescheduled(self._abort)  # noqa: ASYNC105

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
