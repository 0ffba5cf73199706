"""What one node may ask of another: one struct for each request, with the type of its answer.

On the wire a request is its tag and its fields by name. A node of another version ignores fields that it
does not know, so a new field needs a default; a request that it does not know at all is answered with
UNKNOWN_CALL.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar, get_args, get_origin

import msgspec

from gateway.hub.hub import Sent
from protocol.errors import ErrorCode, ProtocolError

__all__ = [
    "AnyRequest",
    "Connection",
    "Connections",
    "Disconnect",
    "Message",
    "Request",
    "Revoked",
    "Rooms",
    "Send",
    "Stats",
    "TakeOver",
    "Trace",
    "Wanting",
    "decode",
    "decode_answer",
    "decode_request",
    "encode",
    "encode_request",
]

T = TypeVar("T")


class Request(msgspec.Struct, Generic[T], frozen=True, tag_field="op"):
    """A request; ``T`` is what its answer is."""


class Stats(Request[dict[str, Any]], frozen=True, tag="stats"):
    """Counts of one organisation, or of everything."""

    org: str | None


class Connections(Request[list[dict[str, Any]]], frozen=True, tag="connections"):
    """At most ``limit`` open connections, the oldest first."""

    org: str
    user: str | None
    room: str | None
    after: tuple[int, str] | None
    """A (connected_at, id)."""
    limit: int


class Connection(Request[dict[str, Any]], frozen=True, tag="connection"):
    """What is known of one connection."""

    org: str
    id: str


class Rooms(Request[list[dict[str, Any]]], frozen=True, tag="rooms"):
    """At most ``limit`` rooms that somebody is in, by name."""

    org: str
    after: str | None
    limit: int


class Send(Request[Sent], frozen=True, tag="send"):
    """Send to one ``connection``; what is for a user goes through the broker.

    A node without orders for users sends to a ``user`` with it, and understands it only with both fields. Of
    the answer it takes the first two places, no more.
    """

    org: str
    event: str
    data: Any
    connection: str | None
    sender: str | None
    mid: str | None
    user: str | None = None


class Wanting(Request[int], frozen=True, tag="wanting"):
    """How many connections of a user want events of this name."""

    org: str
    user: str
    event: str


class Disconnect(Request[None], frozen=True, tag="disconnect"):
    """Close a connection; with ``only_of`` only when it is that user's."""

    org: str
    id: str
    code: int
    reason: str
    only_of: str | None


class Revoked(Request[int], frozen=True, tag="revoked"):
    """Something was revoked ``at`` this time, in seconds since 1970; the answer is how many were closed."""

    org: str
    jti: str | None
    user: str | None
    at: float


class TakeOver(Request[str], frozen=True, tag="take_over"):
    """Close the connection with this resume token; the answer is what it had, or empty."""

    org: str
    user: str | None
    token: str


class Trace(Request[dict[str, Any] | None], frozen=True, tag="trace"):
    """What became of a message."""

    org: str
    mid: str
    user: str | None


AnyRequest = (
    Stats | Connections | Connection | Rooms | Send | Wanting | Disconnect | Revoked | TakeOver | Trace
)

_REQUESTS: Final = {
    str(kind.__struct_config__.tag): msgspec.json.Decoder(kind) for kind in get_args(AnyRequest)
}


def _answer_of(kind: Any) -> Any:
    (base,) = (each for each in kind.__orig_bases__ if get_origin(each) is Request)
    (found,) = get_args(base)
    return found


_ANSWERS: Final = {kind: msgspec.json.Decoder(_answer_of(kind)) for kind in get_args(AnyRequest)}


class Message(msgspec.Struct, array_like=True):
    """What travels: a request when there is an ``op``, else an answer; without ``id`` a call to look."""

    id: str
    sender: str
    op: str = ""
    """Tag of the request."""
    data: msgspec.Raw = msgspec.Raw(b"null")
    """Fields of the request, or the answer."""
    error: tuple[int, str, float | None] | None = None
    patience: float = 0.0
    """Seconds that the sender of a request waits for the answer; 0 from a node that does not say so."""


encode: Final = msgspec.json.Encoder().encode
decode: Final = msgspec.json.Decoder(Message).decode


def encode_request(id: str, sender: str, request: Request[Any], patience: float) -> bytes:
    """The message with this request. Its tag stands beside its fields, where every version looks for it."""
    fields = {name: getattr(request, name) for name in request.__struct_fields__}
    tag = str(request.__struct_config__.tag)
    return encode(Message(id, sender, tag, msgspec.Raw(encode(fields)), None, patience))


def decode_request(message: Message) -> AnyRequest:
    """The request of a message; raises ``ProtocolError`` UNKNOWN_CALL, or BAD_FIELD for wrong fields."""
    decoder = _REQUESTS.get(message.op)
    if decoder is None:
        raise ProtocolError(ErrorCode.UNKNOWN_CALL, f"requests {message.op!r} are unknown here")
    try:
        found: AnyRequest = decoder.decode(message.data)
    except msgspec.DecodeError as error:
        raise ProtocolError(ErrorCode.BAD_FIELD, f"request {message.op}: {error}") from None
    return found


def decode_answer(kind: type[Request[T]], data: msgspec.Raw) -> T:
    """What was answered to a request of this kind; raises ``msgspec.DecodeError``."""
    found: T = _ANSWERS[kind].decode(data)
    return found
