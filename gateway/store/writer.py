"""One writer for all: what waits meanwhile becomes the next commit, so groups grow with the load.

A *job* is one caller's write. The writer takes as many as fit into a group, has each kind of work do all its
jobs at once, commits in a thread, and wakes the callers. Whoever is cancelled, or out of patience, before the
group has begun takes its job back; afterwards the job is committed whether somebody waits or not.

A statement that the database refuses fails the whole transaction; then every job gets a transaction of its
own, and only the bad one fails.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import trio
from sqlalchemy import Connection

from gateway.config.settings import StoreSettings
from gateway.store.database import Database
from gateway.store.failures import is_unavailable
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["Job", "Work", "Writer"]

_GROUP_BYTES: Final = 2 * 2**20
_LAZY: Final = 0.02
"""Seconds that a write nobody waits for waits for others to ride with."""
_LAZY_ITEMS: Final = 10_000


class Job:
    """One write: ``payload`` is for its work, which puts what came of it into ``result``."""

    __slots__ = ("done", "due", "error", "payload", "refused", "result", "rows", "size", "then", "work")

    def __init__(self, work: Work, payload: Any, rows: int, size: int) -> None:
        self.work = work
        self.payload = payload
        self.rows = rows
        self.size = size
        self.result: Any = None
        self.error: ProtocolError | None = None
        """Set in the writer's thread."""
        self.refused: ProtocolError | None = None
        """Set in the loop, when nothing is waited for any more."""
        self.due = 0.0
        self.done: trio.Event | None = None
        self.then: Callable[[Any], None] | None = None


Work = Callable[[Connection, Sequence[Job]], None]
"""Does all jobs of its kind in the transaction of ``Connection``; may be called again with the same jobs."""


