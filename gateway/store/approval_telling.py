"""What a change of approvals tells: inbox items that come and go, events in the outbox, notes for the audit.

In the writer's thread, and for all approvals of a transaction at once: the number of statements does not grow
with theirs, or a deadline that many share would be met late.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from sqlalchemy import Connection

from gateway.config.settings import StoreSettings
from gateway.store import approval_queries as queries
from gateway.store.approval_tables import approval_audit, approval_users
from gateway.store.approval_values import APPROVE, DECIDED, PENDING, TASK_APPROVED, Approval, Origin
from gateway.store.ids import Ids
from gateway.store.outbox import Entry, Outbox, entry_of
from gateway.store.rows import ids_json, insert_new, json_text
from gateway.store.tables import notifications
from gateway.store.values import Notification

__all__ = ["Telling"]


class Telling:
    """Each method is for a transaction of the writer."""

    def __init__(
        self, outbox: Outbox, settings: StoreSettings, ids: Ids, clock: Callable[[], int], *, postgres: bool
    ) -> None:
        self._outbox = outbox
        self._settings = settings
        self._ids = ids
        self._clock = clock
        self._told = queries.told_of(postgres=postgres)
        self._delete = queries.delete_notifications(postgres=postgres)
        self._unread_of = queries.unread_of(postgres=postgres)

    def asked(
        self, connection: Connection, found: Sequence[tuple[Approval, Sequence[str]]]
    ) -> list[list[Entry]]:
        """Note for each approval that these users are asked, and put it into their inboxes; its entries."""
        items: list[tuple[int, Approval, Notification, str]] = []
        for place, (approval, users) in enumerate(found):
            first = _notification(approval, self._clock())
            items += [
                (place, approval, msgspec.structs.replace(first, id=self._ids.next()), user) for user in users
            ]
        insert_new(
            connection,
            approval_users,
            [
                {"approval": approval.id, "user_id": user, "org": approval.org, "notification": item.id}
                for _, approval, item, user in items
            ],
            (),
        )
        rows = [
            {
                "id": item.id, "org": approval.org, "user_id": user, "mid": item.mid, "type": item.type,
                "title": item.title, "message": item.message, "data": json_text(item.data),
                "action": json_text(item.action), "sender": item.sender, "created_ms": item.created_ms,
            }
            for _, approval, item, user in items
        ]  # fmt: skip
        insert_new(connection, notifications, rows, ())
        self._outbox.add_notifications(connection, rows)
        pending = [(approval, PENDING, user) for _, approval, _, user in items]
        entries: list[list[Entry]] = [[] for _ in found]
        for place, approval, item, user in items:
            entries[place].append(entry_of(item, approval.org, user))
        for (place, *_), entry in zip(items, self._outbox.add_approvals(connection, pending), strict=True):
            entries[place].append(entry)
        return entries

    def decided(self, connection: Connection, found: Sequence[Approval]) -> list[list[Entry]]:
        """Take each out of the inboxes of who was asked, and tell them and the execution; its entries."""
        if not found:
            return []
        asked = connection.execute(self._told, {"ids": ids_json(each.id for each in found)}).all()
        now = max(each.decided_ms or 0 for each in found)
        items = ids_json(row.notification for row in asked)
        deleted = set(connection.execute(self._delete, {"ids": items, "now": now}).scalars())
        unread: dict[tuple[str, str], int] = {}
        for org in {row.org for row in asked}:
            users = {row.user_id for row in asked if row.org == org and row.notification in deleted}
            wanted = {"o": org, "users": ids_json(users), "now": now, "n": self._settings.unread_maximum}
            unread |= {(org, row.user_id): row.unread for row in connection.execute(self._unread_of, wanted)}
        users_of: dict[int, list[str]] = {each.id: [] for each in found}
        gone = []
        for row in asked:
            users_of[row.approval].append(row.user_id)
            if row.notification in deleted:
                data = {"ids": [str(row.notification)], "unread": unread[row.org, row.user_id]}
                gone.append((row.approval, ("notification:deleted", row.org, row.user_id, data)))
        told = []
        for approval in found:
            places = [*users_of[approval.id], *([] if approval.execution is None else [""])]
            told += [(approval, DECIDED, place) for place in places]
            if approval.task is not None and approval.choice == APPROVE:
                told += [(approval, TASK_APPROVED, place) for place in places]
        entries: dict[int, list[Entry]] = {each.id: [] for each in found}
        removals = self._outbox.add(connection, [what for _, what in gone])
        for (id, _), entry in zip(gone, removals, strict=True):
            entries[id].append(entry)
        for (approval, *_), entry in zip(told, self._outbox.add_approvals(connection, told), strict=True):
            entries[approval.id].append(entry)
        return [entries[each.id] for each in found]

    def note(self, connection: Connection, found: Sequence[tuple[Approval, str, str | None, Origin]]) -> None:
        """For the audit: approval, what was done to it, by whom and from where."""
        rows = [
            {
                "id": self._ids.next(), "approval": approval.id, "action": action,
                "at_ms": approval.decided_ms or approval.created_ms, "user_id": user,
                "address": origin.address, "connection": origin.connection, "choice": approval.choice,
            }
            for approval, action, user, origin in found
        ]  # fmt: skip
        insert_new(connection, approval_audit, rows, ())


def _notification(approval: Approval, now: int) -> Notification:
    return Notification(
        id=0,
        mid=f"approval-{approval.id}",
        type="info",
        title=approval.title,
        message=approval.message or approval.title,
        data={"approval": approval.name},
        action={"type": "approval", "payload": {"approval": approval.name}},
        sender=approval.sender,
        created_ms=now,
    )
