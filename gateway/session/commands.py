"""What a client can ask: one function per command, and the table of them.

A function gets the session, its connection, the envelope, and the message's size in
bytes. It answers at once, or returns an awaitable. It raises ``ProtocolError`` to refuse.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Final, Literal

import msgspec
import trio

from gateway.auth.identity import Permission
from gateway.broker.base import Position, Since
from gateway.calls.caller import Caller
from gateway.hub.connection import Connection
from gateway.operations.rules import permit
from gateway.session.checks import Own, SinceData, TokenData, check_filter, own_place, read, read_since
from gateway.session.context import Context
from gateway.session.joining import join, leave
from gateway.session.turns import in_turn
from protocol.envelope import Envelope
from protocol.errors import ErrorCode, ProtocolError
from protocol.names import check_event, check_room
from protocol.patterns import EventFilter

__all__ = ["COMMANDS", "Command", "TypingData"]

Command = Callable[[Context, Connection, Envelope, int], Coroutine[Any, Any, None] | None]


# --- the shapes of ``data`` ---------------------------------------------------------------------


class _Patterns(msgspec.Struct):
    events: list[str]


class _Send(msgspec.Struct):
    user: str | None = None
    users: list[str] | None = None
    connection: str | None = None
    data: Any = None
    ephemeral: bool = False


class _History(msgspec.Struct):
    since: SinceData | None = None
    limit: int | None = None
    of: Own | None = None


class _Ack(msgspec.Struct):
    of: Own | None = None


class TypingData(msgspec.Struct):
    """The data of ``typing``."""

    state: Literal["start", "stop"] = "start"


# --- the commands ---------------------------------------------------------------------------------


def _auth(session: Context, connection: Connection, envelope: Envelope, size: int) -> None:
    raise ProtocolError(ErrorCode.BAD_FIELD, "t: this connection is authenticated; use refresh")


async def _refresh(session: Context, connection: Connection, envelope: Envelope, size: int) -> None:
    token = read(envelope.data, TokenData).token
    identity = await session.services.admission.renew(connection.identity, connection.ip, token)
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


def _subscribe(session: Context, connection: Connection, envelope: Envelope, size: int) -> None:
    patterns = _patterns(session, envelope)
    _set_filter(session, connection, envelope, connection.filter.subscribe(patterns))


def _unsubscribe(session: Context, connection: Connection, envelope: Envelope, size: int) -> None:
    patterns = _patterns(session, envelope)
    _set_filter(session, connection, envelope, connection.filter.unsubscribe(patterns))


def _patterns(session: Context, envelope: Envelope) -> list[str]:
    limit = session.services.settings.limits.patterns_per_filter
    return check_filter(read(envelope.data, _Patterns).events, limit)


def _set_filter(session: Context, connection: Connection, envelope: Envelope, wanted: EventFilter) -> None:
    wanted.check_size(session.services.settings.limits.patterns_per_filter)
    session.services.hub.set_filter(connection, wanted)
    session.reply(envelope, data={"events": list(wanted.events), "except": list(wanted.excepted)})


def _publish(session: Context, connection: Connection, envelope: Envelope, size: int) -> None:
    services = session.services
    if session.pending >= services.settings.limits.pending_commands:
        raise ProtocolError(ErrorCode.TOO_MANY_PENDING, "too many commands are pending", retry_after=1.0)
    session.pending += 1
    try:
        services.operations.events.submit(
            connection.identity,
            envelope.room,
            envelope.event,
            envelope.data,
            functools.partial(_published, session, envelope),
            envelope.mid,
            envelope.critical is True,
            size,
        )
    except ProtocolError:  # refused, so nothing will call back
        session.pending -= 1
        raise


def _published(session: Context, envelope: Envelope, result: Position | ProtocolError) -> None:
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


async def _send(session: Context, connection: Connection, envelope: Envelope, size: int) -> None:
    wanted = read(envelope.data, _Send)
    if wanted.users is not None:
        await _send_to_users(session, connection, envelope, wanted, wanted.users)
        return
    sent = await session.services.operations.events.send(
        connection.identity,
        envelope.event,
        wanted.data,
        user=wanted.user,
        connection=wanted.connection,
        mid=envelope.mid,
        ephemeral=wanted.ephemeral,
    )
    session.reply(
        envelope, mid=sent.mid, seq=sent.seq, epoch=sent.epoch, data={"connections": sent.connections}
    )


async def _send_to_users(
    session: Context, connection: Connection, envelope: Envelope, wanted: _Send, users: list[str]
) -> None:
    if wanted.user is not None or wanted.connection is not None:
        raise ProtocolError(ErrorCode.BAD_FIELD, "data.users: not with data.user or data.connection")
    sent = await session.services.operations.events.send_to_users(
        connection.identity,
        envelope.event,
        wanted.data,
        users=users,
        mid=envelope.mid,
        ephemeral=wanted.ephemeral,
    )
    session.count_users(len(sent))
    places = {
        user: {} if each.seq is None else {"seq": each.seq, "epoch": each.epoch}
        for user, each in sent.items()
    }
    session.reply(envelope, mid=next(iter(sent.values())).mid, data={"users": places})


def _call(session: Context, connection: Connection, envelope: Envelope, size: int) -> None:
    name = check_event(envelope.event)
    if session.pending >= session.services.settings.limits.pending_commands:
        raise ProtocolError(ErrorCode.TOO_MANY_PENDING, "too many commands are pending", retry_after=1.0)
    session.pending += 1
    session.transport.spawn(functools.partial(_answer, session, connection, envelope, name, size))


async def _answer(session: Context, connection: Connection, envelope: Envelope, name: str, size: int) -> None:
    """Answer one call, in a task of its own: commands behind it are not held up."""
    calls, settings = session.services.calls, session.services.settings.connection
    caller = Caller(connection.id, connection.identity, connection.ip)

    async def invoke() -> None:
        session.reply(envelope, data=await calls.invoke(name, envelope.data, caller=caller))

    try:
        with calls.hold(connection.org, size), trio.move_on_after(settings.command_timeout) as scope:
            await in_turn(invoke(), connection.organisation.share)
        if scope.cancelled_caught:
            raise ProtocolError(ErrorCode.TIMEOUT, "the command took too long", retry_after=1.0)
    except ProtocolError as error:
        session.refuse(error, envelope)
    finally:
        session.pending -= 1
        session.transport.outbox.flush()  # nobody else does it behind a task


def _ack(session: Context, connection: Connection, envelope: Envelope, size: int) -> None:
    room = envelope.room
    of = None if envelope.data is None else read(envelope.data, _Ack).of
    if of is None:
        place = connection.memberships.get(check_room(room))
    elif room is None:
        place = own_place(connection, of, "data.of")
    else:
        raise _room_and_of()
    if place is None:
        raise ProtocolError(ErrorCode.NOT_JOINED, "this room was not joined")
    if envelope.seq is None:
        raise ProtocolError(ErrorCode.MISSING_FIELD, "seq: is missing")
    acked = Since(envelope.epoch or place.room.epoch, envelope.seq)
    # Positions of different epochs cannot be compared: the later acknowledgement counts.
    if place.acked is None or place.acked.epoch != acked.epoch or place.acked.seq < acked.seq:
        place.acked = acked
    session.reply(envelope, room=room, epoch=place.acked.epoch, seq=place.acked.seq)


async def _history(session: Context, connection: Connection, envelope: Envelope, size: int) -> None:
    wanted = read(envelope.data, _History)
    room = envelope.room
    rooms = session.services.operations.rooms
    since = read_since(wanted.since)
    if wanted.of is None:
        page = await rooms.history(connection.identity, room, since=since, limit=wanted.limit)
    elif room is None:
        page = await rooms.own_history(connection.identity, wanted.of, since=since, limit=wanted.limit)
    else:
        raise _room_and_of()
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


def _room_and_of() -> ProtocolError:
    return ProtocolError(ErrorCode.BAD_FIELD, "room and data.of: only one of them may be given")


async def _presence(session: Context, connection: Connection, envelope: Envelope, size: int) -> None:
    found = await session.services.operations.rooms.presence(connection.identity, envelope.room)
    session.reply(envelope, room=envelope.room, data=found)


def _info(session: Context, connection: Connection, envelope: Envelope, size: int) -> None:
    session.reply(envelope, data={**connection.describe(), "resume": session.resume_token})


async def _stats(session: Context, connection: Connection, envelope: Envelope, size: int) -> None:
    session.reply(envelope, data=await session.services.operations.connections.stats(connection.identity))


def _ping(session: Context, connection: Connection, envelope: Envelope, size: int) -> None:
    session.send(Envelope("pong", id=envelope.id, ts=connection.last_activity, data=envelope.data))


def _typing(session: Context, connection: Connection, envelope: Envelope, size: int) -> None:
    room = check_room(envelope.room)
    if room not in connection.memberships:
        raise ProtocolError(ErrorCode.NOT_JOINED, "this room was not joined")
    permit(connection.identity, room, Permission.PUBLISH)
    if read(envelope.data, TypingData).state == "start":
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
