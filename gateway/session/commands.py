"""What a client can ask: one function per command, and the table of them.

A function gets the session, its connection, the envelope, and the message's size in
bytes. It answers at once, or returns an awaitable. It raises ``ProtocolError`` to refuse.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import structlog
import trio

from gateway.auth.identity import Permission
from gateway.broker.base import Position
from gateway.hub.connection import Connection
from gateway.hub.presence import describe_members
from gateway.session.checks import TokenData, check_filter, permit, read
from gateway.session.joining import SinceData, join, leave, read_since
from protocol.envelope import Envelope
from protocol.errors import ErrorCode, ProtocolError
from protocol.names import check_event, check_mid, check_room
from protocol.patterns import EventFilter
from protocol.values import check_value

if TYPE_CHECKING:
    from gateway.session.session import Session

__all__ = ["COMMANDS", "Command"]

log = structlog.get_logger(__name__)

Command = Callable[["Session", Connection, Envelope, int], Awaitable[None] | None]


# --- the shapes of ``data`` ---------------------------------------------------------------------


class _Patterns(msgspec.Struct):
    events: list[str]


class _Send(msgspec.Struct):
    user: str | None = None
    connection: str | None = None
    data: Any = None


class _History(msgspec.Struct):
    since: SinceData | None = None
    limit: int | None = None


class _Typing(msgspec.Struct):
    state: Literal["start", "stop"] = "start"


# --- the commands ---------------------------------------------------------------------------------


def _auth(session: Session, connection: Connection, envelope: Envelope, size: int) -> None:
    raise ProtocolError(ErrorCode.BAD_FIELD, "t: this connection is authenticated; use refresh")


async def _refresh(session: Session, connection: Connection, envelope: Envelope, size: int) -> None:
    token = read(envelope.data, TokenData).token
    try:
        identity = await session.services.auth.verify(token)
    except ProtocolError as error:
        session.services.guard.login_refused(error, connection.ip, trio.current_time())
        raise
    old = connection.identity
    if identity.org != old.org or identity.user != old.user:
        raise ProtocolError(
            ErrorCode.WRONG_ORGANISATION, "the token is for another organisation or another user"
        )
    if identity.expires is not None and identity.expires < (old.expires or math.inf):
        raise ProtocolError(ErrorCode.BAD_FIELD, "data.token: expires before the present token")
    connection.identity = identity
    session.set_expiry(identity)
    hub = session.services.hub
    left = [room for room in connection.memberships if not identity.grants.allows(room, Permission.JOIN)]
    for room in left:
        session.stop_typing(room)
        hub.leave(connection, room)
    for room, place in connection.memberships.items():
        if not identity.grants.allows(room, Permission.PRESENCE):
            hub.presence.unwatch(place.room.channel, connection)
    data: dict[str, Any] = {"left": left} if left else {}
    if identity.expires is not None:
        data["expires"] = int(identity.expires * 1000)
    session.reply(envelope, data=data or None)


def _subscribe(session: Session, connection: Connection, envelope: Envelope, size: int) -> None:
    patterns = check_filter(session, read(envelope.data, _Patterns).events)
    _set_filter(session, connection, envelope, connection.filter.subscribe(patterns))


def _unsubscribe(session: Session, connection: Connection, envelope: Envelope, size: int) -> None:
    patterns = check_filter(session, read(envelope.data, _Patterns).events)
    _set_filter(session, connection, envelope, connection.filter.unsubscribe(patterns))


def _set_filter(session: Session, connection: Connection, envelope: Envelope, wanted: EventFilter) -> None:
    limit = session.services.settings.limits.patterns_per_filter
    if wanted.size > limit:
        raise ProtocolError(ErrorCode.TOO_MANY_PATTERNS, f"a filter is limited to {limit} patterns")
    session.services.hub.set_filter(connection, wanted)
    session.reply(envelope, data={"events": list(wanted.events), "except": list(wanted.excepted)})


def _publish(session: Session, connection: Connection, envelope: Envelope, size: int) -> None:
    room = envelope.room
    identity = connection.identity
    if room is not None:
        if room not in connection.memberships:
            check_room(room)
        if not identity.grants.allows(room, Permission.PUBLISH):
            raise ProtocolError(ErrorCode.FORBIDDEN, "the token does not permit to publish in this room")
    elif not identity.is_service:
        raise ProtocolError(
            ErrorCode.MISSING_FIELD, "room: is missing (only services publish to their whole organisation)"
        )
    event = check_event(envelope.event)
    mid = envelope.mid
    if mid is not None:
        check_mid(mid)
    critical = envelope.critical is True
    if critical and not identity.is_service:
        raise ProtocolError(ErrorCode.FORBIDDEN, "only services may mark an event as critical")
    if not critical:
        session.services.guard.overload.refuse_publish()
    if session.pending >= session.services.settings.limits.pending_commands:
        raise ProtocolError(ErrorCode.TOO_MANY_PENDING, "too many commands are pending", retry_after=1.0)
    session.pending += 1
    session.services.hub.submit(
        identity.org,
        room,
        event,
        envelope.data,
        functools.partial(_published, session, envelope),
        sender=identity.user,
        mid=mid,
        critical=critical,
        size=size,
    )


def _published(session: Session, envelope: Envelope, result: Position | ProtocolError) -> None:
    session.pending -= 1
    if isinstance(result, ProtocolError):
        session.refuse(result, envelope)
    elif envelope.id is not None:
        session.send(
            Envelope(
                "reply",
                id=envelope.id,
                room=envelope.room,
                seq=result.seq,
                epoch=result.epoch,
                mid=result.mid,
            )
        )


async def _send(session: Session, connection: Connection, envelope: Envelope, size: int) -> None:
    wanted = read(envelope.data, _Send)
    event = check_event(envelope.event)
    if envelope.mid is not None:
        check_mid(envelope.mid)
    if wanted.user is None and wanted.connection is None:
        raise ProtocolError(ErrorCode.MISSING_FIELD, "data: lacks user or connection")
    if wanted.user is not None and wanted.connection is not None:
        raise ProtocolError(ErrorCode.BAD_FIELD, "data: names both a user and a connection")
    # Directed sends are permitted by patterns like rooms are, under the names user:NAME and connection:ID.
    kind = "user" if wanted.user is not None else "connection"
    if not connection.identity.grants.allows_target(f"{kind}:{wanted.user or wanted.connection}"):
        raise ProtocolError(ErrorCode.FORBIDDEN, f"the token does not permit to send to this {kind}")
    sent = await session.services.cluster.send(
        connection.org,
        event,
        wanted.data,
        user=wanted.user,
        connection=wanted.connection,
        sender=connection.user,
        mid=envelope.mid,
    )
    session.reply(envelope, mid=sent.mid, data={"connections": sent.connections})


async def _call(session: Session, connection: Connection, envelope: Envelope, size: int) -> None:
    handler = session.services.calls.find(check_event(envelope.event))
    try:
        result = await handler(connection, envelope.data)
    except ProtocolError:
        raise
    except Exception:
        log.exception("a call handler failed", call=envelope.event)
        raise ProtocolError(ErrorCode.INTERNAL, "the handler of this call failed") from None
    try:
        check_value(result)
    except ProtocolError as error:
        log.error("a call handler returned what cannot be sent", call=envelope.event, reason=error.message)
        raise ProtocolError(ErrorCode.INTERNAL, "the handler of this call failed") from None
    session.reply(envelope, data=result)


def _ack(session: Session, connection: Connection, envelope: Envelope, size: int) -> None:
    room = check_room(envelope.room)
    place = connection.memberships.get(room)
    if place is None:
        raise ProtocolError(ErrorCode.NOT_JOINED, "this room was not joined")
    if envelope.seq is None:
        raise ProtocolError(ErrorCode.MISSING_FIELD, "seq: is missing")
    place.acked = max(place.acked or 0, envelope.seq)
    session.reply(envelope, room=room, seq=place.acked)


async def _history(session: Session, connection: Connection, envelope: Envelope, size: int) -> None:
    room = check_room(envelope.room)
    permit(connection, room, Permission.HISTORY, "read this room's history")
    wanted = read(envelope.data, _History)
    largest = session.services.settings.history.page
    limit = largest if wanted.limit is None else wanted.limit
    if not 1 <= limit <= largest:
        raise ProtocolError(ErrorCode.BAD_FIELD, f"data.limit: must be between 1 and {largest}")
    page = await session.services.hub.history(
        connection.org, room, since=read_since(wanted.since), limit=limit, reader=connection.user
    )
    session.reply(
        envelope,
        room=room,
        epoch=page.epoch,
        seq=page.seq,
        data={
            "events": [event.describe() for event in page.events],
            "more": page.more,
            "complete": page.complete,
        },
    )


async def _presence(session: Session, connection: Connection, envelope: Envelope, size: int) -> None:
    room = check_room(envelope.room)
    permit(connection, room, Permission.PRESENCE, "see who is in this room")
    members = await session.services.hub.presence.members(connection.org, room)
    session.reply(envelope, room=room, data=describe_members(members))


def _info(session: Session, connection: Connection, envelope: Envelope, size: int) -> None:
    session.reply(envelope, data={**connection.describe(), "resume": session.resume_token})


async def _stats(session: Session, connection: Connection, envelope: Envelope, size: int) -> None:
    counts = await session.services.cluster.stats(connection.org)
    allows = connection.identity.grants.allows
    for part in (counts, counts["cluster"]):
        rooms = part.get("rooms", {})
        part["rooms"] = {room: number for room, number in rooms.items() if allows(room, Permission.PRESENCE)}
    session.reply(envelope, data=counts)


def _ping(session: Session, connection: Connection, envelope: Envelope, size: int) -> None:
    session.send(Envelope("pong", id=envelope.id, ts=connection.last_activity, data=envelope.data))


def _typing(session: Session, connection: Connection, envelope: Envelope, size: int) -> None:
    room = check_room(envelope.room)
    if room not in connection.memberships:
        raise ProtocolError(ErrorCode.NOT_JOINED, "this room was not joined")
    permit(connection, room, Permission.PUBLISH, "publish in this room")
    if read(envelope.data, _Typing).state == "start":
        session.start_typing(room)
    else:
        session.stop_typing(room)
    session.reply(envelope, room=room)


COMMANDS: Final[dict[str, Command]] = {
    "auth": _auth,
    "refresh": _refresh,
    "join": join,
    "leave": leave,
    "subscribe": _subscribe,
    "unsubscribe": _unsubscribe,
    "publish": _publish,
    "send": _send,
    "call": _call,
    "ack": _ack,
    "history": _history,
    "presence": _presence,
    "info": _info,
    "stats": _stats,
    "ping": _ping,
    "typing": _typing,
}