class Writer:
    """Run :meth:`run` in one task; :meth:`write` and :meth:`post` from any."""

    def __init__(self, database: Database, settings: StoreSettings) -> None:
        self._database = database
        self._settings = settings
        self._queue: OrderedDict[Job, None] = OrderedDict()
        self._lazy: list[Job] = []
        self._lazy_items = 0
        self._group: list[Job] = []
        self._wake = trio.Event()
        self._hurry = trio.Event()
        self._thread = trio.CapacityLimiter(1)
        self._stopping = False
        self.finished = trio.Event()
        """Set when :meth:`run` is over."""
        self.pending = 0
        """Jobs not yet committed, those of the running commit included."""
        self.pending_bytes = 0
        self.commits = 0
        self.written = 0

    async def write(
        self,
        work: Work,
        payload: Any,
        *,
        rows: int = 1,
        size: int = 0,
        then: Callable[[Any], None] | None = None,
    ) -> Any:
        """Have ``work`` do it; what it put into ``Job.result``, once that is committed.

        ``then`` is called with it in the order of the commits, whether the caller still waits or not, unless
        the work set ``Job.error``; it must not raise.

        Raises ``ProtocolError``: TOO_LARGE (more bytes than the queue holds), OVERLOADED (the queue is
        full), DATABASE_UNAVAILABLE (nothing was stored), TIMEOUT (it may have been stored), and what the work
        raised. A cancelled caller's job may be committed all the same.
        """
        settings = self._settings
        self._database.check()
        if size > settings.pending_bytes:
            raise ProtocolError(ErrorCode.TOO_LARGE, "larger than the queue of the database")
        if self.pending >= settings.pending or self.pending_bytes + size > settings.pending_bytes:
            raise self._database.failures.overloaded()
        if self._stopping:
            raise self._database.failures.unavailable("the database is being closed")
        job = Job(work, payload, rows, size)
        job.done = trio.Event()
        job.then = then
        job.due = trio.current_time() + settings.timeout
        self._queue[job] = None
        self.pending += 1
        self.pending_bytes += size
        self._wake.set()
        self._hurry.set()
        try:
            await job.done.wait()
        finally:
            if job in self._queue:
                del self._queue[job]
                self._release(job)
        if (error := job.refused or job.error) is not None:
            raise error
        return job.result

    def post(self, work: Work, payload: list[Any]) -> bool:
        """Have ``work`` do it with one of the next commits, and wait for nothing; errors are not reported.

        Belongs to the writer from now on, which may join it with what the same work was given before.

        False when too many wait, and it is not done.
        """
        if self._lazy_items >= _LAZY_ITEMS or self._stopping:
            return False
        self._lazy_items += len(payload)
        last = self._lazy[-1] if self._lazy else None
        if last is not None and last.work == work:
            last.payload += payload
        else:
            self._lazy.append(Job(work, payload, 1, 0))
        self._wake.set()
        return True

    async def run(self) -> None:
        """Commit group after group until :meth:`stop`, and then what still waits."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._expire)
                await self._run()
                nursery.cancel_scope.cancel()
        finally:
            self.finished.set()

    async def _expire(self) -> None:
        # One task for all deadlines: a cancel scope for each write cost more than the rest of its way.
        while True:
            await trio.sleep(self._settings.timeout / 16)
            now = trio.current_time()
            while self._queue and (job := next(iter(self._queue))).due <= now:
                del self._queue[job]
                self._release(job)
                _refuse(job, self._database.failures.unavailable())
            for job in self._group:
                if job.done is not None and job.due <= now:
                    _refuse(job, self._database.failures.unknown())

    async def _run(self) -> None:
        while True:
            if not self._queue and not self._lazy:
                if self._stopping:
                    return
                self._wake = trio.Event()
                await self._wake.wait()
                continue
            if not self._queue and not self._stopping:
                self._hurry = trio.Event()
                with trio.move_on_after(_LAZY):
                    await self._hurry.wait()
            group = self._group = self._take()
            finished = False
            try:
                await trio.to_thread.run_sync(
                    self._commit, group, limiter=self._thread, abandon_on_cancel=True
                )
                finished = True
            finally:
                self._group = []
                for job in group:
                    if job.done is None:
                        continue
                    self._release(job)
                    if finished:
                        if job.then is not None and job.error is None:
                            job.then(job.result)
                        job.done.set()
                    else:
                        _refuse(job, self._database.failures.unknown())

    def stop(self) -> None:
        """Refuse what comes from now on, and have :meth:`run` end with what waits."""
        self._stopping = True
        self._wake.set()
        self._hurry.set()

    def _take(self) -> list[Job]:
        group, self._lazy = self._lazy, []
        self._lazy_items = 0
        rows = size = 0
        while self._queue:
            job = next(iter(self._queue))
            if rows and (rows + job.rows > self._settings.group or size + job.size > _GROUP_BYTES):
                break
            self._queue.popitem(last=False)
            group.append(job)
            rows += job.rows
            size += job.size
        return group

    def _release(self, job: Job) -> None:
        self.pending -= 1
        self.pending_bytes -= job.size

    def _commit(self, group: list[Job]) -> None:
        """In the writer's thread. Never raises for what the database says."""
        self.commits += 1
        failed = self._attempt(group)
        if failed is None:
            return
        error, committing = failed
        if len(group) > 1 and not committing and not is_unavailable(error):
            for job in group:
                self._commit([job])
            return
        shown = self._database.failures.of(error, committing=committing)
        for job in group:  # each its own, since raising one adds a traceback to it
            job.error = ProtocolError(shown.code, shown.message, retry_after=shown.retry_after)

    def _attempt(self, group: list[Job]) -> tuple[Exception, bool] | None:
        kinds: dict[Work, list[Job]] = {}
        for job in group:
            job.error = None
            kinds.setdefault(job.work, []).append(job)
        failed = self._database.transaction([partial(_call, work, jobs) for work, jobs in kinds.items()])
        if failed is None:
            self._database.failures.back()
            self.written += len(group)
        return failed


def _refuse(job: Job, error: ProtocolError) -> None:
    assert job.done is not None
    if not job.done.is_set():
        job.refused = error
        job.done.set()


def _call(work: Work, jobs: list[Job], connection: Connection) -> None:
    work(connection, jobs)
