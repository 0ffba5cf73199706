"""Numbered errors and close codes; the number's range says what the peer should do.

Error codes travel in ``error`` envelopes and in REST problem documents:

=========  =====================================================================
1xx        the message is wrong: correct it, repeating it cannot help
2xx        not allowed: another token or permission is needed
3xx        not now: the same message may succeed after ``retry_after`` seconds
4xx        a limit of the connection or organisation is reached: free something
5xx        the gateway's own fault: may be repeated once
=========  =====================================================================

Close codes travel in the WebSocket Close frame. 1000-1015 are those of RFC 6455,
section 7.4.1; of the private range, 4000-4499 ask the client to reconnect and
4500-4999 ask it not to.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Self

__all__ = ["CloseCode", "ErrorCode", "ProtocolError", "malformed", "should_reconnect"]


class ErrorCode(IntEnum):
    """What an ``error`` envelope's ``code`` means, and the status that the same error has over HTTP.

    The one table of them; ``docs/protocol.md`` says the same.
    """

    status: int
    """HTTP status."""
    meaning: str
    """For people, in Markdown."""

    def __new__(cls, number: int, status: int = 500, meaning: str = "") -> Self:
        member = int.__new__(cls, number)
        member._value_ = number
        member.status, member.meaning = status, meaning
        return member

    MALFORMED = 100, 400, "not well-formed; 1007 follows"
    UNSUPPORTED_VERSION = 101, 400, "`v` is another version than 1"
    UNKNOWN_KIND = 102, 400, "`t` is not a known kind, or is reserved for server messages"
    MISSING_FIELD = 103, 400, "a field that the kind needs is absent or null"
    BAD_FIELD = 104, 400, "a field, or something in `data`, has a wrong type or value"
    BAD_ROOM = 105, 400, "not a valid name of a room"
    BAD_EVENT = 106, 400, "not a valid name of an event"
    EVENT_NOT_ALLOWED = 107, 422, "the room does not take this event (`events.patterns`)"
    UNKNOWN_CALL = 108, 501, "no handler has that name"
    NOT_FOUND = 109, 404, "the user, connection or resource does not exist"
    CALL_REJECTED = 110, 422, "the handler rejected the call, with its reason"
    CONFLICT = 111, 409, "conflict with the present state, which the details describe"

    UNAUTHENTICATED = 200, 401, "no token, or one that does not verify"
    TOKEN_EXPIRED = 201, 401, "the token has expired"
    FORBIDDEN = 202, 403, "the token may not do this"
    TOKEN_REVOKED = 203, 401, "the token was revoked"
    WRONG_ORGANISATION = 204, 403, "the token is for another organisation or user than the connection"
    NOT_JOINED = 205, 403, "the room must be joined first"

    RATE_LIMITED = 300, 429, "too many messages or bytes in too short a time"
    OVERLOADED = 301, 503, "the gateway is shedding load"
    BROKER_UNAVAILABLE = 302, 503, "the broker behind the rooms is unavailable"
    TIMEOUT = 303, 503, "it took too long, and may still have been carried out"
    SHUTTING_DOWN = 304, 503, "this node is about to stop: reconnect"
    DATABASE_UNAVAILABLE = 305, 503, "the database is unreachable, locked or full; nothing was stored"

    TOO_MANY_ROOMS = 400, 409, "this connection has joined as many rooms as it may"
    TOO_MANY_PATTERNS = 401, 409, "a filter holds too many patterns, or too many `*`"
    TOO_MANY_CONNECTIONS = 402, 503, "there are as many connections as there may be"
    TOO_MANY_PENDING = 403, 429, "too many commands of this connection are waiting for an answer"
    TOO_LARGE = 404, 413, "larger than a limit allows, in bytes or in values"
    TOO_MANY_APPROVALS = 405, 429, "the organisation has as many open approvals as it may"

    INTERNAL = 500, 500, "a fault of the gateway, which has logged it"


class CloseCode(IntEnum):
    """Why a WebSocket was closed."""

    meaning: str
    """When it is used, for people, in Markdown."""

    def __new__(cls, number: int, meaning: str = "") -> Self:
        member = int.__new__(cls, number)
        member._value_ = number
        member.meaning = meaning
        return member

    NORMAL = 1000, "the client closed, or a proxy did"
    GOING_AWAY = 1001, "the peer is leaving"
    PROTOCOL_ERROR = 1002, "the peer broke RFC 6455"
    UNSUPPORTED_DATA = 1003, "a text message on a CBOR connection, or a binary one on JSON"
    INVALID_DATA = 1007, "a message was not well-formed"
    POLICY_VIOLATION = 1008, "authentication failed, or the token expired or was revoked"
    TOO_LARGE = 1009, "a message is larger than `limits.message_bytes`"
    INTERNAL_ERROR = 1011, "a fault of the gateway"
    SERVICE_RESTART = 1012, "the node is shutting down or draining"
    TRY_AGAIN_LATER = 1013, "the gateway cannot take the connection now"

    HEARTBEAT_MISSED = 4000, "nothing came for two heartbeats"
    SLOW_CONSUMER = 4001, "the queue of a slow client is full"
    INACTIVE = 4002, "no command came for `connection.inactivity` seconds"
    DISCONNECTED = 4500, "an administrator ended the connection"
    ABUSE = 4501, "limits were exceeded again and again"
    TAKEN_OVER = 4502, "another connection has shown this one's resume token"


_RECONNECT_STANDARD = frozenset({1000, 1001, 1005, 1006, 1011, 1012, 1013, 1014})


def should_reconnect(code: int) -> bool:
    """Tell whether a client that was closed with ``code`` should connect again by itself.

    The gateway never closes with 1000 or without a code (1005): a proxy does, which has no say in it.
    """
    return code in _RECONNECT_STANDARD or 4000 <= code <= 4499


class ProtocolError(Exception):
    """Something the peer said is refused; carries what an ``error`` envelope needs.

    ``id`` is the command's id where it could still be read; ``retry_after`` is in
    seconds; ``fatal`` is the close code when the connection cannot go on. ``details`` are values that the
    peer needs to go on: members of the ``error`` envelope's ``data`` and of the problem document.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        id: int | None = None,
        room: str | None = None,
        retry_after: float | None = None,
        fatal: CloseCode | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.id = id
        self.room = room
        self.retry_after = retry_after
        self.fatal = fatal
        self.details = details

    @property
    def data(self) -> dict[str, Any] | None:
        """The ``data`` of the ``error`` envelope: ``details`` and ``retry_after`` where there are any."""
        found = dict(self.details or ())
        if self.retry_after is not None:
            found["retry_after"] = self.retry_after
        return found or None


def malformed(reason: str) -> ProtocolError:
    """Make the fatal error for bytes that are not one well-formed message."""
    return ProtocolError(ErrorCode.MALFORMED, reason, fatal=CloseCode.INVALID_DATA)
