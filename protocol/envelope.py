"""The envelope: the one map that every message is, on both codecs.

JSON uses the field names; CBOR uses the integers of ``KEYS`` and ``KINDS``. Both
say exactly the same. A key whose value is null means the same as an absent key.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

__all__ = [
    "CLIENT_KINDS",
    "KEYS",
    "KINDS",
    "MAX_DEPTH",
    "MAX_EVENT_BYTES",
    "MAX_MID_BYTES",
    "MAX_ROOM_BYTES",
    "SERVER_KINDS",
    "VERSION",
    "Envelope",
]

VERSION: Final = 1
MAX_DEPTH: Final = 16
"""Containers inside each other, the envelope's own map being the first."""
MAX_ROOM_BYTES: Final = 200
MAX_EVENT_BYTES: Final = 100
MAX_MID_BYTES: Final = 100

KEYS: Final[dict[str, int]] = {
    "v": 0, "t": 1, "id": 2, "room": 3, "event": 4, "data": 5, "seq": 6,
    "epoch": 7, "ts": 8, "mid": 9, "sender": 10, "code": 11, "message": 12,
}  # fmt: skip
"""Field name → CBOR key."""

CLIENT_KINDS: Final = (
    "auth", "refresh", "join", "leave", "subscribe", "unsubscribe", "publish", "send",
    "call", "ack", "history", "presence", "info", "stats", "ping", "typing",
)  # fmt: skip
SERVER_KINDS: Final = ("connected", "reply", "error", "event", "presence", "lost", "pong", "closing")

KINDS: Final[dict[str, int]] = {
    "auth": 1, "refresh": 2, "join": 3, "leave": 4, "subscribe": 5, "unsubscribe": 6,
    "publish": 7, "send": 8, "call": 9, "ack": 10, "history": 11, "presence": 12,
    "info": 13, "stats": 14, "ping": 15, "typing": 16,
    "connected": 17, "reply": 18, "error": 19, "event": 20, "lost": 21, "pong": 22, "closing": 23,
}  # fmt: skip
"""Kind → CBOR integer; each takes one byte. ``presence`` is one kind in both directions."""

Unsigned = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Envelope(msgspec.Struct, omit_defaults=True, gc=False):
    """One message, in either direction. Only ``t`` is always there; ``v`` is 1.

    Raises nothing by itself: the codecs check what comes from the network.
    """

    t: str
    v: int = VERSION
    id: Unsigned | None = None
    room: str | None = None
    event: str | None = None
    data: Any = None
    seq: Unsigned | None = None
    epoch: str | None = None
    ts: Unsigned | None = None
    mid: str | None = None
    sender: str | None = None
    code: Unsigned | None = None
    message: str | None = None
