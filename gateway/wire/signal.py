"""A wake-up call for exactly one waiting task.

``trio.Event`` is one-shot and takes two objects and a set; an idle connection has three
waiting tasks, so what they wait on counts. A signal is re-usable and takes one object.
"""

from __future__ import annotations

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

    async def wait(self) -> None:
        """Wait for the next ``set``; always a checkpoint."""
        if self._set:
            self._set = False
            await trio.lowlevel.checkpoint()
            return
        if self._task is not None:
            raise trio.BusyResourceError("another task waits for this signal")
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
