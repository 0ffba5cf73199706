"""Notifications: created for users, listed, counted, read, deleted; removed when their time is over."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, get_args

import msgspec
from sqlalchemy import Connection, Update

from gateway.config.settings import StoreSettings
from gateway.store.cursors import cursor_of, position_of
from gateway.store.database import Database
from gateway.store.ids import Ids
from gateway.store.outbox import Entry, Outbox, entry_of
from gateway.store.queries import KNOWN, MARK_ALL_READ, NEWEST_UNREAD, ONE, UNREAD, mark, page
from gateway.store.rows import check_text, ids_json, insert_new, json_text
from gateway.store.tables import notifications
from gateway.store.values import Kind, Notification, notification_of
from gateway.store.writer import Job, Writer
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["Changed", "Created", "Notifications", "Page"]

_MAX_USERS: Final = 1000
_MAX_PAGE: Final = 500
_READ_AT_ONCE: Final = 1000
"""Rows that one transaction of ``read_all`` changes: others wait for it."""

_Rows = list[dict[str, Any]]


class Created(msgspec.Struct, frozen=True):
    """What :meth:`Notifications.create` did."""

    ids: dict[str, int]
    """User → id, the same for the same ``mid``."""
    entries: list[Entry]
    """To be delivered, and then given to ``Outbox.done``; none for users who had it before."""


class Changed(msgspec.Struct, frozen=True):
    """What ``read``, ``read_all`` or ``delete`` did."""

    ids: list[int]
    """Those that were changed; empty for ``read_all``."""
    unread: int
    """Afterwards, counted up to ``store.unread_maximum``."""
    entries: list[Entry]
    """To be delivered, and then given to ``Outbox.done``."""
    count: int
    """How many were changed."""


class Page(msgspec.Struct, frozen=True):
    """A part of a list, newest first."""

    notifications: list[Notification]
    next: str | None
    """The cursor of the next page; None when this was the last one."""


_KINDS: Final = get_args(Kind)
_ROW_BYTES: Final = 250
"""What a row counts in the writer's queue beside its texts without a bound."""


class _Creation(msgspec.Struct):
    row: dict[str, Any]
    users: list[str]


