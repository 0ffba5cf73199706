"""Creating and changing executions: many callers' writes in one transaction, each judged by itself.

The rows are locked first, in the order of their numbers; then each job is applied to its row in memory, in
the order in which the jobs came, and at last every row that has changed is written once, however many jobs it
had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, text

from gateway.store.executions.days import bucket_of, count_ended
from gateway.store.executions.outbox import ExecutionOutbox, Handed
from gateway.store.executions.tables import executions, updates
from gateway.store.executions.values import ENDED, Change, Entry, Execution, entry_of
from gateway.store.ids import Ids, millisecond_of
from gateway.store.rows import insert_new, update_rows
from gateway.store.writer import Job
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["Creation", "Patch", "Writes", "execution_of"]

_COLUMNS: Final = tuple(executions.c.keys())
_FIXED: Final = frozenset({"org", "id", "agent", "team", "method", "created_ms", "sender", "input"})
_VARIABLE: Final = tuple(name for name in _COLUMNS if name not in _FIXED)
_LIST: Final = ", ".join(f"e.{name}" for name in _COLUMNS)
_FIND: Final = {
    "sqlite": text(
        f"SELECT {_LIST} FROM json_each(:keys) AS k CROSS JOIN executions AS e"
        " WHERE e.org = json_extract(k.value, '$[0]') AND e.id = json_extract(k.value, '$[1]')"
    ),
    "postgresql": text(
        f"SELECT {_LIST} FROM json_array_elements(CAST(:keys AS json)) AS k"
        " JOIN executions AS e ON e.org = k->>0 AND e.id = k->>1 ORDER BY e.number FOR UPDATE OF e"
    ),
}
_CUT: Final = text("DELETE FROM execution_updates WHERE number = :number AND total <= :cut")
_encoder: Final = msgspec.json.Encoder()

_Key = tuple[str, str]


class Creation(msgspec.Struct):
    """A new execution, but for its number."""

    execution: Execution


class Patch(msgspec.Struct):
    """A change of one that should be there."""

    org: str
    id: str
    change: Change


class Applied(msgspec.Struct):
    """What became of one job."""

    row: dict[str, Any]
    handed: Handed | None = None
    """What is to be told now, of the whole transaction."""


def execution_of(row: Any) -> Execution:
    """From a row of the table."""
    return Execution(**{name: getattr(row, name) for name in _COLUMNS})


class _Group:
    """What one transaction has to write."""

    def __init__(self, found: dict[_Key, Execution]) -> None:
        self.known = found
        self.new: list[Execution] = []
        self.touched: dict[int, Execution] = {}
        """Those that have changed, or were heard of."""
        self.ended: list[Execution] = []
        self.updates: list[dict[str, Any]] = []
        self.entries: list[tuple[Entry, str]] = []


class Writes:
    """The works of the writer."""

    def __init__(
        self, outbox: ExecutionOutbox, ids: Ids, clock: Callable[[], int], *, updates_bytes: int
    ) -> None:
        self._outbox = outbox
        self._ids = ids
        self._clock = clock
        self._updates_bytes = updates_bytes

    def apply(self, connection: Connection, jobs: Sequence[Job]) -> None:
        """Do all of them: a payload is a :class:`Creation` or a :class:`Patch`, a result :class:`Applied`."""
        keys = sorted({_key(job.payload) for job in jobs})
        parameters = {"keys": _encoder.encode(keys).decode()}
        rows = connection.execute(_FIND[connection.dialect.name], parameters)
        group = _Group({(row.org, row.id): execution_of(row) for row in rows})
        for job in jobs:
            job.error = None  # of an attempt before
            try:
                if isinstance(job.payload, Creation):
                    job.result = self._create(group, job.payload)
                else:
                    job.result = self._change(group, job.payload)
            except ProtocolError as error:
                job.error = error
        self._write(connection, group)
        self._tell(connection, group, jobs)

    def _create(self, group: _Group, creation: Creation) -> Applied:
        wanted = creation.execution
        key = (wanted.org, wanted.id)
        if key in group.known:
            raise _conflict(f"there is an execution {wanted.id!r} already", group.known[key])
        new = msgspec.structs.replace(wanted, number=self._ids.next())
        # Numbers go up also when the clock is set back; list and counts must agree on the day.
        new.created_ms = new.updated_ms = millisecond_of(new.number)
        if new.status == "running":
            new.started_ms = new.created_ms
        if not new.id:
            new.id = f"{new.number:x}"
            key = (new.org, new.id)
        group.known[key] = new
        group.new.append(new)
        said = {"status": new.status} | ({} if new.sender is None else {"by": new.sender})
        return self._noted(group, new, None, said)

    def _change(self, group: _Group, patch: Patch) -> Applied:
        execution = group.known.get((patch.org, patch.id))
        if execution is None:
            raise ProtocolError(ErrorCode.NOT_FOUND, "there is no such execution")
        change, was, now = patch.change, execution.status, self._clock()
        if change.stale_before is not None and (
            was in ENDED or execution.heartbeat_ms >= change.stale_before
        ):
            return Applied(execution.as_data())  # it has been heard of meanwhile
        changed = execution.apply(change, now)
        if isinstance(changed, str):
            raise _conflict(changed, execution)
        group.touched[execution.number] = execution
        if not changed:
            return Applied(execution.as_data())
        if execution.status != was and execution.status in ENDED:
            execution.bucket = bucket_of(execution.duration_ms)
            group.ended.append(execution)
        said: dict[str, Any] = {
            name: getattr(execution, name) for name in ("status", "progress", "step") if name in changed
        }
        others = [name for name in changed if name not in said]
        if others:
            said["changed"] = others
        if change.sender is not None:
            said["by"] = change.sender
        return self._noted(group, execution, was, said)

    def _noted(self, group: _Group, execution: Execution, was: str | None, said: dict[str, Any]) -> Applied:
        update = {"version": execution.version, "at": execution.updated_ms, **said}
        body = _encoder.encode(update)
        execution.updates_total += len(body)
        group.updates.append(
            {
                "number": execution.number,
                "version": execution.version,
                "total": execution.updates_total,
                "body": body.decode(),
            }
        )
        entry, text = entry_of(execution, was)
        group.entries.append((entry, text))
        return Applied(entry.row)

    def _write(self, connection: Connection, group: _Group) -> None:
        new = {each.number for each in group.new}
        touched = [each for number, each in sorted(group.touched.items()) if number not in new]
        cuts = []
        for each in (*touched, *group.new):
            if each.updates_total - each.updates_cut > self._updates_bytes * 7 // 8:
                # More than needed, so that it is not done each time; the update at the cut stays.
                each.updates_cut = each.updates_total - self._updates_bytes * 5 // 8
                cuts.append({"number": each.number, "cut": each.updates_cut})
        insert_new(connection, executions, [msgspec.structs.asdict(each) for each in group.new], ())
        update_rows(
            connection,
            executions,
            [{name: getattr(each, name) for name in _VARIABLE} for each in touched],
            "number",
        )
        insert_new(connection, updates, group.updates, ())
        if cuts:
            connection.execute(_CUT, cuts)
        count_ended(connection, group.ended)

    def _tell(self, connection: Connection, group: _Group, jobs: Sequence[Job]) -> None:
        if not group.entries:
            return
        numbers = sorted({entry.number for entry, _ in group.entries})
        handed = self._outbox.add(connection, group.entries, numbers)
        for job in jobs:
            if job.error is None:  # one of them carries all, since their order is that of the whole
                job.result.handed = handed
                return


def _key(payload: Creation | Patch) -> _Key:
    if isinstance(payload, Creation):
        return payload.execution.org, payload.execution.id
    return payload.org, payload.id


def _conflict(reason: str, execution: Execution) -> ProtocolError:
    return ProtocolError(ErrorCode.CONFLICT, reason, details={"execution": execution.as_data()})
