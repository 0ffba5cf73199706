"""What several commands check of their data."""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

from gateway.broker.base import Since
from gateway.hub.connection import Connection
from gateway.hub.room import Membership
from protocol.data import read
from protocol.errors import ErrorCode, ProtocolError
from protocol.patterns import check_patterns

__all__ = ["Own", "SinceData", "TokenData", "check_filter", "own_place", "read", "read_since"]

T = TypeVar("T")

Own = Literal["organisation", "user"]
"""The orders that a connection has without joining."""


class TokenData(msgspec.Struct):
    """The data of ``auth`` and ``refresh``."""

    token: str


class SinceData(msgspec.Struct):
    """A position as clients write it."""

    epoch: str
    seq: int


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


def own_place(connection: Connection, of: Own, field: str) -> Membership:
    """The connection's place in its organisation or its user; raises BAD_FIELD where it has no user."""
    if of == "organisation":
        return connection.internal[0]
    if len(connection.internal) == 1:
        raise ProtocolError(ErrorCode.BAD_FIELD, f"{field}: this token has no user")
    return connection.internal[1]
