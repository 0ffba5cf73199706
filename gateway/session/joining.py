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

from collections.abc import Iterable
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import trio

from gateway.auth.identity import Permission
from gateway.broker.base import Event, HistoryPage, Since, room_channel
from gateway.hub.connection import Connection
from gateway.hub.lag import Overflow
from gateway.hub.room import Membership
from gateway.operations.rules import permit
from gateway.session import snapshot
from gateway.session.checks import Own, SinceData, check_filter, own_place, read, read_since
from gateway.session.context import Context
from protocol.envelope import Envelope
from protocol.errors import ErrorCode, ProtocolError
from protocol.names import check_room
from protocol.patterns import EventFilter

__all__ = ["join", "leave"]

_AT_ONCE: Final = 16
"""Rooms that are restored before others have their turn: each takes some 0.1 ms, however fast the broker
is."""


_LOOKS: Final = 5
"""Attempts to see a room's state: one fails when the room's history passes by while the database is asked."""
_BUSY: Final = 1.0
"""Seconds after which a client is asked to try for a snapshot again."""

_OWN: Final[tuple[Own, ...]] = ("organisation", "user")


class _JoinOwn(msgspec.Struct):
    since: SinceData | None = None
    events: list[str] | None = None
    overflow: Overflow = "disconnect"
    key: Annotated[str, msgspec.Meta(max_length=100)] = "key"


class _Join(msgspec.Struct):
    since: SinceData | None = None
    events: list[str] | None = None
    overflow: Overflow = "disconnect"
    key: Annotated[str, msgspec.Meta(max_length=100)] = "key"
    presence: bool = False
    snapshot: bool = False
    resume: str | None = None
    positions: dict[str, SinceData] | None = None
    organisation: _JoinOwn | None = None
    user: _JoinOwn | None = None


async def join(session: Context, connection: Connection, envelope: Envelope, size: int) -> None:
    """Enter a room; without one go on in the organisation and the user, or resume an earlier connection."""
    wanted = read(envelope.data, _Join)
    own = wanted.organisation is not None or wanted.user is not None
    if envelope.room is None and wanted.resume is not None:
        await _resume(session, connection, envelope, wanted)
        return
    if envelope.room is None and own:
        await _go_on(session, connection, envelope, wanted)
        return
    room = check_room(envelope.room)
    if own:
        raise ProtocolError(ErrorCode.BAD_FIELD, "data.organisation and data.user: not with a room")
    events = _filter(session, wanted.events)
    since = read_since(wanted.since)
    if wanted.snapshot:
        await _enter_with_snapshot(session, connection, envelope, wanted, room, events)
        return
    entered = await _enter(
        session, connection, room, events, since, wanted.overflow, wanted.key, presence=wanted.presence
    )
    outcome = entered.outcome(session) or None
    session.reply(envelope, room=room, epoch=entered.page.epoch, seq=entered.page.seq, data=outcome)
    entered.replay(session)


async def _enter_with_snapshot(
    session: Context,
    connection: Connection,
    envelope: Envelope,
    wanted: _Join,
    room: str,
    events: EventFilter,
) -> None:
    """Enter a room and say its state there, instead of what was missed before."""
    permit(connection.identity, room, Permission.JOIN)
    executions = session.services.operations.executions
    was_member = room in connection.memberships
    for _ in range(_LOOKS):
        look = await executions.look(connection.org, room)
        entered = await _enter(
            session,
            connection,
            room,
            events,
            look.since,
            wanted.overflow,
            wanted.key,
            presence=wanted.presence,
        )
        whole, state = look.at(entered.page)
        if whole:
            page = entered.page
            entered.since = None  # what came since is in the state
            entered.place.joined_at = Since(page.epoch, page.seq)
            data = {**entered.outcome(session), "snapshot": state}
            session.reply(envelope, room=room, epoch=page.epoch, seq=page.seq, data=data)
            return
    if not was_member:
        session.services.hub.leave(connection, room)
    raise ProtocolError(ErrorCode.OVERLOADED, "this room is too busy for a snapshot now", retry_after=_BUSY)


def _filter(session: Context, patterns: list[str] | None) -> EventFilter:
    if patterns is None:
        return EventFilter.ALL
    return EventFilter.of(check_filter(patterns, session.services.settings.limits.patterns_per_filter))


def leave(session: Context, connection: Connection, envelope: Envelope, size: int) -> None:
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

    def outcome(self, session: Context) -> dict[str, Any]:
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

    def replay(self, session: Context) -> None:
        """Send what was missed; goes behind the reply."""
        if self.since is not None:
            session.replay_missed(self.place, self.missed, self.page, self.since)


