"""Notifications: created by services, stored in a database, read by their users."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import trio

from gateway.auth.identity import Identity
from gateway.operations.fields import bad, check_json, check_length, check_text, check_user
from gateway.operations.inbox import Inbox
from gateway.operations.rules import organisation, require_service
from protocol.errors import ErrorCode, ProtocolError
from protocol.names import check_mid
from protocol.values import check_value

if TYPE_CHECKING:
    from gateway.store import Changed, Created

__all__ = [
    "MAX_ACTION",
    "MAX_DATA",
    "MAX_MESSAGE",
    "MAX_PAGE",
    "MAX_TITLE",
    "MAX_USERS",
    "Kind",
    "Notifications",
]

Kind = Literal["info", "success", "warning", "error"]

MAX_USERS: Final = 1000
MAX_PAGE: Final = 100
MAX_TITLE: Final = 200
"""Characters."""
MAX_MESSAGE: Final = 2000
"""Characters."""
MAX_DATA: Final = 4096
"""Bytes of JSON."""
MAX_ACTION: Final = 2048
"""Bytes of JSON."""
_DEPTH: Final = 8
"""Containers inside each other in ``data`` and ``action``: events, pages and replies wrap them in more."""
_GREETING: Final = 0.5
"""Seconds that the greeting waits for the number of unread notifications."""

_KINDS: Final = frozenset({"info", "success", "warning", "error"})
_ACTION_FIELDS: Final = frozenset({"type", "label", "payload"})
_IGNORED: Final = re.compile(r"[\x00-\x20\x7f-\xa0\u200b-\u200f\u2028\u2029\ufeff]+")
"""What browsers skip before or inside of the scheme of an address, and a little more."""
_SCRIPTS: Final = ("javascript:", "data:", "vbscript:")


class Notifications:
    """All raise NOT_FOUND if the setting ``database`` is ``none``; DATABASE_UNAVAILABLE while the database is
    unavailable; OVERLOADED when too much is waiting for it; and TIMEOUT if it is unknown whether the
    change was stored: repeat it with the same ``mid``.
    """

    __slots__ = ("inbox",)

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox

    async def create(
        self,
        identity: Identity,
        users: Sequence[str],
        *,
        type: str,
        title: str,
        message: str,
        data: Any = None,
        action: Any = None,
        expires_at: int | None = None,
        mid: str | None = None,
        org: str | None = None,
    ) -> Created:
        """One notification for each of 1 to ``MAX_USERS`` users: stored when this returns, published at once.

        ``type`` is info, success, warning or error. ``action`` is a map of ``type``, and optionally ``label``
        and ``payload``, without text that begins like a script address. ``expires_at`` is in milliseconds
        since 1970 and in the future. The same ``mid`` in the organisation gets the first answer.

        Raises FORBIDDEN without the role service; WRONG_ORGANISATION; BAD_FIELD, TOO_LARGE.
        """
        require_service(identity, "creating notifications")
        org = organisation(identity, org)
        if not 1 <= len(users) <= MAX_USERS:
            raise bad("users", f"1 to {MAX_USERS:,} are allowed")
        for user in users:
            check_user(user, "users")
        if type not in _KINDS:
            raise bad("type", f"one of {', '.join(sorted(_KINDS))}")
        check_text("title", title, MAX_TITLE)
        check_length("message", message, MAX_MESSAGE)
        check_value(message, "message")
        if mid is not None:
            check_mid(mid)
        if expires_at is not None and not time.time() * 1000 < expires_at < 2**53:
            raise bad("expires_at", "must be in the future, in milliseconds since 1970")
        check_json("data", data, MAX_DATA, depth=_DEPTH)
        if action is not None:
            _check_action(action)
        created = await self.inbox.store.notifications.create(
            org,
            users,
            type=type,  # type: ignore[arg-type]  # checked above
            title=title,
            message=message,
            data=data,
            action=action,
            expires_ms=expires_at,
            sender=identity.user,
            mid=mid,
        )
        self.inbox.deliver(created.entries)
        return created

    async def list(
        self,
        identity: Identity,
        *,
        user: str | None = None,
        unread: bool = False,
        type: Kind | None = None,
        limit: int = 50,
        cursor: str | None = None,
        org: str | None = None,
    ) -> dict[str, Any]:
        """``notifications`` of the user, at most ``limit`` (1 to ``MAX_PAGE``), newest first.

        ``unread`` is the number of unread ones, up to ``store.unread_maximum``; ``next`` is the cursor of the
        next page, if there is one. Raises BAD_FIELD for a cursor of another list, and what :meth:`read`
        raises.
        """
        org, user = _owner(identity, org, user)
        if not 1 <= limit <= MAX_PAGE:
            raise bad("limit", f"1 to {MAX_PAGE} are allowed")
        if type is not None and type not in _KINDS:
            raise bad("type", f"one of {', '.join(sorted(_KINDS))}")
        store = self.inbox.store.notifications
        page = await store.list(org, user, unread=unread, type=type, limit=limit, cursor=cursor)
        answer: dict[str, Any] = {
            "notifications": [each.as_data() for each in page.notifications],
            "unread": await store.unread_count(org, user),
        }
        if page.next is not None:
            answer["next"] = page.next
        return answer

    async def read(
        self, identity: Identity, id: str, *, user: str | None = None, org: str | None = None
    ) -> int:
        """Mark one as read, even if it already is; returns the number of unread ones.

        Raises FORBIDDEN for another user without the role service, WRONG_ORGANISATION, MISSING_FIELD if
        neither the token nor the call names a user, NOT_FOUND for an unknown id or another user's.
        """
        org, user = _owner(identity, org, user)
        number, store = _number(id), self.inbox.store.notifications
        changed = await store.read(org, user, [number])
        if not changed.ids and not await store.has(org, user, number):
            raise _unknown()
        return self._told(changed)

    async def read_all(self, identity: Identity, *, user: str | None = None, org: str | None = None) -> int:
        """Mark all present ones as read; returns the number of unread ones. Raises as :meth:`read`."""
        org, user = _owner(identity, org, user)
        return self._told(await self.inbox.store.notifications.read_all(org, user))

    async def delete(
        self, identity: Identity, id: str, *, user: str | None = None, org: str | None = None
    ) -> int:
        """Delete one; returns the number of unread ones. Raises as :meth:`read`."""
        org, user = _owner(identity, org, user)
        changed = await self.inbox.store.notifications.delete(org, user, [_number(id)])
        if not changed.ids:
            raise _unknown()
        return self._told(changed)

    async def glance(self, identity: Identity) -> int | None:
        """The number of unread ones, for the greeting; None if the answer does not come soon."""
        if not self.inbox.enabled or identity.user is None or self.inbox.ready() is not None:
            return None
        with trio.move_on_after(_GREETING):
            try:
                return await self.inbox.store.notifications.unread_count(identity.org, identity.user)
            except ProtocolError:
                return None
        return None

    def _told(self, changed: Changed) -> int:
        self.inbox.deliver(changed.entries)
        return changed.unread


def _unknown() -> ProtocolError:
    return ProtocolError(ErrorCode.NOT_FOUND, "this user has no such notification")


def _number(id: str) -> int:
    if id.isascii() and id.isdecimal() and len(id) <= 19:
        return int(id)
    raise _unknown()


def _owner(identity: Identity, org: str | None, user: str | None) -> tuple[str, str]:
    """Whose notifications a request is about."""
    org = organisation(identity, org)
    if user is None:
        if identity.user is None or org != identity.org:
            raise ProtocolError(ErrorCode.MISSING_FIELD, "user: is missing; the token names none there")
        return org, identity.user
    if user != identity.user or org != identity.org:
        require_service(identity, "another user's notifications: this")
    check_user(user, "user")
    return org, user


def _check_action(action: Any) -> None:
    if not isinstance(action, dict):
        raise bad("action", "must be a map")
    check_json("action", action, MAX_ACTION, depth=_DEPTH)
    if unknown := set(action) - _ACTION_FIELDS:
        raise bad("action", f"has no field {min(unknown)[:100]!r}")
    if "type" not in action:
        raise ProtocolError(ErrorCode.MISSING_FIELD, "action.type: is missing")
    for field in ("type", "label"):
        value = action.get(field, "-")
        if not isinstance(value, str):
            raise bad(f"action.{field}", "must be text")
        check_text(f"action.{field}", value, MAX_TITLE)
    layer: list[Any] = [action]
    while layer:
        for text in layer:
            if isinstance(text, str) and _IGNORED.sub("", text).lower().startswith(_SCRIPTS):
                raise bad("action", "must not hold an address that runs as a script (javascript:, data:)")
        maps = [inner for each in layer if isinstance(each, dict) for inner in (*each, *each.values())]
        layer = maps + [inner for each in layer if isinstance(each, list | tuple) for inner in each]
