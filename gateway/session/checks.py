"""What several commands check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from gateway.auth.identity import Permission
from gateway.hub.connection import Connection
from protocol.errors import ErrorCode, ProtocolError
from protocol.names import check_pattern

if TYPE_CHECKING:
    from gateway.session.session import Session

__all__ = ["check_filter", "permit", "read"]

T = TypeVar("T")


def read(data: Any, shape: type[T]) -> T:
    """Check a command's ``data``; raises BAD_FIELD naming the place."""
    try:
        return msgspec.convert({} if data is None else data, shape)
    except msgspec.ValidationError as error:
        raise ProtocolError(ErrorCode.BAD_FIELD, str(error).replace("`$", "`data")) from None


def permit(connection: Connection, room: str, permission: Permission, what: str) -> None:
    """Raise FORBIDDEN unless the connection's token grants ``permission`` for ``room``."""
    if not connection.identity.grants.allows(room, permission):
        raise ProtocolError(ErrorCode.FORBIDDEN, f"the token does not permit to {what}")


def check_filter(session: Session, patterns: list[str]) -> list[str]:
    """Check the patterns of a filter and their number."""
    limit = session.services.settings.limits.patterns_per_filter
    if len(patterns) > limit:
        raise ProtocolError(ErrorCode.TOO_MANY_PATTERNS, f"data.events: at most {limit} patterns")
    return [check_pattern(pattern) for pattern in patterns]
