"""What the store gives back."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from sqlalchemy import Row

from gateway.store.rows import parse_json

__all__ = ["Kind", "Notification", "notification_of"]

Kind = Literal["info", "success", "warning", "error"]


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """One notification of one user; times are milliseconds since 1970 UTC."""

    id: int
    mid: str
    type: str
    title: str
    message: str
    data: Any = None
    action: Any = None
    sender: str | None = None
    created_ms: int
    expires_ms: int | None = None
    read_ms: int | None = None

    def as_data(self) -> dict[str, Any]:
        """What clients are shown: the id as text, because of JavaScript's numbers; without what is absent."""
        shown: dict[str, Any] = {
            "id": str(self.id),
            "type": self.type,
            "title": self.title,
            "message": self.message,
            "created_at": self.created_ms,
            "read": self.read_ms is not None,
        }
        if self.data is not None:
            shown["data"] = self.data
        if self.action is not None:
            shown["action"] = self.action
        if self.sender is not None:
            shown["sender"] = self.sender
        if self.expires_ms is not None:
            shown["expires_at"] = self.expires_ms
        if self.read_ms is not None:
            shown["read_at"] = self.read_ms
        return shown


def notification_of(row: Row[Any]) -> Notification:
    """From a row of the table."""
    return Notification(
        id=row.id,
        mid=row.mid,
        type=row.type,
        title=row.title,
        message=row.message,
        data=parse_json(row.data),
        action=parse_json(row.action),
        sender=row.sender,
        created_ms=row.created_ms,
        expires_ms=row.expires_ms,
        read_ms=row.read_ms,
    )
