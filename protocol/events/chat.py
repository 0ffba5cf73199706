"""Events of a chat: always in the room of a conversation."""

from __future__ import annotations

from typing import Literal

from protocol.typed import Id, TypedEvent

__all__ = ["MessageNew", "MessageStatus", "TypingStart", "TypingStop"]


class MessageNew(TypedEvent, frozen=True, kw_only=True):
    event = "message:new"
    needs_room = True
    text: str
    message_id: Id | None = None
    """The application's own id of it; the envelope has ``mid`` besides."""
    user: Id | None = None


class MessageStatus(TypedEvent, frozen=True, kw_only=True):
    event = "message:status"
    needs_room = True
    message_id: Id
    status: Literal["sent", "delivered", "read", "failed"]
    user: Id | None = None
    """Whom the status is about."""


class TypingStart(TypedEvent, frozen=True, kw_only=True):
    event = "typing:start"
    needs_room = True
    user: Id | None = None
    connection: Id | None = None
    """In the place of ``user``, where a client has none."""


class TypingStop(TypedEvent, frozen=True, kw_only=True):
    event = "typing:stop"
    needs_room = True
    user: Id | None = None
    connection: Id | None = None
    """In the place of ``user``, where a client has none."""
