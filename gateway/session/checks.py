"""What several commands check."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from gateway.auth.identity import Permission
from gateway.hub.connection import Connection
from protocol.errors import ErrorCode, ProtocolError
from protocol.patterns import check_patterns

if TYPE_CHECKING:
    from gateway.session.session import Session

__all__ = ["TokenData", "check_filter", "permit", "read"]

T = TypeVar("T")


class TokenData(msgspec.Struct):
    """The data of ``auth`` and ``refresh``."""

    token: str


_is_missing: Final = re.compile("Object missing required field `(.+)`").fullmatch


def read(data: Any, shape: type[T]) -> T:
    """Check a command's ``data``; raises MISSING_FIELD and BAD_FIELD, naming the place."""
    try:
        return msgspec.convert({} if data is None else data, shape)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        place = "data" + path.rstrip("`")
        missing = _is_missing(reason)
        if missing:
            raise ProtocolError(ErrorCode.MISSING_FIELD, f"{place}.{missing[1]}: is missing") from None
        raise ProtocolError(ErrorCode.BAD_FIELD, f"{place}: {reason[0].lower()}{reason[1:]}") from None


def permit(connection: Connection, room: str, permission: Permission, what: str) -> None:
    """Raise FORBIDDEN unless the connection's token grants ``permission`` for ``room``."""
    if not connection.identity.grants.allows(room, permission):
        raise ProtocolError(ErrorCode.FORBIDDEN, f"the token does not permit to {what}")


def check_filter(session: Session, patterns: list[str]) -> list[str]:
    """Check the patterns of a filter and their number."""
    return check_patterns(patterns, most=session.services.settings.limits.patterns_per_filter)
