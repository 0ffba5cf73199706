"""A room's state: small named entries that change together with its order.

An event may carry an :class:`Effect`. Whoever reads a page of history gets the entries as they are at the
page's ``seq``: each effect of an event up to there is in it, and none of a later one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from protocol.errors import ErrorCode, ProtocolError

__all__ = ["ENTRY_BYTES", "STATE_BYTES", "Effect", "RoomState", "encode_state", "entry_size", "state_full"]

STATE_BYTES: Final = 64 * 1024
"""Most that the entries of one room may take, in bytes: their names, their values as JSON, 32 for each."""
ENTRY_BYTES: Final = 32
"""What an entry counts beside its name and value."""

RoomState = Mapping[str, Any]
"""Name → value."""


class Effect(NamedTuple):
    """What an event changes in its room's state."""

    name: str
    value: Any = None
    """Of the value model; None deletes the entry."""


_encode: Final = msgspec.json.Encoder().encode


def encode_state(value: Any) -> str | None:
    """The value of an entry as JSON; None for none."""
    return None if value is None else _encode(value).decode()


def entry_size(name: str, value: str | None) -> int:
    """What an entry counts, its ``value`` as JSON, in bytes."""
    return 0 if value is None else len(name.encode()) + len(value.encode()) + ENTRY_BYTES


def state_full() -> ProtocolError:
    """Why an event is refused whose effect has no room; it gets no place then."""
    return ProtocolError(ErrorCode.TOO_LARGE, f"the state of a room is limited to {STATE_BYTES} bytes")
