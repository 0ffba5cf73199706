"""The database from Trio: threads that read and a thread that writes, each wait with its deadline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import trio
from sqlalchemy import URL, Connection
from sqlalchemy.exc import SQLAlchemyError

from gateway.config.settings import StoreSettings
from gateway.store.engine import POSTGRESQL, make_engine
from gateway.store.failures import Failures, is_repeatable

__all__ = ["Database"]

T = TypeVar("T")

_ATTEMPTS = 4
"""Of one transaction that deadlocks with those of other nodes."""


class Database:
    """One database: :meth:`read` from any task, :meth:`transaction` from the writer's thread."""

    def __init__(self, url: URL, settings: StoreSettings) -> None:
        self._settings = settings
        self.postgresql = url.get_backend_name() == POSTGRESQL
        self.failures = Failures(settings.retry_after)
        self._reader = make_engine(url, settings, reads=settings.pool)
        self._writer = make_engine(url, settings)
        self._threads = trio.CapacityLimiter(settings.pool)
        self.verified = False
        """Whether the schema is known to be one that this release can use; nothing is done before."""
        self.reading = 0
        self._closed = False

    def check(self) -> None:
        """Raise DATABASE_UNAVAILABLE before the schema has been seen."""
        if not self.verified:
            raise self.failures.unavailable()

    async def read(self, work: Callable[[Connection], T]) -> T:
        """What ``work`` finds, run in a thread; each of its statements sees the database as it is then.

        Raises ``ProtocolError``: DATABASE_UNAVAILABLE, also after ``store.timeout``, and OVERLOADED when
        ``store.pending_reads`` wait already. A cancelled caller does not wait for its thread.
        """
        self.check()
        if self.reading >= self._settings.pending_reads:
            raise self.failures.overloaded()
        self.reading += 1
        try:
            with trio.move_on_after(self._settings.timeout):
                return await trio.to_thread.run_sync(
                    self._read, work, limiter=self._threads, abandon_on_cancel=True
                )
            raise self.failures.unavailable("the database is too slow")
        except SQLAlchemyError as error:
            raise self.failures.of(error) from None
        finally:
            self.reading -= 1

    def _read(self, work: Callable[[Connection], T]) -> T:
        with self._reader.connect() as connection:
            try:
                return work(connection)
            finally:
                if self._closed:  # its pool is gone and would only drop it
                    connection.invalidate()

    def transaction(self, works: Sequence[Callable[[Connection], None]]) -> tuple[Exception, bool] | None:
        """Do all of it in one commit; None, or the error and whether the COMMIT itself met it.

        Blocks: for the writer's thread alone.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            committing = False
            try:
                with self._writer.connect() as connection, connection.begin() as transaction:
                    for work in works:
                        work(connection)
                    committing = True
                    transaction.commit()
                return None
            except Exception as error:  # a driver refuses some values with errors of Python's own
                if attempt == _ATTEMPTS or not is_repeatable(error):
                    return error, committing
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the connections that are not in use; those in use close when their threads are done."""
        self._closed = True
        self._reader.dispose()
        self._writer.dispose()
