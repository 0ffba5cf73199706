"""What changes approvals, in the writer's thread: each change with all that it tells, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from sqlalchemy import Connection, delete

from gateway.config.settings import StoreSettings
from gateway.store import approval_queries as queries
from gateway.store.approval_tables import approval_audit, approval_users, approvals
from gateway.store.approval_values import (
    APPROVE,
    DECIDED,
    PENDING,
    TASK_APPROVED,
    Approval,
    Origin,
    approval_of,
)
from gateway.store.ids import Ids
from gateway.store.outbox import Entry, Outbox, entry_of
from gateway.store.rows import among, ids_json, insert_new, json_text
from gateway.store.tables import notifications
from gateway.store.values import Notification
from gateway.store.writer import Job
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["Asked", "Changes", "Decision", "Verdict"]

_DUE_AT_ONCE: Final = 50
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
        self._outbox = outbox
        self._settings = settings
        self._ids = ids
        self._clock = clock
        self._keep_ms = int(settings.approvals_keep * _DAY_MS)
        self._postgres = postgres
        self._due = queries.due(postgres=postgres)
        self._lock_open = queries.lock_open(postgres=postgres)
        self._unread_of = queries.unread_of(postgres=postgres)

    def remove_old(self, connection: Connection, now: int) -> int:
        """Remove some that were decided longer than ``store.approvals_keep`` ago; how many."""
        old = {"before": now - self._keep_ms, "n": _OLD_AT_ONCE}
        ids = ids_json(connection.execute(queries.OLD, old).scalars())
        for column in (approval_audit.c.approval, approval_users.c.approval, approvals.c.id):
            removal = delete(column.table).where(among(column, "ids", postgres=self._postgres))
            removed = connection.execute(removal, {"ids": ids}).rowcount
        return removed

    def create(self, connection: Connection, jobs: Sequence[Job]) -> None:
        for job in jobs:
            approval, row, origin = job.payload
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
                    self._note(connection, approval, "created", approval.sender, origin)
                    job.result = Asked(approval, self._tell(connection, approval, approval.users))
                    continue
                known = self._named(connection, approval.org, approval.name)
                assert known is not None, "another node's, which has committed it"
            job.result = Asked(known, [])

    def reach(self, connection: Connection, jobs: Sequence[Job]) -> None:
        for job in jobs:
            id, users = job.payload
            row = connection.execute(self._lock_open, {"id": id}).first()
            if row is None:
                job.result = None
                continue
            approval = approval_of(row)
            told = {row.user_id for row in connection.execute(queries.ASKED, {"id": id})}
            room = self._settings.approvals_reach - len(told)
            fresh = [user for user in dict.fromkeys(users) if user not in told][: max(0, room)]
            job.result = Asked(approval, self._tell(connection, approval, fresh))

    def _tell(self, connection: Connection, approval: Approval, users: Sequence[str]) -> list[Entry]:
        """Note that the users are asked, and put it into their inboxes."""
        if not users:
            return []
        now = self._clock()
        first = Notification(
            id=0, mid=_mid_of(approval), type="info", title=approval.title,
            message=approval.message or approval.title, data={"approval": approval.name},
            action={"type": "approval", "payload": {"approval": approval.name}}, sender=approval.sender,
            created_ms=now,
        )  # fmt: skip
        items = [(msgspec.structs.replace(first, id=self._ids.next()), user) for user in users]
        insert_new(
            connection,
            approval_users,
            [
                {"approval": approval.id, "user_id": user, "org": approval.org, "notification": item.id}
                for item, user in items
            ],
            (),
        )
        rows = [
            {
                "id": item.id, "org": approval.org, "user_id": user, "mid": item.mid, "type": item.type,
                "title": item.title, "message": item.message, "data": json_text(item.data),
                "action": json_text(item.action), "sender": item.sender, "created_ms": now,
            }
            for item, user in items
        ]  # fmt: skip
        insert_new(connection, notifications, rows, ("org", "mid", "user_id"))
        self._outbox.add_notifications(connection, rows)
        return [
            *(entry_of(item, approval.org, user) for item, user in items),
            *self._outbox.add_approval(connection, approval, [(PENDING, user) for user in users]),
        ]

    def decide(self, connection: Connection, jobs: Sequence[Job]) -> None:
        # In one order on all nodes, so that they do not wait for each other in a circle.
        for job in sorted(jobs, key=lambda job: (job.payload.org, job.payload.name)):
            wanted: Decision = job.payload
            approval = self._named(connection, wanted.org, wanted.name)
            if approval is None:
                job.error = ProtocolError(ErrorCode.NOT_FOUND, "there is no such approval")
            elif not self._may(connection, approval, wanted):
                job.error = ProtocolError(ErrorCode.FORBIDDEN, "this user is not asked for this approval")
            elif wanted.choice not in approval.choices:
                offered = ", ".join(approval.choices)
                job.error = ProtocolError(ErrorCode.BAD_FIELD, f"choice: one of {offered}")
            else:
                job.result = self._claim(connection, approval, wanted)

    def _may(self, connection: Connection, approval: Approval, wanted: Decision) -> bool:
        return (
            approval.role in wanted.roles
            if approval.role is not None
            else connection.execute(queries.IS_ASKED, {"id": approval.id, "u": wanted.user}).first()
            is not None
        )

    def _claim(self, connection: Connection, approval: Approval, wanted: Decision) -> Verdict:
        now = self._clock()
        decided = msgspec.structs.replace(
            approval, choice=wanted.choice, comment=wanted.comment, decided_ms=now, decided_by=wanted.user
        )
        if self._set(connection, decided, after=now):
            self._note(connection, decided, "decided", wanted.user, wanted.origin)
            return Verdict(decided, self._tell_decision(connection, decided), won=True)
        # Nobody has decided, but it is too late: the deadline decides now, wherever its job may be.
        late = self._expire(connection, approval)
        if late is not None:
            return msgspec.structs.replace(late, won=False)
        found = self._named(connection, approval.org, approval.name)
        return Verdict(found or approval, [], won=False)

    def settle(self, connection: Connection, jobs: Sequence[Job]) -> None:
        for job in jobs:
            rows = connection.execute(self._due, {"now": self._clock(), "n": _DUE_AT_ONCE}).all()
            found = [self._expire(connection, approval_of(row)) for row in rows]
            job.result = [verdict for verdict in found if verdict is not None]

    def _expire(self, connection: Connection, approval: Approval) -> Verdict | None:
        """Have the deadline decide; None when it has been decided."""
        decided = msgspec.structs.replace(approval, choice=approval.fallback, decided_ms=self._clock())
        if not self._set(connection, decided, after=-1):
            return None
        self._note(connection, decided, "expired" if decided.choice is None else "fallback", None, Origin())
        return Verdict(decided, self._tell_decision(connection, decided), won=True)

    def _set(self, connection: Connection, decided: Approval, *, after: int) -> bool:
        values = {
            "of": decided.id, "after": after, "chosen": decided.choice, "said": decided.comment,
            "now": decided.decided_ms, "u": decided.decided_by,
        }  # fmt: skip
        return connection.execute(queries.DECIDE, values).rowcount == 1

    def _tell_decision(self, connection: Connection, approval: Approval) -> list[Entry]:
        asked = {"o": approval.org, "m": _mid_of(approval), "now": approval.decided_ms}
        deleted = {
            row.user_id: row.id for row in connection.execute(queries.DELETE_NOTIFICATIONS, asked).all()
        }
        asked |= {"users": ids_json(deleted), "n": self._settings.unread_maximum}
        unread = {row.user_id: row.unread for row in connection.execute(self._unread_of, asked)}
        gone = [
            (
                "notification:deleted",
                approval.org,
                user,
                {"ids": [str(deleted[user])], "unread": unread[user]},
            )
            for user in deleted
        ]
        users = [row.user_id for row in connection.execute(queries.ASKED, {"id": approval.id})]
        places = users if approval.execution is None else [*users, ""]
        told = [(DECIDED, place) for place in places]
        if approval.task is not None and approval.choice == APPROVE:
            told += [(TASK_APPROVED, place) for place in places]
        return [
            *self._outbox.add(connection, gone),
            *self._outbox.add_approval(connection, approval, told),
        ]

    def _note(
        self, connection: Connection, approval: Approval, action: str, user: str | None, origin: Origin
    ) -> None:
        row = {
            "id": self._ids.next(), "approval": approval.id, "action": action,
            "at_ms": approval.decided_ms or approval.created_ms, "user_id": user,
            "address": origin.address, "connection": origin.connection, "choice": approval.choice,
        }  # fmt: skip
        insert_new(connection, approval_audit, [row], ())

    def _named(self, connection: Connection, org: str, name: str) -> Approval | None:
        row = connection.execute(queries.NAMED, {"o": org, "name": name}).first()
        return None if row is None else approval_of(row)


def _mid_of(approval: Approval) -> str:
    """The ``mid`` of the notifications about it."""
    return f"approval-{approval.id}"
