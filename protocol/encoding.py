"""From an envelope to the bytes that leave for a client: a codec, and what the transport wraps around it.

The hub knows nothing else of a transport. Connections with the same ``Encoding`` object get the same
bytes, so an event is encoded once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from protocol.cbor import CBOR
from protocol.codec import Codec
from protocol.envelope import Envelope
from protocol.frames import BINARY, TEXT, server_frame
from protocol.json import JSON
from protocol.stamps import RENEWS, STAMP

__all__ = ["Encoding", "EventStreamEncoding", "PollEncoding", "WebSocketEncoding", "websocket"]

_RENEWS: Final = bytes([RENEWS])


class Encoding(Protocol):
    """How envelopes become frames. Instances hold no state of a connection, and compare by identity."""

    @property
    def subprotocol(self) -> str:
        """The name that ``info`` shows."""

    @property
    def binary(self) -> bool:
        """Whether its frames are binary data, which a text transport cannot carry."""

    def encode(self, envelope: Envelope) -> bytes:
        """Write one whole frame: what is queued, counted as one message, and never cut.

        Raises as ``Codec.encode`` does.
        """


class WebSocketEncoding:
    """One unfragmented, unmasked WebSocket frame for each envelope (RFC 6455, section 5)."""

    __slots__ = ("_encode", "_opcode", "binary", "subprotocol")

    def __init__(self, codec: Codec) -> None:
        self.subprotocol = codec.subprotocol
        self.binary = codec.binary
        self._opcode = BINARY if codec.binary else TEXT
        self._encode = codec.encode

    def encode(self, envelope: Envelope) -> bytes:
        """See :class:`Encoding`."""
        return server_frame(self._opcode, self._encode(envelope))


class EventStreamEncoding:
    """One server-sent event (WHATWG HTML, section 9.2) for each envelope, in JSON.

    An event with a place ends with ``STAMP`` and what ``mark`` gives, as one line: a connection makes an
    ``id`` of it, or a comment.
    """

    __slots__ = ("__weakref__", "_mark")

    subprotocol: Final = "sse"
    binary: Final = False

    def __init__(self, mark: Callable[[], bytes] | None = None) -> None:
        """``mark`` says where whoever has this event stands in all that is the same for all connections."""
        self._mark = mark

    def encode(self, envelope: Envelope) -> bytes:
        """See :class:`Encoding`."""
        # A critical event overtakes others, so its place says nothing of what came before it.
        placed = envelope.t == "event" and envelope.seq is not None and not envelope.critical
        if not placed or self._mark is None:
            return b"data: %b\n\n" % JSON.encode(envelope)
        # Half of what formatting takes, for each event.
        frame = b"".join((b"data: ", JSON.encode(envelope), b"\n", STAMP, self._mark(), b"\n\n"))
        return _RENEWS + frame if envelope.to == "user" else frame


class PollEncoding:
    """The bare JSON of each envelope, to be put into a list."""

    __slots__ = ()

    subprotocol: Final = "poll"
    binary: Final = False

    def encode(self, envelope: Envelope) -> bytes:
        """See :class:`Encoding`."""
        return JSON.encode(envelope)


_WEBSOCKET: Final[dict[Codec, WebSocketEncoding]] = {
    codec: WebSocketEncoding(codec) for codec in (CBOR, JSON)
}


def websocket(codec: Codec) -> WebSocketEncoding:
    """The one WebSocket encoding of ``codec``: always the same object, so that its members are one group.

    Raises ``KeyError`` for a codec that is not the protocol's.
    """
    return _WEBSOCKET[codec]
