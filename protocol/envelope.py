"""The envelope: the one map that every message is, on both codecs.

JSON uses the field names; CBOR uses the integers of ``KEYS`` and ``KINDS``, which come
from the table in ``protocol.kinds``. Both say exactly the same. A key whose value is
null means the same as an absent key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, Literal

import msgspec

from protocol.kinds import FIELDS, TABLE
from protocol.values import MAX_DEPTH, Unsigned, Value

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
MAX_ROOM_BYTES: Final = 200
MAX_EVENT_BYTES: Final = 100
MAX_MID_BYTES: Final = 100

KEYS: Final = {field.name: field.key for field in FIELDS}
"""Field name → CBOR key."""
KINDS: Final = {kind.name: kind.number for kind in TABLE}
"""Kind → CBOR integer; each takes one byte. ``presence`` is one kind in both directions."""
CLIENT_KINDS: Final = tuple(kind.name for kind in TABLE if kind.sender != "server")
SERVER_KINDS: Final = tuple(kind.name for kind in TABLE if kind.sender != "client")

if TYPE_CHECKING:
    _Kind = str
else:
    _Kind = Literal[tuple(KINDS)]


class Envelope(
    msgspec.Struct, tag_field="v", tag=VERSION, omit_defaults=True, forbid_unknown_fields=True, gc=False
):
    """One message, in either direction. Only ``t`` is always there; ``v`` is always 1.

    ``id``, ``seq``, ``ts`` (ms since 1970 UTC) and ``code`` are 0 … 2⁶³−1; ``data`` is
    of the value model (``protocol.values``). Raises nothing by itself: the codecs check
    what comes from the network, down to the types, but not the names (``protocol.names``).
    """

    # The version is msgspec's tag: it costs no field, and is written although it is constant.
    # Unknown fields are forbidden here only to send such messages down the codecs' careful path.
    v: ClassVar[int] = VERSION

    t: _Kind
    id: Unsigned | None = None
    room: str | None = None
    event: str | None = None
    data: Value = None
    seq: Unsigned | None = None
    epoch: str | None = None
    ts: Unsigned | None = None
    mid: str | None = None
    sender: str | None = None
    code: Unsigned | None = None
    message: str | None = None
    critical: bool | None = None
    to: str | None = None
