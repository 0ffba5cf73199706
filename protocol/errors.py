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

from enum import IntEnum
from typing import Any

__all__ = ["CloseCode", "ErrorCode", "ProtocolError", "malformed", "should_reconnect"]


class ErrorCode(IntEnum):
    """What an ``error`` envelope's ``code`` means."""

    MALFORMED = 100  # not CBOR/JSON at all, or not a map
    UNSUPPORTED_VERSION = 101
    UNKNOWN_KIND = 102
    MISSING_FIELD = 103
    BAD_FIELD = 104  # wrong type or value
    BAD_ROOM = 105
    BAD_EVENT = 106
    UNKNOWN_CALL = 108
    NOT_FOUND = 109
    CALL_REJECTED = 110  # the command's handler refused it, with a reason

    UNAUTHENTICATED = 200  # no token, or one that does not verify
    TOKEN_EXPIRED = 201
    FORBIDDEN = 202
    TOKEN_REVOKED = 203
    WRONG_ORGANISATION = 204
    NOT_JOINED = 205

    RATE_LIMITED = 300
    OVERLOADED = 301
    BROKER_UNAVAILABLE = 302
    TIMEOUT = 303
    SHUTTING_DOWN = 304
    DATABASE_UNAVAILABLE = 305

    TOO_MANY_ROOMS = 400
    TOO_MANY_PATTERNS = 401
    TOO_MANY_CONNECTIONS = 402
    TOO_MANY_PENDING = 403
    TOO_LARGE = 404

    INTERNAL = 500


class CloseCode(IntEnum):
    """Why a WebSocket was closed."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003  # a text frame on a CBOR connection
    INVALID_DATA = 1007  # bad UTF-8, CBOR or JSON
    POLICY_VIOLATION = 1008  # authentication failed, expired or revoked
    TOO_LARGE = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012  # shutdown or drain
    TRY_AGAIN_LATER = 1013

    HEARTBEAT_MISSED = 4000
    SLOW_CONSUMER = 4001
    INACTIVE = 4002
    DISCONNECTED = 4500  # by an administrator
    ABUSE = 4501
    TAKEN_OVER = 4502  # another connection has shown this one's resume token


_RECONNECT_STANDARD = frozenset({1000, 1001, 1005, 1006, 1011, 1012, 1013, 1014})


def should_reconnect(code: int) -> bool:
    """Tell whether a client that was closed with ``code`` should connect again by itself.

    The gateway never closes with 1000 or without a code (1005): a proxy does, which has no say in it.
    """
    return code in _RECONNECT_STANDARD or 4000 <= code <= 4499


class ProtocolError(Exception):
    """Something the peer said is refused; carries what an ``error`` envelope needs.

    ``id`` is the command's id where it could still be read; ``retry_after`` is in
    seconds; ``fatal`` is the close code when the connection cannot go on.
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
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.id = id
        self.room = room
        self.retry_after = retry_after
        self.fatal = fatal

    @property
    def data(self) -> dict[str, Any] | None:
        """The ``data`` of the ``error`` envelope: ``retry_after`` where there is one."""
        return None if self.retry_after is None else {"retry_after": self.retry_after}


def malformed(reason: str) -> ProtocolError:
    """Make the fatal error for bytes that are not one well-formed message."""
    return ProtocolError(ErrorCode.MALFORMED, reason, fatal=CloseCode.INVALID_DATA)