async def _enter(
    session: Context,
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
    permit(connection.identity, room, Permission.JOIN)
    limit = session.services.settings.limits.rooms_per_connection
    if room not in connection.memberships and len(connection.memberships) >= limit:
        raise ProtocolError(ErrorCode.TOO_MANY_ROOMS, f"a connection is limited to {limit} rooms")
    if presence:
        permit(connection.identity, room, Permission.PRESENCE)
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


class _Wish(NamedTuple):
    """How to go on in the organisation or the user."""

    of: Own
    place: Membership
    events: EventFilter
    since: Since | None
    overflow: Overflow
    key: str


def _wishes(session: Context, connection: Connection, wanted: _Join) -> dict[Own, _Wish]:
    """What a ``join`` asks for beside rooms; raises 1xx."""
    found: dict[Own, _Wish] = {}
    given: dict[Own, _JoinOwn | None] = {"organisation": wanted.organisation, "user": wanted.user}
    for of, own in given.items():
        if own is not None:
            place = own_place(connection, of, f"data.{of}")
            events = _filter(session, own.events)
            since = read_since(own.since, f"data.{of}.since")
            found[of] = _Wish(of, place, events, since, own.overflow, own.key)
    return found


async def _enter_own(
    session: Context, connection: Connection, wishes: Iterable[_Wish]
) -> list[tuple[Own, _Entered]]:
    """Go on in each; what comes meanwhile comes behind the reply, which :meth:`_Entered.replay` ends."""
    entered: list[tuple[Own, _Entered]] = []
    try:
        for of, place, events, since, overflow, key in wishes:
            page = await session.services.hub.join_own(
                connection, place, events=events, since=since, overflow=overflow, key=key
            )
            if since is not None:
                place.hold()
            entered.append((of, _Entered(place, page, since, presence=False)))
    except BaseException:
        for _, each in entered:  # what was read is read again
            _abandon(each)
        raise
    return entered


def _abandon(entered: _Entered) -> None:
    lag, since = entered.place.lag, entered.since
    if lag is not None and since is not None:
        lag.epoch, lag.position = since
        entered.place.release()


def _outcomes(session: Context, entered: list[tuple[Own, _Entered]]) -> dict[str, Any]:
    return {
        of: {"epoch": each.page.epoch, "seq": each.page.seq, **each.outcome(session)} for of, each in entered
    }


async def _go_on(session: Context, connection: Connection, envelope: Envelope, wanted: _Join) -> None:
    entered = await _enter_own(session, connection, _wishes(session, connection, wanted).values())
    session.reply(envelope, data=_outcomes(session, entered))
    for _, each in entered:
        each.replay(session)


async def _resume(session: Context, connection: Connection, envelope: Envelope, wanted: _Join) -> None:
    assert wanted.resume is not None
    saved = await _recall(session, connection, wanted.resume)
    positions = {
        room: read_since(position, "data.positions") for room, position in (wanted.positions or {}).items()
    }
    wishes = _wishes(session, connection, wanted)
    for of, place, known in zip(_OWN, connection.internal, saved.own, strict=False):
        if of not in wishes:
            since = Since(known.epoch, known.seq)
            wishes[of] = _Wish(of, place, known.filter, since, known.overflow, known.key)
        elif wishes[of].since is None:
            wishes[of] = wishes[of]._replace(since=Since(known.epoch, known.seq))
    hub = session.services.hub
    session.count_joins(len(saved.rooms))
    hub.set_filter(connection, saved.filter)
    outcomes: dict[str, Any] = {}
    entered_rooms: list[_Entered] = []
    try:
        for number, saved_room in enumerate(saved.rooms):
            if number % _AT_ONCE == _AT_ONCE - 1:
                await trio.lowlevel.checkpoint()
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
        own = await _enter_own(session, connection, wishes.values())
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
            **_outcomes(session, own),
        },
    )
    for entered in (*entered_rooms, *(each for _, each in own)):
        entered.replay(session)


async def _reenter(
    session: Context, connection: Connection, saved: snapshot.SavedRoom, since: Since
) -> _Entered:
    return await _enter(
        session,
        connection,
        saved.room,
        saved.filter,
        since,
        saved.overflow,
        saved.key,
        presence=saved.presence,
    )


async def _recall(session: Context, connection: Connection, token: str) -> snapshot.Snapshot:
    hub = session.services.hub
    value = (
        hub.take_over(connection.org, connection.user, token, connection)
        or await session.services.cluster.take_over(connection.org, connection.user, token)
        or await hub.broker.recall(connection.org, snapshot.note(token))
    )
    saved = None if value is None else snapshot.restore(value, connection)
    if saved is None:
        # One answer for all: whether somebody else's token exists is nobody's business.
        raise ProtocolError(ErrorCode.NOT_FOUND, "data.resume: this token is unknown or too old")
    return saved
