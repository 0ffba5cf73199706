"""Approvals: asked once, decided once, by whoever sets ``decided_ms`` first; at the deadline by any node.

What a change tells is committed with it: the inbox items of who is asked come and go in the same transaction,
and the outbox has an entry for each of them, and for the execution's room.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection

from gateway.config.settings import StoreSettings
from gateway.store import approval_queries as queries
from gateway.store.approval_changes import Asked, Changes, Decision, Verdict
from gateway.store.approval_values import Approval, Origin, Status, approval_of
from gateway.store.cursors import cursor_of, position_of
from gateway.store.database import Database
from gateway.store.ids import Ids
from gateway.store.outbox import Outbox
from gateway.store.rows import check_text, ids_json, json_text
from gateway.store.writer import Writer
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["Approvals", "Asked", "Pulse", "Verdict"]

_LAST: Final = 2**63 - 1


class Pulse(msgspec.Struct, frozen=True):
    """What :meth:`Approvals.pulse` saw."""

    now_ms: int
    deadline_ms: int | None
    """The next deadline, which may be over; None while nothing is open."""
    closed: list[int]
    """Those of the ids asked for that are not open any more."""
    roles: list[tuple[int, str, str]]
    """Id, organisation and role of the newest open ones that ask a role."""


class Approvals:
    """All raise ``ProtocolError``: BAD_FIELD, and what ``Writer.write`` or ``Database.read`` raises."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        outbox: Outbox,
        settings: StoreSettings,
        ids: Ids,
        clock: Callable[[], int],
    ) -> None:
        self._database = database
        self._writer = writer
        self._settings = settings
        self._clock = clock
        self._postgres = postgres = database.postgresql
        self._changes = Changes(outbox, settings, ids, clock, postgres=postgres)
        self.remove_old = self._changes.remove_old
        self._closed = queries.closed_among(postgres=postgres)

    async def create(
        self,
        org: str,
        *,
        title: str,
        choices: Sequence[str],
        deadline: float | None = None,
        users: Sequence[str] = (),
        role: str | None = None,
        name: str | None = None,
        message: str | None = None,
        data: Any = None,
        fallback: str | None = None,
        execution: str | None = None,
        task: str | None = None,
        sender: str | None = None,
        address: str | None = None,
        connection: str | None = None,
    ) -> Asked:
        """Ask ``users``, or a ``role``, for ``deadline`` seconds (default: ``store.approvals_longest``).

        The same ``name`` in the organisation answers with the first one as it stands now, for as long as it
        is kept; then the rest of the call counts for nothing. Raises TOO_MANY_APPROVALS.
        """
        now = self._clock()
        users = list(dict.fromkeys(users))
        longest = self._settings.approvals_longest
        for text in (org, name, title, message, role, execution, task, sender, fallback, *users, *choices):
            if text is not None:
                check_text("approval", text)
        approval = Approval(
            id=0, name=name or f"{now:x}-{secrets.token_urlsafe(9)}", org=org, title=title, message=message,
            data=data, choices=tuple(choices), users=tuple(users), role=role,
            deadline_ms=now + max(1, int(1000 * min(longest, longest if deadline is None else deadline))),
            fallback=fallback, execution=execution, task=task, sender=sender, created_ms=now,
        )  # fmt: skip
        row = _row_of(approval)
        size = 200 + sum(len(value.encode()) for value in row.values() if isinstance(value, str))
        asked: Asked = await self._writer.write(
            self._changes.create,
            (approval, {**row, "size": size}, Origin(address, connection)),
            rows=4 * len(users) + 4,
            size=size + len(users) * (len(title) + len(message or "") + 400),
        )
        return asked

    async def reach(self, id: int, users: Iterable[str]) -> Asked | None:
        """Tell those ``users`` of an open approval that have not been told yet, up to the bound of all.

        For users of the role that it asks. None when it is not open any more.
        """
        names = list(users)
        asked: Asked | None = await self._writer.write(
            self._changes.reach, (id, names), rows=3 * len(names) + 1, size=500 * len(names)
        )
        return asked

    async def get(self, org: str, name: str) -> Approval | None:
        """The approval as it stands now."""
        check_text("org", org)
        check_text("id", name)

        def fetch(connection: Connection) -> Approval | None:
            row = connection.execute(queries.NAMED, {"o": org, "name": name}).first()
            return None if row is None else approval_of(row)

        return await self._database.read(fetch)

    async def is_asked(self, id: int, user: str) -> bool:
        """Whether the user was told of it."""
        check_text("user", user)
        asked = {"id": id, "u": user}
        return await self._database.read(
            lambda connection: connection.execute(queries.IS_ASKED, asked).first() is not None
        )

    async def audit(self, id: int) -> list[dict[str, Any]]:
        """Who did what to it, when and from where, the first of it first."""

        def fetch(connection: Connection) -> list[dict[str, Any]]:
            rows = connection.execute(queries.AUDIT, {"id": id})
            return [_shown(row) for row in rows]

        return await self._database.read(fetch)

    async def list(
        self,
        org: str,
        *,
        user: str | None = None,
        roles: Iterable[str] = (),
        status: Status | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> tuple[list[Approval], str | None]:
        """A page, newest first, and the cursor of the next one: of the whole organisation, or with ``user``
        of those that ask the user or one of the ``roles``. Raises BAD_FIELD for a cursor of another list."""
        of = ("approvals", org, user, status)
        for field, value in (("org", org), ("user", user)):
            if value is not None:
                check_text(field, value)
        asked = {"o": org, "n": limit + 1, "before": _LAST if cursor is None else position_of(cursor, of)}
        each = [(queries.of_organisation(status), asked)]
        if user is not None:
            each = [(queries.of_user(status), {**asked, "u": user})]
            each += [(queries.of_role(status), {**asked, "asked": role}) for role in roles]

        def fetch(connection: Connection) -> tuple[list[Approval], str | None]:
            lists = [connection.execute(*one).all() for one in each]
            rows = sorted(itertools.chain(*lists), key=lambda row: row.id, reverse=True)
            found = [approval_of(row) for row in rows[:limit]]
            return found, cursor_of(found[-1].id, of) if len(rows) > limit else None

        return await self._database.read(fetch)

    async def decide(
        self,
        org: str,
        name: str,
        *,
        user: str,
        roles: Iterable[str],
        choice: str,
        comment: str | None = None,
        address: str | None = None,
        connection: str | None = None,
    ) -> Verdict:
        """Decide it, if nobody has and its deadline is still to come; else the verdict says what counts.

        Raises NOT_FOUND; FORBIDDEN for a user who is not asked; BAD_FIELD for a choice that is not offered.
        """
        for field, text in (("org", org), ("id", name), ("user", user), ("choice", choice)):
            check_text(field, text)
        check_text("comment", comment or "")
        decision = Decision(org, name, user, frozenset(roles), choice, comment, Origin(address, connection))
        verdict: Verdict = await self._writer.write(
            self._changes.decide, decision, rows=20, size=500 + len(comment or "")
        )
        return verdict

    async def settle(self) -> Sequence[Verdict]:
        """Decide some of those whose deadline is over, by their fallback; an empty list: there are none."""
        verdicts: Sequence[Verdict] = await self._writer.write(self._changes.settle, None, rows=100)
        return verdicts

    async def pulse(self, ids: Iterable[int], roles: int) -> Pulse:
        """The next deadline, which of ``ids`` are decided, and the newest ``roles`` that ask a role."""
        asked = list(ids)

        def fetch(connection: Connection) -> Pulse:
            closed: list[int] = []
            if asked:
                closed = list(connection.execute(self._closed, {"ids": ids_json(asked)}).scalars())
            rows = connection.execute(queries.ROLES_OPEN, {"n": roles})
            return Pulse(
                self._clock(),
                connection.execute(queries.NEXT_DEADLINE).scalar(),
                closed,
                [(row.id, row.org, row.role) for row in rows],
            )

        return await self._database.read(fetch)


def _row_of(approval: Approval) -> dict[str, Any]:
    try:
        data = json_text(approval.data)
    except (TypeError, ValueError, RecursionError):
        raise ProtocolError(ErrorCode.BAD_FIELD, "data: not a value of JSON") from None
    return {
        "org": approval.org,
        "name": approval.name,
        "title": approval.title,
        "message": approval.message,
        "data": data,
        "choices": json_text(approval.choices),
        "users": json_text(approval.users or None),
        "role": approval.role,
        "fallback": approval.fallback,
        "execution": approval.execution,
        "task": approval.task,
        "sender": approval.sender,
        "created_ms": approval.created_ms,
        "deadline_ms": approval.deadline_ms,
    }


def _shown(row: Any) -> dict[str, Any]:
    shown = {"action": row.action, "at": row.at_ms}
    optional = {
        "user": row.user_id,
        "address": row.address,
        "connection": row.connection,
        "choice": row.choice,
    }
    return shown | {name: value for name, value in optional.items() if value is not None}
