"""What several commands check of their data."""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

import msgspec

from gateway.broker.base import Since
from protocol.errors import ErrorCode, ProtocolError
from protocol.patterns import check_patterns

__all__ = ["SinceData", "TokenData", "check_filter", "read", "read_since"]

T = TypeVar("T")


class TokenData(msgspec.Struct):
    """The data of ``auth`` and ``refresh``."""

    token: str


class SinceData(msgspec.Struct):
    """A position as clients write it."""

    epoch: str
    seq: int


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


def read_since(given: SinceData | None, field: str = "data.since") -> Since | None:
    """Check a position; raises BAD_FIELD."""
    if given is None:
        return None
    if given.seq < 0:
        raise ProtocolError(ErrorCode.BAD_FIELD, f"{field}.seq: must not be negative")
    return Since(given.epoch, given.seq)


def check_filter(patterns: list[str], limit: int) -> list[str]:
    """Check the patterns of a filter, and that they are at most ``limit``."""
    return check_patterns(patterns, most=limit)
