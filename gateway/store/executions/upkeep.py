"""What one node at a time does about executions that nobody cares for: ends the stale, removes the old."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy import Connection, bindparam, delete, select, text

from gateway.store.database import Database
from gateway.store.executions.days import DAY_MS
from gateway.store.executions.tables import ACTIVE, executions, updates
from gateway.store.ids import first_of
from gateway.store.leases import Lease
from gateway.store.rows import among, ids_json
from gateway.store.writer import Job, Writer

__all__ = ["Upkeep"]

_AT_ONCE: Final = 200
_c = executions.c
_STALE: Final = (
    select(_c.org, _c.id)
    .where(text(ACTIVE), _c.heartbeat_ms < bindparam("before"))
    .order_by(_c.number)
    .limit(_AT_ONCE)
)
_OLD: Final = select(_c.number).where(_c.number < bindparam("first")).order_by(_c.number).limit(_AT_ONCE)
_OLD_DAYS: Final = text(
    "DELETE FROM execution_days WHERE (org, agent, team, method, day, status, bucket) IN"
    " (SELECT org, agent, team, method, day, status, bucket FROM execution_days"
    " WHERE day < :day ORDER BY day LIMIT 500)"
)


class Upkeep:
    """Finds the stale, and removes what is old."""

    def __init__(self, database: Database, writer: Writer, clock: Callable[[], int], *, owner: str) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        postgres = database.postgresql
        self._lease = Lease("executions", owner=owner, postgres=postgres)
        self._remove_old = [
            delete(table).where(among(table.c.number, "numbers", postgres=postgres))
            for table in (updates, executions)
        ]

    async def claim(self, length: float) -> bool:
        """Whether this node does the job for the next ``length`` seconds; False: another does."""
        mine: bool = await self._writer.write(self._claim, int(length * 1000))
        return mine

    async def stale(self, before_ms: int) -> list[tuple[str, str]]:
        """Organisation and id of some that have not ended and were last heard of before that."""

        def fetch(connection: Connection) -> list[tuple[str, str]]:
            return [(row.org, row.id) for row in connection.execute(_STALE, {"before": before_ms})]

        return await self._database.read(fetch)

    async def remove(self, keep_days: int) -> int:
        """Remove those of days (UTC) that ended ``keep_days`` ago, with what was counted; how many."""
        day = self._clock() // DAY_MS - keep_days
        total = 0
        while True:
            number: int = await self._writer.write(self._remove, day, rows=_AT_ONCE)
            if not number:
                return total
            total += number

    def _claim(self, connection: Connection, jobs: Sequence[Job]) -> None:
        for job in jobs:
            job.result = self._lease.claim(connection, self._clock(), job.payload)

    def _remove(self, connection: Connection, jobs: Sequence[Job]) -> None:
        for job in jobs:
            first = first_of(max(0, job.payload * DAY_MS))
            numbers = list(connection.execute(_OLD, {"first": first}).scalars())
            for removal in self._remove_old if numbers else ():
                connection.execute(removal, {"numbers": ids_json(numbers)})
            counted = connection.execute(_OLD_DAYS, {"day": job.payload}).rowcount
            job.result = len(numbers) + counted
