"""Events that the gateway itself tells users and rooms: notifications, and executions as they advance."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from protocol.typed import Id, Seconds, Text, TypedEvent
from protocol.values import Unsigned

__all__ = ["ExecutionUpdated", "NotificationDeleted", "NotificationNew", "NotificationRead"]


class NotificationNew(TypedEvent, frozen=True, kw_only=True):
    event = "notification:new"
    id: Id
    type: Literal["info", "success", "warning", "error"]
    title: Text
    message: str | None = None
    data: Any = None
    action: dict[str, Any] | None = None
    sender: str | None = None
    created_at: Unsigned | None = None
    """In milliseconds since 1970 UTC, as the next two."""
    expires_at: Unsigned | None = None
    read_at: Unsigned | None = None
    read: bool | None = None


class NotificationRead(TypedEvent, frozen=True, kw_only=True):
    event = "notification:read"
    unread: Unsigned
    """Notifications that are still unread."""
    ids: list[Id] | None = None
    all: bool | None = None
    upto: Id | None = None
    """With ``all``: those with an id up to this one."""


class NotificationDeleted(TypedEvent, frozen=True, kw_only=True):
    event = "notification:deleted"
    ids: list[Id]
    unread: Unsigned


class ExecutionUpdated(TypedEvent, frozen=True, kw_only=True):
    event = "execution:updated"
    id: Id
    agent: Id
    status: Literal["queued", "running", "completed", "failed", "cancelled"]
    version: Unsigned | None = None
    """Counts its changes: the row with the higher one is the later."""
    team: str | None = None
    method: str | None = None
    progress: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None
    """Per cent."""
    step: str | None = None
    tools: list[Any] | None = None
    """Tools that were used."""
    input: Any = None
    result: Any = None
    error: Text | None = None
    metadata: Any = None
    created_at: Unsigned | None = None
    """In milliseconds since 1970 UTC, as the next three."""
    started_at: Unsigned | None = None
    updated_at: Unsigned | None = None
    finished_at: Unsigned | None = None
    duration: Seconds | None = None
