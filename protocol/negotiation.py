"""Which codec a connection speaks: its WebSocket subprotocol (RFC 6455, section 1.9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from protocol.cbor import CBOR
from protocol.codec import Codec
from protocol.json import JSON

__all__ = ["CODECS", "NegotiationError", "choose_subprotocol"]

CODECS: Final[dict[str, Codec]] = {CBOR.subprotocol: CBOR, JSON.subprotocol: JSON}
"""Subprotocol → codec, in the server's order of preference."""


class NegotiationError(Exception):
    """The client offered only subprotocols that are not spoken here; answer with HTTP 400."""

    def __init__(self) -> None:
        self.known: tuple[str, ...] = tuple(CODECS)
        super().__init__(
            f"none of the offered subprotocols is supported; supported are {', '.join(self.known)}"
        )


def choose_subprotocol(offered: Sequence[str]) -> Codec:
    """Choose by the server's preference; JSON when nothing is offered.

    Names are compared exactly, as RFC 6455 asks. Raises ``NegotiationError`` when only
    unknown ones are offered.
    """
    if not offered:
        return JSON
    for subprotocol, codec in CODECS.items():
        if subprotocol in offered:
            return codec
    raise NegotiationError
