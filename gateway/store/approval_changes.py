"""What changes approvals, in the writer's thread: each change with all that it tells, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from sqlalchemy import Connection, delete

from gateway.config.settings import StoreSettings
from gateway.store import approval_queries as queries
from gateway.store.approval_tables import approval_audit, approval_users, approvals
from gateway.store.approval_telling import Telling
from gateway.store.approval_values import Approval, Origin, approval_of
from gateway.store.ids import Ids
from gateway.store.outbox import Entry, Outbox
from gateway.store.rows import among, ids_json, insert_new
from gateway.store.writer import Job
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["Asked", "Changes", "Decision", "Verdict"]

_DUE_AT_ONCE: Final = 200
_OLD_AT_ONCE: Final = 200
_DAY_MS: Final = 86_400_000


class Asked(msgspec.Struct, frozen=True):
    """What ``create`` and ``reach`` did."""

    approval: Approval
    entries: list[Entry]
    """To be delivered, and then given to ``Outbox.done``; none when it was known before."""


class Verdict(msgspec.Struct, frozen=True):
    """What ``decide`` did, or what was decided before."""

    approval: Approval
    entries: list[Entry]
    won: bool
    """Whether this decision counts."""


class Decision(msgspec.Struct, frozen=True):
    """What somebody wants to decide."""

    org: str
    name: str
    user: str
    roles: frozenset[str]
    choice: str
    comment: str | None
    origin: Origin


class Changes:
    """Works for the writer; ``job.payload`` is said with each."""

    def __init__(
        self,
        outbox: Outbox,
        settings: StoreSettings,
        ids: Ids,
        clock: Callable[[], int],
        *,
        postgres: bool,
    ) -> None:
        self._settings = settings
        self._ids = ids
        self._clock = clock
        self._keep_ms = int(settings.approvals_keep * _DAY_MS)
        self._postgres = postgres
        self._due = queries.due(postgres=postgres)
        self._lock_open = queries.lock_open(postgres=postgres)
        self._expire_those = queries.expire(postgres=postgres)
        self._telling = Telling(outbox, settings, ids, clock, postgres=postgres)

    def remove_old(self, connection: Connection, now: int) -> int:
        """Remove some that were decided longer than ``store.approvals_keep`` ago; how many."""
        old = {"before": now - self._keep_ms, "n": _OLD_AT_ONCE}
        ids = ids_json(connection.execute(queries.OLD, old).scalars())
        for column in (approval_audit.c.approval, approval_users.c.approval, approvals.c.id):
            removal = delete(column.table).where(among(column, "ids", postgres=self._postgres))
            removed = connection.execute(removal, {"ids": ids}).rowcount
        return removed

    def create(self, connection: Connection, jobs: Sequence[Job]) -> None:
        fresh: list[tuple[Job, Approval]] = []
        for job in jobs:
            job.error = None  # of another try of the transaction
            approval, row, _ = job.payload
            known = self._named(connection, approval.org, approval.name)
            if known is None:
                number, size = connection.execute(queries.LOAD, {"o": approval.org}).one()
                if (
                    number >= self._settings.approvals_open
                    or int(size) + row["size"] > self._settings.approvals_open_bytes
                ):
                    job.error = ProtocolError(
                        ErrorCode.TOO_MANY_APPROVALS, "too many approvals of this organisation are open"
                    )
                    continue
                approval = msgspec.structs.replace(approval, id=self._ids.next())
                if insert_new(connection, approvals, [{**row, "id": approval.id}], ("org", "name")):
                    fresh.append((job, approval))
                    continue
                known = self._named(connection, approval.org, approval.name)
                assert known is not None, "another node's, which has committed it"
            job.result = Asked(known, [])
        self._telling.note(
            connection,
            [(approval, "created", approval.sender, job.payload[2]) for job, approval in fresh],
        )
        told = self._telling.asked(connection, [(approval, approval.users) for _, approval in fresh])
        for (job, approval), entries in zip(fresh, told, strict=True):
            job.result = Asked(approval, entries)

    def reach(self, connection: Connection, jobs: Sequence[Job]) -> None:
        for job in jobs:
            id, users = job.payload
            row = connection.execute(self._lock_open, {"id": id}).first()
            if row is None:
                job.result = None
                continue
            approval = approval_of(row)
            told = set(connection.execute(queries.ASKED, {"id": id}).scalars())
            room = self._settings.approvals_reach - len(told)
            fresh = [user for user in dict.fromkeys(users) if user not in told][: max(0, room)]
            (entries,) = self._telling.asked(connection, [(approval, fresh)])
            job.result = Asked(approval, entries)

    def decide(self, connection: Connection, jobs: Sequence[Job]) -> None:
        claimed: list[tuple[Job, Approval]] = []
        late: list[tuple[Job, Approval]] = []
        # In one order on all nodes, so that they do not wait for each other in a circle.
        for job in sorted(jobs, key=lambda job: (job.payload.org, job.payload.name)):
            job.error = None
            wanted: Decision = job.payload
            approval = self._named(connection, wanted.org, wanted.name)
            if approval is None:
                job.error = ProtocolError(ErrorCode.NOT_FOUND, "there is no such approval")
            elif not _may(approval, wanted):
                job.error = ProtocolError(ErrorCode.FORBIDDEN, "this user is not asked for this approval")
            elif wanted.choice not in approval.choices:
                offered = ", ".join(approval.choices)
                job.error = ProtocolError(ErrorCode.BAD_FIELD, f"choice: one of {offered}")
            elif (decided := self._claim(connection, approval, wanted)) is not None:
                claimed.append((job, decided))
            else:
                late.append((job, approval))
        self._telling.note(
            connection,
            [(each, "decided", each.decided_by, job.payload.origin) for job, each in claimed],
        )
        told = self._telling.decided(connection, [approval for _, approval in claimed])
        for (job, approval), entries in zip(claimed, told, strict=True):
            job.result = Verdict(approval, entries, won=True)
        # Where nobody has decided it is too late: the deadline decides now, wherever its job may be.
        ended = {each.approval.id: each for each in self._expire(connection, [each for _, each in late])}
        for job, approval in late:
            verdict = ended.pop(approval.id, None)
            found = verdict.approval if verdict else self._named(connection, approval.org, approval.name)
            job.result = Verdict(found or approval, verdict.entries if verdict else [], won=False)

    def _claim(self, connection: Connection, approval: Approval, wanted: Decision) -> Approval | None:
        decided = msgspec.structs.replace(
            approval,
            choice=wanted.choice,
            comment=wanted.comment,
            decided_ms=self._clock(),
            decided_by=wanted.user,
        )
        values = {
            "of": decided.id, "after": decided.decided_ms, "chosen": decided.choice,
            "said": decided.comment, "now": decided.decided_ms, "u": decided.decided_by,
        }  # fmt: skip
        return decided if connection.execute(queries.DECIDE, values).rowcount == 1 else None

    def settle(self, connection: Connection, jobs: Sequence[Job]) -> None:
        for job in jobs:
            rows = connection.execute(self._due, {"now": self._clock(), "n": _DUE_AT_ONCE}).all()
            job.result = self._expire(connection, [approval_of(row) for row in rows])

    def _expire(self, connection: Connection, found: Sequence[Approval]) -> list[Verdict]:
        """Have the deadline decide those that nobody has decided."""
        if not found:
            return []
        now = self._clock()
        ids = ids_json({each.id for each in found})
        ended = set(connection.execute(self._expire_those, {"ids": ids, "now": now}).scalars())
        decided = [
            msgspec.structs.replace(each, choice=each.fallback, decided_ms=now)
            for each in {each.id: each for each in found}.values()
            if each.id in ended
        ]
        self._telling.note(
            connection,
            [(each, "expired" if each.choice is None else "fallback", None, Origin()) for each in decided],
        )
        told = self._telling.decided(connection, decided)
        return [Verdict(approval, entries, won=True) for approval, entries in zip(decided, told, strict=True)]

    def _named(self, connection: Connection, org: str, name: str) -> Approval | None:
        row = connection.execute(queries.NAMED, {"o": org, "name": name}).first()
        return None if row is None else approval_of(row)


def _may(approval: Approval, wanted: Decision) -> bool:
    if approval.role is not None:
        return approval.role in wanted.roles
    return wanted.user in approval.users
