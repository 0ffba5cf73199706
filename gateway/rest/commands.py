"""Commands by POST, and what the OpenAPI document says of the streams that the listener answers."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from quart import Blueprint, Response, request
from werkzeug.exceptions import UnsupportedMediaType

from gateway.rest.http import admit, identified, reply
from gateway.rest.openapi import operation
from gateway.rest.services import services
from protocol.errors import ErrorCode, ProtocolError
from protocol.json import JSON, check_items

__all__ = ["blueprint"]

blueprint = Blueprint("commands", __name__)

_TYPE: Final = "application/json"
_PLAIN: Final = "write the path as it is, without escapes, and ask with GET"


class PostedCommand(msgspec.Struct, omit_defaults=True):
    """One envelope, as a WebSocket takes it (docs/protocol.md); or a list of them."""

    v: int
    t: str
    id: int | None = None
    room: str | None = None
    event: str | None = None
    data: Any = None
    mid: str | None = None
    critical: bool | None = None


class Answer(msgspec.Struct, omit_defaults=True):
    """`messages`: a `reply`, `pong` or `error` for each command, in the order of the commands."""

    messages: list[dict[str, Any]]


class StreamQuery(msgspec.Struct):
    join: (
        Annotated[str, msgspec.Meta(description="A room to follow; may be given up to 32 times.")] | None
    ) = None
    events: Annotated[str, msgspec.Meta(description="A pattern of event names; may be repeated.")] | None = (
        None
    )
    overflow: Annotated[str, msgspec.Meta(description="As for `join` on a WebSocket.")] | None = None
    key: (
        Annotated[str, msgspec.Meta(description="For `conflate`: the field of the data that counts.")] | None
    ) = None
    organisation: (
        Annotated[
            str,
            msgspec.Meta(
                description="`EPOCH:SEQ`: the position to continue from in the organisation's order."
            ),
        ]
        | None
    ) = None
    user: (
        Annotated[
            str, msgspec.Meta(description="`EPOCH:SEQ`: the position to continue from in the user's order.")
        ]
        | None
    ) = None
    cursor: Annotated[str, msgspec.Meta(description="The position to continue from.")] | None = None
    since: (
        Annotated[str, msgspec.Meta(description="EPOCH:SEQ:ROOM: the same for one room; may be repeated.")]
        | None
    ) = None
    tell: Annotated[str, msgspec.Meta(description="For polls: `true` to begin like a stream.")] | None = None
    token: Annotated[str, msgspec.Meta(description="The token, if no header can be sent.")] | None = None
    ticket: Annotated[str, msgspec.Meta(description="A ticket instead of the token.")] | None = None
    timeout: Annotated[str, msgspec.Meta(description="For polls: seconds to wait, 0 to 60.")] | None = None


class Polled(msgspec.Struct):
    """What came, and where to go on."""

    messages: list[dict[str, Any]]
    cursor: str


@blueprint.post("/commands")
@operation(tags="streams", body=PostedCommand, answer=Answer)
async def post_commands() -> Response:
    """Carry out commands of a client without a WebSocket: one envelope, or a list of them.

    Takes the commands that belong to no connection, such as `publish`, `history` and `call` (docs/protocol.md
    lists them), under the same permissions and limits; a command that is refused does not stop the others.
    Without an `id` only a refusal is answered.
    """
    identity, ip = await identified()
    data = await request.get_data()
    assert isinstance(data, bytes)
    if request.mimetype and request.mimetype != _TYPE:
        raise UnsupportedMediaType("send the body with Content-Type: application/json")
    check_items(data)
    try:
        body = msgspec.json.decode(data, type=msgspec.Raw)
        commands = [body]
        if bytes(body).lstrip()[:1] == b"[":
            commands = msgspec.json.decode(data, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(ErrorCode.MALFORMED, f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise ProtocolError(ErrorCode.MALFORMED, "the body is nested too deeply") from None
    limit = services().settings.limits.batch
    if len(commands) > limit:
        raise ProtocolError(ErrorCode.TOO_LARGE, f"at most {limit} commands in one request")
    if not commands:
        admit(identity, len(data))
    found = await services().commands(
        identity, ip, request.user_agent.string or None, [bytes(each) for each in commands]
    )
    messages = b",".join(JSON.encode(each) for each in found)
    return reply({"messages": msgspec.Raw(b"[" + messages + b"]")})


@blueprint.get("/stream")
@operation(tags="streams", query=StreamQuery, answer=Polled)
async def get_stream() -> Response:
    """The events of rooms as server-sent events; see docs/streams.md. Answered as `text/event-stream`."""
    raise ProtocolError(ErrorCode.BAD_FIELD, _PLAIN)


@blueprint.get("/poll")
@operation(tags="streams", query=StreamQuery, answer=Polled)
async def get_poll() -> Response:
    """The events of rooms by long-poll: at once if there are any, otherwise after `timeout` seconds."""
    raise ProtocolError(ErrorCode.BAD_FIELD, _PLAIN)
