"""What is committed and must still be delivered, so that a node's death between the two loses nothing.

An entry is written in the commit of what it tells. The node that wrote it has ``store.lease`` seconds to
deliver it and to call :meth:`Outbox.done`; afterwards :meth:`Outbox.claim` gives it to whoever asks first.
Delivery is at least once: an entry that comes twice has the same ``mid``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import BigInteger, Connection, bindparam, delete, func, insert, literal, select, update

from gateway.config.settings import StoreSettings
from gateway.store.approval_tables import approvals
from gateway.store.approval_values import PENDING, Approval, approval_of
from gateway.store.ids import Ids
from gateway.store.rows import among, ids_json, insert_new, json_text, parse_json
from gateway.store.tables import notifications, outbox
from gateway.store.values import Notification, notification_of
from gateway.store.writer import Job, Writer

__all__ = ["Entry", "Outbox"]

_CLAIM: Final = 200
_NEW: Final = "notification:new"


class Entry(msgspec.Struct, frozen=True):
    """One event for one user, or for a room."""

    id: int
    event: str
    """What clients know it by, such as ``notification:new``."""
    org: str
    user: str
    """To whom; empty for what goes into a room."""
    mid: str
    """The same each time that this entry is delivered."""
    ts: int
    """Milliseconds since 1970 UTC."""
    data: dict[str, Any]
    room: str | None = None
    """Into which room, where it is for no user."""


class Outbox:
    """The entries of one database, for one node that is called ``owner``."""

    def __init__(
        self,
        writer: Writer,
        settings: StoreSettings,
        ids: Ids,
        clock: Callable[[], int],
        *,
        owner: str,
        postgres: bool,
    ) -> None:
        self._writer = writer
        self._lease_ms = int(settings.lease * 1000)
        self._ids = ids
        self._clock = clock
        self.owner = owner
        mine = (among(outbox.c.id, "ids", postgres=postgres), outbox.c.owner == owner)
        self._delete = delete(outbox).where(*mine)
        due = select(outbox.c.id).where(outbox.c.lease_ms < bindparam("now")).order_by(outbox.c.id)
        due = due.limit(bindparam("number"))
        if postgres:
            due = due.with_for_update(skip_locked=True)
        # Looked at again outside: another node may have taken a row while this one waited for its lock.
        self._claim_due = (
            update(outbox)
            .where(outbox.c.id.in_(due), outbox.c.lease_ms < bindparam("now"))
            .values(owner=owner, lease_ms=bindparam("until"))
            .returning(
                outbox.c.id, outbox.c.event, outbox.c.org, outbox.c.user_id, outbox.c.ref, outbox.c.body
            )
        )
        # From the rows that are there already: executemany goes through Python's lock twice for each row.
        self._add_new = insert(outbox).from_select(
            ["id", "event", "org", "user_id", "ref", "owner", "lease_ms"],
            select(
                *(notifications.c.id, literal(_NEW), notifications.c.org, notifications.c.user_id),
                *(notifications.c.id, bindparam("owner"), bindparam("until", type_=BigInteger)),
            ).where(among(notifications.c.id, "ids", postgres=postgres)),
        )
        self._approvals = select(approvals).where(among(approvals.c.id, "ids", postgres=postgres))
        self._referred = select(notifications).where(
            among(notifications.c.id, "ids", postgres=postgres), notifications.c.deleted_ms.is_(None)
        )

    async def claim(self, limit: int = _CLAIM) -> list[Entry]:
        """Take up to ``limit`` entries (at most 1,000) whose lease is over, the oldest first.

        They are this node's for ``store.lease`` seconds; an empty list says that there are none. Raises what
        ``Writer.write`` raises.
        """
        found: list[Entry] = await self._writer.write(self._claim, max(1, min(limit, 1000)))
        return found

    def done(self, ids: Iterable[int]) -> bool:
        """Forget what has been delivered, with one of the next commits.

        Waits for nothing. Entries that this node has lost to another one stay. False when too much waits for
        the database: then they are delivered once more.
        """
        return self._writer.post(self._forget, list(ids))

    def add_notifications(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        """In a writer's transaction: the entries of new notifications, which have the notifications' ids."""
        until = self._clock() + self._lease_ms
        parameters = {"ids": ids_json(row["id"] for row in rows), "owner": self.owner, "until": until}
        connection.execute(self._add_new, parameters)

    def add(
        self, connection: Connection, found: Sequence[tuple[str, str, str, dict[str, Any]]]
    ) -> list[Entry]:
        """In a writer's transaction: entries of (event, org, user, data)."""
        now = self._clock()
        entries = [_entry(self._ids.next(), event, org, user, now, data) for event, org, user, data in found]
        insert_new(
            connection,
            outbox,
            [
                {
                    "id": entry.id, "event": entry.event, "org": entry.org, "user_id": entry.user,
                    "body": json_text([entry.ts, entry.data]), "owner": self.owner,
                    "lease_ms": now + self._lease_ms,
                }
                for entry in entries
            ],
            (),
        )  # fmt: skip
        return entries

    def add_approvals(
        self, connection: Connection, found: Sequence[tuple[Approval, str, str]]
    ) -> list[Entry]:
        """In a writer's transaction: entries of (approval, event, user).

        With an empty user the event goes into the room of the approval's execution.
        """
        now = self._clock()
        entries = [_about(self._ids.next(), event, user, now, approval) for approval, event, user in found]
        insert_new(
            connection,
            outbox,
            [
                {
                    "id": entry.id, "event": entry.event, "org": entry.org, "user_id": entry.user,
                    "ref": approval.id, "body": json_text(now), "owner": self.owner,
                    "lease_ms": now + self._lease_ms,
                }
                for entry, (approval, _, _) in zip(entries, found, strict=True)
            ],
            (),
        )  # fmt: skip
        return entries

    def _claim(self, connection: Connection, jobs: Sequence[Job]) -> None:
        for job in jobs:
            now = self._clock()
            parameters = {"now": now, "until": now + self._lease_ms, "number": job.payload}
            rows = sorted(connection.execute(self._claim_due, parameters), key=lambda row: row.id)
            new = [row.ref for row in rows if row.ref is not None and row.event == _NEW]
            referred = self._notifications(connection, new)
            about = self._asked(connection, {row.ref for row in rows if row.ref is not None} - {*new})
            gone = []
            job.result = []
            for row in rows:
                if row.ref is None:
                    ts, data = parse_json(row.body)
                    job.result.append(_entry(row.id, row.event, row.org, row.user_id, ts, data))
                elif row.event == _NEW and row.ref in referred:
                    job.result.append(entry_of(referred[row.ref], row.org, row.user_id))
                elif row.ref in about and not (row.event == PENDING and about[row.ref].decided_ms):
                    ts = parse_json(row.body)
                    job.result.append(_about(row.id, row.event, row.user_id, ts, about[row.ref]))
                else:
                    gone.append(row.id)  # deleted or decided meanwhile, which its own entry tells
            if gone:
                connection.execute(self._delete, {"ids": ids_json(gone)})

    def _notifications(self, connection: Connection, ids: list[int]) -> dict[int, Notification]:
        if not ids:
            return {}
        rows = connection.execute(self._referred, {"ids": ids_json(ids)})
        return {row.id: notification_of(row) for row in rows}

    def _asked(self, connection: Connection, ids: set[int]) -> dict[int, Approval]:
        if not ids:
            return {}
        rows = connection.execute(self._approvals, {"ids": ids_json(ids)})
        return {row.id: approval_of(row) for row in rows}

    def _forget(self, connection: Connection, jobs: Sequence[Job]) -> None:
        ids = ids_json(id for job in jobs for id in job.payload)
        connection.execute(self._delete, {"ids": ids})

    def count(self, connection: Connection) -> int:
        """How many entries there are, of all nodes."""
        return connection.execute(select(func.count()).select_from(outbox)).scalar_one()


def _entry(id: int, event: str, org: str, user: str, ts: int, data: dict[str, Any]) -> Entry:
    return Entry(id=id, event=event, org=org, user=user, mid=f"{event}-{id}", ts=ts, data=data)


def _about(id: int, event: str, user: str, ts: int, approval: Approval) -> Entry:
    room = None if user else f"execution:{approval.execution}"
    data = approval.told(event)
    mid = f"{event}-{id}"
    return Entry(id=id, event=event, org=approval.org, user=user, mid=mid, ts=ts, data=data, room=room)


def entry_of(notification: Notification, org: str, user: str) -> Entry:
    """The entry that tells of a new notification."""
    return Entry(
        id=notification.id,
        event=_NEW,
        org=org,
        user=user,
        mid=notification.mid,
        ts=notification.created_ms,
        data=notification.as_data(),
    )
