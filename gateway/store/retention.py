"""What removes old rows: a job that one node does at a time, in small transactions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy import Connection, bindparam, delete, select

from gateway.config.settings import StoreSettings
from gateway.store.ids import first_of
from gateway.store.leases import Lease
from gateway.store.tables import notifications
from gateway.store.writer import Job, Writer

__all__ = ["Retention"]

_AT_ONCE: Final = 500
_DAY_MS: Final = 86_400_000
_NAME: Final = "retention"


class Retention:
    """Removes notifications that are older than ``store.notifications_keep`` or expired, and what is due of
    other tables."""

    def __init__(
        self,
        writer: Writer,
        settings: StoreSettings,
        clock: Callable[[], int],
        *,
        owner: str,
        postgres: bool,
        also: Sequence[Callable[[Connection, int], int]] = (),
    ) -> None:
        """``also`` remove other rows, some at a time: given the time, each returns how many."""
        self._writer = writer
        self._also = also
        self._keep_ms = int(settings.notifications_keep * _DAY_MS)
        self._lease_ms = int(max(settings.sweep, 4 * settings.timeout) * 1000)
        self._clock = clock
        self._lease = Lease(_NAME, owner=owner, postgres=postgres)
        c = notifications.c
        old = select(c.id).where(c.id < bindparam("first")).order_by(c.id).limit(_AT_ONCE)
        # Its condition is that of the partial index.
        expired = (
            select(c.id).where(c.expires_ms.is_not(None), c.expires_ms <= bindparam("now")).limit(_AT_ONCE)
        )
        self._removals = [delete(notifications).where(c.id.in_(ids)) for ids in (old, expired)]

    async def retain(self) -> int | None:
        """Remove all that is due; how many rows that were, or None when another node is at it.

        The node that did it keeps the job for ``store.sweep`` seconds. Raises what ``Writer.write`` raises.
        """
        total = 0
        while True:
            number: int | None = await self._writer.write(self._remove, None, rows=100)
            if number is None:
                return None
            if not number:
                return total
            total += number

    def _remove(self, connection: Connection, jobs: Sequence[Job]) -> None:
        for job in jobs:
            now = self._clock()
            if not self._lease.claim(connection, now, self._lease_ms):
                job.result = None
                continue
            bounds = {"now": now, "first": first_of(max(0, now - self._keep_ms))}
            job.result = sum(connection.execute(removal, bounds).rowcount for removal in self._removals)
            job.result += sum(remove(connection, now) for remove in self._also)
