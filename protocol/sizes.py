"""How large an event gets in whichever codec, so that none is larger than what clients were told to expect.

The same data take different space: a control character is one byte of CBOR and six of JSON, ``1.0`` three
bytes of JSON and nine of CBOR. Who publishes must be told, since the members cannot be.
"""

from __future__ import annotations

from typing import Final

from protocol.envelope import Envelope
from protocol.errors import ErrorCode, ProtocolError
from protocol.negotiation import CODECS

__all__ = ["HEAD_BYTES", "WORST_GROWTH", "check_size", "largest_size"]

WORST_GROWTH: Final = 8
"""Times that a value may grow: a float of 16 bits is three bytes of CBOR and up to 22 of JSON."""
PLACE_BYTES: Final = 96
"""What the broker adds: a ``seq`` of 19 digits and an ``epoch``, with their keys."""

HEAD_BYTES: Final = 2048
"""What the gateway adds to the command's own fields: ``ts``, ``mid`` and ``sender`` with their keys,
at their longest."""


def largest_size(envelope: Envelope) -> int:
    """Bytes of the message in the codec in which it is largest."""
    return max(len(codec.encode(envelope)) for codec in CODECS.values())


def check_size(event: Envelope, limit: int, *, size: int) -> None:
    """Raise ``ProtocolError`` TOO_LARGE when ``event``, once it has its place, exceeds ``limit`` bytes.

    ``size`` is what the command took on the wire, in bytes and in any codec, or the ``values.footprint`` of
    its data. A small one needs no look; a larger one is encoded to know.
    """
    if size * WORST_GROWTH + PLACE_BYTES + HEAD_BYTES <= limit:
        return
    needed = largest_size(event) + PLACE_BYTES
    if needed > limit:
        raise ProtocolError(
            ErrorCode.TOO_LARGE, f"the event takes up to {needed} bytes; the largest message has {limit}"
        )
