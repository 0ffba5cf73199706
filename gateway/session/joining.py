"""Entering rooms: ``join``, ``leave``, and ``join`` with a resume token, which enters many at once.

A resume token names what a connection had: its rooms with their filters and policies, and
its own filter. The gateway keeps that for a while after the connection has ended, under the
token that ``connected`` and ``info`` gave. Where the client stood in each room only the client
knows for sure (what was sent may have died in a socket), so it may say so; for rooms where it
does not, the position it acknowledged counts, and failing that where it joined.

A connection that is lost for its client may still look open from here. Who shows its token takes it
over: the old one is closed with 4502, and what it had goes to the new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import trio

from gateway.auth.identity import Permission
from gateway.broker.base import Event, HistoryPage, Since, room_channel
from gateway.hub.connection import Connection
from gateway.hub.lag import Overflow
from gateway.hub.room import Membership
from gateway.session.checks import check_filter, permit, read
from protocol.envelope import Envelope
from protocol.errors import ErrorCode, ProtocolError
from protocol.names import check_room
from protocol.patterns import EventFilter

if TYPE_CHECKING:
    from gateway.session.session import Session

__all__ = ["SinceData", "join", "leave", "read_since", "remember"]


class SinceData(msgspec.Struct):
    """A position as clients write it."""

    epoch: str
    seq: int


class _Join(msgspec.Struct):
    since: SinceData | None = None
    events: list[str] | None = None
    overflow: Overflow = "disconnect"
    key: Annotated[str, msgspec.Meta(max_length=100)] = "key"
    presence: bool = False
    resume: str | None = None
    positions: dict[str, SinceData] | None = None


class _SavedRoom(msgspec.Struct, array_like=True):
    room: str
    events: list[str] | None
    overflow: Overflow
    key: str
    epoch: str
    seq: int
    presence: bool = False


class _Saved(msgspec.Struct, array_like=True):
    """What a resume token stands for."""

    org: str
    user: str | None
    events: list[str]
    excepted: list[str]
    subscribed: bool
    rooms: list[_SavedRoom]


def read_since(given: SinceData | None, field: str = "data.since") -> Since | None:
    """Check a position; raises BAD_FIELD."""
    if given is None:
        return None
    if given.seq < 0:
        raise ProtocolError(ErrorCode.BAD_FIELD, f"{field}.seq: must not be negative")
    return Since(given.epoch, given.seq)


async def join(session: Session, connection: Connection, envelope: Envelope, size: int) -> None:
    """Enter a room; without a room and with ``resume``, all rooms of an earlier connection."""
    wanted = read(envelope.data, _Join)
    if envelope.room is None and wanted.resume is not None:
        await _resume(session, connection, envelope, wanted)
        return
    room = check_room(envelope.room)
    events = (
        EventFilter.ALL if wanted.events is None else EventFilter.of(check_filter(session, wanted.events))
    )
    since = read_since(wanted.since)
    entered = await _enter(
        session, connection, room, events, since, wanted.overflow, wanted.key, presence=wanted.presence
    )
    outcome = entered.outcome(session) or None
    session.reply(envelope, room=room, epoch=entered.page.epoch, seq=entered.page.seq, data=outcome)
    entered.replay(session)


def leave(session: Session, connection: Connection, envelope: Envelope, size: int) -> None:
    """Leave a room."""
    room = check_room(envelope.room)
    session.stop_typing(room)
    if not session.services.hub.leave(connection, room):
        raise ProtocolError(ErrorCode.NOT_JOINED, "this room was not joined")
    session.reply(envelope, room=room)


class _Entered:
    """A room just entered, and what was missed there."""

    def __init__(self, place: Membership, page: HistoryPage, since: Since | None, presence: bool) -> None:
        self.place = place
        self.presence = presence
        self.page = page
        self.since = since
        self.missed: list[Event] = [event for event in page.events if place.wants(event)]

    def outcome(self, session: Session) -> dict[str, Any]:
        """What the reply says of the recovery and of those present, as far as that was asked for.

        The reply must follow without a pause: who comes and goes later is told behind it.
        """
        outcome: dict[str, Any] = {}
        if self.since is not None:
            outcome = {"recovered": self.page.complete, "replayed": len(self.missed)}
        if self.presence:
            place = self.place
            outcome["users"] = session.services.hub.presence.begin(place.room.channel, place.connection)
        return outcome

    def replay(self, session: Session) -> None:
        """Send what was missed; goes behind the reply."""
        if self.since is not None:
            session.catching_up.replay(self.place, self.missed, self.page, self.since)


async def _enter(
    session: Session,
    connection: Connection,
    room: str,
    events: EventFilter,
    since: Since | None,
    overflow: Overflow,
    key: str,
    *,
    presence: bool,
) -> _Entered:
    if not connection.identity.grants.allows(room, Permission.JOIN):
        session.services.guard.suspicion.note("refused_joins", connection.ip, trio.current_time())
    permit(connection, room, Permission.JOIN, "join this room")
    limit = session.services.settings.limits.rooms_per_connection
    if room not in connection.memberships and len(connection.memberships) >= limit:
        raise ProtocolError(ErrorCode.TOO_MANY_ROOMS, f"a connection is limited to {limit} rooms")
    if presence:
        permit(connection, room, Permission.PRESENCE, "see who is in this room")
    hub = session.services.hub
    channel = room_channel(connection.org, room)
    try:
        if presence:
            await hub.presence.watch(connection, room)
        place, page = await hub.join(connection, room, events=events, since=since, overflow=overflow, key=key)
    except BaseException:
        if not hub.presence.watches(channel, connection):
            hub.presence.unwatch(channel, connection)
        raise
    if not presence:
        hub.presence.unwatch(channel, connection)
    return _Entered(place, page, since, presence)


async def _resume(session: Session, connection: Connection, envelope: Envelope, wanted: _Join) -> None:
    assert wanted.resume is not None
    saved = await _recall(session, connection, wanted.resume)
    positions = {
        room: read_since(position, "data.positions") for room, position in (wanted.positions or {}).items()
    }
    hub = session.services.hub
    hub.set_filter(connection, EventFilter(saved.events, saved.excepted, subscribed=saved.subscribed))
    outcomes: dict[str, Any] = {}
    entered_rooms: list[_Entered] = []
    try:
        for saved_room in saved.rooms:
            room = saved_room.room
            since = positions.get(room) or Since(saved_room.epoch, saved_room.seq)
            try:
                entered = await _reenter(session, connection, saved_room, since)
            except ProtocolError as error:  # the token of today may permit less
                outcomes[room] = {"code": int(error.code), "message": error.message}
                continue
            entered.place.hold()  # what comes while other rooms are entered comes behind the reply
            entered_rooms.append(entered)
            outcomes[room] = {"epoch": entered.page.epoch, "seq": entered.page.seq}
    except BaseException:
        for entered in entered_rooms:  # it took too long: all or nothing
            hub.leave(connection, entered.place.room.name or "")
        raise
    for entered in entered_rooms:
        outcomes[entered.place.room.name or ""] |= entered.outcome(session)
    session.reply(
        envelope,
        data={
            "rooms": outcomes,
            "events": list(connection.filter.events),
            "except": list(connection.filter.excepted),
        },
    )
    for entered in entered_rooms:
        entered.replay(session)


async def _reenter(session: Session, connection: Connection, saved: _SavedRoom, since: Since) -> _Entered:
    events = EventFilter.ALL if saved.events is None else EventFilter.of(saved.events)
    return await _enter(
        session, connection, saved.room, events, since, saved.overflow, saved.key, presence=saved.presence
    )


async def _recall(session: Session, connection: Connection, token: str) -> _Saved:
    hub = session.services.hub
    value = (
        hub.take_over(connection.org, connection.user, token, connection)
        or await session.services.cluster.take_over(connection.org, connection.user, token)
        or await hub.broker.recall(connection.org, f"resume:{token}")
    )
    saved = None if value is None else msgspec.json.decode(value, type=_Saved)
    if saved is None or saved.org != connection.org or saved.user != connection.user:
        # One answer for all: whether somebody else's token exists is nobody's business.
        raise ProtocolError(ErrorCode.NOT_FOUND, "data.resume: this token is unknown or too old")
    return saved


def remember(session: Session, connection: Connection) -> bytes:
    """Keep what the resume token stands for, for ``connection.resume_ttl`` seconds; returns it."""
    rooms = []
    for name, place in connection.memberships.items():
        events = None if place.events is EventFilter.ALL else list(place.events.events)
        seq = place.joined_at if place.acked is None else place.acked
        watches = session.services.hub.presence.watches(place.room.channel, connection)
        rooms.append(_SavedRoom(name, events, place.overflow, place.key, place.room.epoch, seq, watches))
    saved = _Saved(
        connection.org,
        connection.user,
        list(connection.filter.events),
        list(connection.filter.excepted),
        connection.filter.subscribed,
        rooms,
    )
    value = msgspec.json.encode(saved)
    if rooms or connection.filter is not EventFilter.ALL:
        ttl = session.services.settings.connection.resume_ttl
        session.services.hub.broker.remember(connection.org, f"resume:{session.resume_token}", value, ttl)
    return value