class Notifications:
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
        self._outbox = outbox
        self._maximum = settings.unread_maximum
        self._ids = ids
        self._clock = clock
        self._process = secrets.token_urlsafe(9)
        """Of this process, in the ``mid`` of what has none."""
        self._numbers = itertools.count(1)
        postgres = database.postgresql
        self._read_statement = mark(notifications.c.read_ms, postgres=postgres)
        self._delete_statement = mark(notifications.c.deleted_ms, postgres=postgres)

    async def create(
        self,
        org: str,
        users: Sequence[str],
        *,
        type: Kind,
        title: str,
        message: str,
        data: Any = None,
        action: dict[str, Any] | None = None,
        expires_ms: int | None = None,
        sender: str | None = None,
        mid: str | None = None,
    ) -> Created:
        """One notification for each of 1 to 1,000 users, in one commit.

        The same ``mid`` in the same organisation answers with the first one's ids, for as long as the
        notification is kept; then the rest of the call counts for nothing. ``data`` and ``action`` are values
        of JSON; ``expires_ms`` (milliseconds since 1970) is in the future.
        """
        now = self._clock()
        users = list(dict.fromkeys(users))
        if not 1 <= len(users) <= _MAX_USERS:
            raise ProtocolError(ErrorCode.BAD_FIELD, f"users: 1 to {_MAX_USERS:,} are allowed")
        if type not in _KINDS:
            raise ProtocolError(ErrorCode.BAD_FIELD, f"type: one of {', '.join(_KINDS)}")
        if expires_ms is not None and not now < expires_ms < 2**53:
            raise ProtocolError(ErrorCode.BAD_FIELD, "expires_at: not in the future")
        mid = (
            mid or f"{now:x}-{self._process}{next(self._numbers):x}"
        )  # in the order of time: easy on the index
        check_text("org", org)
        check_text("mid", mid)
        check_text("title", title)
        check_text("message", message)
        if sender is not None:
            check_text("sender", sender)
        for user in users:
            check_text("users", user)
        stored_data, stored_action = _json("data", data), _json("action", action)
        row = {
            "org": org,
            "mid": mid,
            "type": type,
            "title": title,
            "message": message,
            "data": stored_data,
            "action": stored_action,
            "sender": sender,
            "created_ms": now,
            "expires_ms": expires_ms,
        }
        size = len(title) + len(message) + len(stored_data or "") + len(stored_action or "") + _ROW_BYTES
        ids, fresh = await self._writer.write(
            self._insert,
            _Creation(row, users),
            rows=len(users),
            size=size * len(users) + sum(map(len, users)),
        )
        entries = []
        for user in users:
            if user in fresh:
                told = Notification(
                    id=ids[user], mid=mid, type=type, title=title, message=message, data=data, action=action,
                    sender=sender, created_ms=now, expires_ms=expires_ms,
                )  # fmt: skip
                entries.append(entry_of(told, org, user))
        return Created(ids, entries)

    async def list(
        self,
        org: str,
        user: str,
        *,
        unread: bool = False,
        type: Kind | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """A page of up to ``limit`` (1 to 500), newest first, without deleted and expired ones.

        What is created while somebody turns pages moves nothing. Raises BAD_FIELD for a cursor of another
        user or of other filters.
        """
        if not 1 <= limit <= _MAX_PAGE:
            raise ProtocolError(ErrorCode.BAD_FIELD, f"limit: 1 to {_MAX_PAGE} are allowed")
        of = ("notifications", org, user, unread, type)
        for field, value in (("org", org), ("user", user), ("type", type)):
            if value is not None:
                check_text(field, value)
        statement = page(unread, type is not None, cursor is not None)
        asked = {**self._user(org, user), "n": limit + 1, "t": type}
        if cursor is not None:
            asked["before"] = position_of(cursor, of)

        def fetch(connection: Connection) -> Page:
            rows = [notification_of(row) for row in connection.execute(statement, asked)]
            following = cursor_of(rows[limit - 1].id, of) if len(rows) > limit else None
            return Page(rows[:limit], following)

        return await self._database.read(fetch)

    async def unread_count(self, org: str, user: str) -> int:
        """How many the user has not read, counted up to ``store.unread_maximum``."""
        check_text("org", org)
        check_text("user", user)
        return await self._database.read(lambda connection: self._unread(connection, org, user))

    async def has(self, org: str, user: str, id: int) -> bool:
        """Whether the user has it, read or not, and it is neither deleted nor expired."""
        if not 0 <= id < 2**63:
            return False
        asked = {**self._user(org, user), "id": id}
        return await self._database.read(
            lambda connection: connection.execute(ONE, asked).first() is not None
        )

    async def read(self, org: str, user: str, ids: Iterable[int]) -> Changed:
        """Mark those of the user as read; others, and those read before, stay as they are."""
        changed: Changed = await self._change(self._mark_read, org, user, ids)
        return changed

    async def delete(self, org: str, user: str, ids: Iterable[int]) -> Changed:
        """Delete those of the user; ``Changed.ids`` lacks those that were not there."""
        changed: Changed = await self._change(self._mark_deleted, org, user, ids)
        return changed

    async def _change(self, work: Any, org: str, user: str, ids: Iterable[int]) -> Any:
        check_text("org", org)
        check_text("user", user)
        asked = [id for id in dict.fromkeys(ids) if 0 <= id < 2**63]
        if len(asked) > _MAX_USERS:
            raise ProtocolError(ErrorCode.BAD_FIELD, f"ids: at most {_MAX_USERS:,} are allowed")
        return await self._writer.write(
            work, (org, user, asked), rows=max(1, len(asked)), size=20 * len(asked) + 100
        )

    async def read_all(self, org: str, user: str) -> Changed:
        """Mark as read all that the user has when this is called.

        In transactions of 1,000 rows, so that others need not wait; what was marked stays so when a later one
        fails.
        """
        check_text("org", org)
        check_text("user", user)
        upto, total = None, 0
        while True:
            number, upto, changed = await self._writer.write(
                self._mark_all_read, (org, user, upto, total > 0), rows=100, size=100
            )
            total += number
            if changed is not None:
                return Changed([], changed.unread, changed.entries, total)

    def _user(self, org: str, user: str) -> dict[str, Any]:
        return {"o": org, "u": user, "now": self._clock()}

    def _unread(self, connection: Connection, org: str, user: str) -> int:
        asked = {**self._user(org, user), "n": self._maximum}
        number: int = connection.execute(UNREAD, asked).scalar_one()
        return number

    # In the writer's thread.

    def _insert(self, connection: Connection, jobs: Sequence[Job]) -> None:
        rows: _Rows = []
        for job in jobs:
            creation: _Creation = job.payload
            proposed = {user: self._ids.next() for user in creation.users}
            job.result = (proposed, proposed.keys())
            for user, id in proposed.items():
                rows.append({"id": id, "user_id": user, **creation.row})
        number = insert_new(connection, notifications, rows, ("org", "mid", "user_id"))
        if number < len(rows):
            rows = self._without_known(connection, jobs, rows)
        self._outbox.add_notifications(connection, rows)

    def _without_known(self, connection: Connection, jobs: Sequence[Job], rows: _Rows) -> _Rows:
        stored: set[int] = set()
        for job in jobs:
            (proposed, _), users = job.result, job.payload.users
            parameters = {"o": job.payload.row["org"], "m": job.payload.row["mid"]}
            known: dict[str, int] = {row.user_id: row.id for row in connection.execute(KNOWN, parameters)}
            fresh = {user for user in users if known[user] == proposed[user]}
            stored.update(proposed[user] for user in fresh)
            job.result = ({user: known[user] for user in users}, fresh)
        return [row for row in rows if row["id"] in stored]

    def _mark_read(self, connection: Connection, jobs: Sequence[Job]) -> None:
        self._mark(connection, jobs, self._read_statement, "notification:read")

    def _mark_deleted(self, connection: Connection, jobs: Sequence[Job]) -> None:
        self._mark(connection, jobs, self._delete_statement, "notification:deleted")

    def _mark(self, connection: Connection, jobs: Sequence[Job], statement: Update, event: str) -> None:
        for job in jobs:
            org, user, ids = job.payload
            asked = {**self._user(org, user), "ids": ids_json(ids)}
            changed = sorted(connection.execute(statement, asked).scalars())
            unread = self._unread(connection, org, user)
            data = {"ids": [str(id) for id in changed], "unread": unread}
            entries = self._outbox.add(connection, [(event, org, user, data)] if changed else [])
            job.result = Changed(changed, unread, entries, len(changed))

    def _mark_all_read(self, connection: Connection, jobs: Sequence[Job]) -> None:
        for job in jobs:
            org, user, upto, before = job.payload
            asked = self._user(org, user)
            if upto is None:
                upto = connection.execute(NEWEST_UNREAD, asked).scalar_one() or 0
            number = connection.execute(MARK_ALL_READ, {**asked, "upto": upto, "n": _READ_AT_ONCE}).rowcount
            changed = None
            if number < _READ_AT_ONCE:
                unread = self._unread(connection, org, user)
                data = {"all": True, "upto": str(upto), "unread": unread}
                told = [("notification:read", org, user, data)] if number or before else []
                changed = Changed([], unread, self._outbox.add(connection, told), number)
            job.result = (number, upto, changed)


def _json(field: str, value: Any) -> str | None:
    try:
        return json_text(value)
    except (TypeError, ValueError, RecursionError):
        raise ProtocolError(ErrorCode.BAD_FIELD, f"{field}: not a value of JSON") from None
