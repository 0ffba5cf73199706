"""What is committed of executions and not yet told, in the order of each execution's versions.

As ``gateway.store.outbox``, with one rule more: whoever commits a change of an execution, or claims one,
takes over all earlier changes of it that are not told. So one node at a time tells an execution's changes, in
their order; a change that two nodes tell has one ``mid``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, select, tuple_, update

from gateway.store.executions.tables import executions, untold
from gateway.store.executions.values import Entry, entry_from
from gateway.store.rows import among, ids_json, insert_new
from gateway.store.writer import Job, Writer

__all__ = ["ExecutionOutbox", "Handed"]

_CLAIM: Final = 100
"""Executions whose changes are claimed at once."""
_AT_ONCE: Final = 200
"""Changes that are taken over or claimed at once: each may take some 100 kB."""
_u = untold.c
_RETURNED: Final = (_u.number, _u.version, _u.body)


class Handed(msgspec.Struct):
    """What a node has to tell now."""

    entries: list[Entry]
    """Of each execution in the order of its versions."""
    held: set[int]
    """Executions of which there is more, that comes with a later claim."""


class ExecutionOutbox:
    """The entries of one database, for one node that is called ``owner``."""

    def __init__(
        self, writer: Writer, clock: Callable[[], int], *, owner: str, lease: float, postgres: bool
    ) -> None:
        self._writer = writer
        self._clock = clock
        self._lease_ms = int(lease * 1000)
        self._owner = owner
        self._take_over = self._taken(_u.owner != owner, postgres=postgres)
        self._take_all = self._taken(postgres=postgres)
        due = select(_u.number).where(_u.lease_ms < bindparam("now")).order_by(_u.lease_ms).limit(_CLAIM)
        locked = select(executions.c.number).where(executions.c.number.in_(due)).order_by(executions.c.number)
        self._due = locked.with_for_update(skip_locked=True) if postgres else locked
        self._forget_told = delete(untold).where(_u.number == bindparam("k"), _u.version == bindparam("v"))
        self._forget_told = self._forget_told.where(_u.owner == owner)

    def _taken(self, *terms: Any, postgres: bool) -> Any:
        wanted = among(_u.number, "numbers", postgres=postgres)
        first = select(_u.number, _u.version).where(wanted, *terms).order_by(_u.number, _u.version)
        first = first.limit(_AT_ONCE)
        if postgres:  # a row that is being deleted has been told: no reason to wait for it
            first = first.with_for_update(skip_locked=True)
        statement = update(untold).where(tuple_(_u.number, _u.version).in_(first))
        return statement.values(owner=self._owner, lease_ms=bindparam("until")).returning(*_RETURNED)

    def add(
        self, connection: Connection, found: Sequence[tuple[Entry, str]], numbers: Iterable[int]
    ) -> Handed:
        """In a writer's transaction that holds the rows of ``numbers``: add entries with their texts.

        Gives what is to be told now, in its order: those that were other nodes' until now, and these. While
        there are too many others, these come with :meth:`claim`, and their executions are held.
        """
        until = self._clock() + self._lease_ms
        taken = connection.execute(self._take_over, {"numbers": ids_json(numbers), "until": until})
        handed = _handed(taken)
        if not handed.held:
            handed.entries += [entry for entry, _ in found]
        else:
            handed.held = set(numbers)
            until = 0
        rows = [
            {
                "number": entry.number, "version": entry.version, "body": body, "owner": self._owner,
                "lease_ms": until,
            }
            for entry, body in found
        ]  # fmt: skip
        insert_new(connection, untold, rows, ())
        return handed

    async def claim(self, then: Callable[[Handed], None]) -> int:
        """Give ``then`` the untold changes of executions of which one's lease is over; how many.

        They are this node's for ``store.lease`` seconds. Raises what ``Writer.write`` raises.
        """
        handed: Handed = await self._writer.write(self._claim, None, rows=50, then=then)
        return len(handed.entries)

    def told(self, entries: Iterable[Entry]) -> bool:
        """Forget what has been told, with one of the next commits; waits for nothing.

        False when too much is waiting for the database: then they are told once more.
        """
        return self._writer.post(self._forget, list(entries))

    def _claim(self, connection: Connection, jobs: Sequence[Job]) -> None:
        for job in jobs:
            now = self._clock()
            numbers = list(connection.execute(self._due, {"now": now}).scalars())
            job.result = Handed([], set())
            if numbers:
                parameters = {"numbers": ids_json(numbers), "now": now, "until": now + self._lease_ms}
                job.result = _handed(connection.execute(self._take_all, parameters))

    def _forget(self, connection: Connection, jobs: Sequence[Job]) -> None:
        told = sorted((entry.number, entry.version) for job in jobs for entry in job.payload)
        connection.execute(self._forget_told, [{"k": number, "v": version} for number, version in told])

    def count(self, connection: Connection) -> int:
        """How many changes are not told, of all nodes."""
        return connection.execute(select(func.count()).select_from(untold)).scalar_one()


def _handed(rows: Iterable[Any]) -> Handed:
    entries = sorted((entry_from(*row) for row in rows), key=_order)
    return Handed(entries, {entries[-1].number} if len(entries) >= _AT_ONCE else set())


def _order(entry: Entry) -> tuple[int, int]:
    return entry.number, entry.version
