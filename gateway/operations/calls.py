"""What clients may ask of notifications over a socket, with ``call``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from gateway.calls.caller import Caller
from gateway.operations.notifications import Kind, Notifications
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["call_handlers"]

T = TypeVar("T")


class _List(msgspec.Struct, forbid_unknown_fields=True):
    user: str | None = None
    unread: bool = False
    type: Kind | None = None
    limit: int = 50
    cursor: str | None = None


class _One(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    user: str | None = None


class _All(msgspec.Struct, forbid_unknown_fields=True):
    user: str | None = None


def call_handlers(notifications: Notifications) -> dict[str, Callable[[Caller, Any], Awaitable[Any]]]:
    """Name → handler; none where there are no notifications."""
    if not notifications.inbox.enabled:
        return {}

    async def find(caller: Caller, data: Any) -> Any:
        asked = _read(data, _List)
        return await notifications.list(
            caller.identity,
            user=asked.user,
            unread=asked.unread,
            type=asked.type,
            limit=asked.limit,
            cursor=asked.cursor,
        )

    async def read(caller: Caller, data: Any) -> Any:
        asked = _read(data, _One)
        return {"unread": await notifications.read(caller.identity, asked.id, user=asked.user)}

    async def read_all(caller: Caller, data: Any) -> Any:
        asked = _read(data, _All)
        return {"unread": await notifications.read_all(caller.identity, user=asked.user)}

    return {"notifications.list": find, "notifications.read": read, "notifications.read_all": read_all}


def _read(data: Any, shape: type[T]) -> T:
    try:
        return msgspec.convert({} if data is None else data, shape)
    except msgspec.ValidationError as error:
        missing = "missing required field" in str(error)
        code = ErrorCode.MISSING_FIELD if missing else ErrorCode.BAD_FIELD
        raise ProtocolError(code, f"data: {str(error)[:300]}") from None
