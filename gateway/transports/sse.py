"""Server-sent events: a session whose messages are the events of one endless HTTP answer.

Where a stream stands is told in the ``id`` of each event: a cursor over its rooms, its organisation and its
user. An event is encoded once for all streams of the same rooms, and so is the part of the cursor that is
the same for them; where its user stands is each stream's own, and is stamped on as the event is queued
(``gateway/wire/stamped.py``). While a stream begins or catches up, it stands elsewhere than the others, and
gets a whole cursor of its own with each event.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import Any, Final
from weakref import WeakValueDictionary

import trio

from gateway.auth.identity import Identity
from gateway.broker.base import Event, Since
from gateway.broker.channels import Kind
from gateway.hub.connection import Connection
from gateway.hub.lag import State
from gateway.hub.room import Membership
from gateway.session.services import Services
from gateway.session.session import Session
from gateway.transports.asking import Asked, Door, commands, enter, hold_own, places, positions
from gateway.transports.cursor import ORGANISATION, USER, Cursors, order_of, packed
from gateway.wire.connection import WireLimits
from gateway.wire.downstream import Downstream, Source
from gateway.wire.engine import Engine
from gateway.wire.listener import Accepted, Life
from gateway.wire.stamped import StampedOutbox
from gateway.wire.upgrade import Request
from protocol.encoding import EventStreamEncoding
from protocol.envelope import Envelope
from protocol.errors import CloseCode, ProtocolError, should_reconnect
from protocol.json import JSON
from protocol.stamps import STAMP

__all__ = ["EventStreams"]

_LOOK: Final = 1.0
"""Seconds after which a stream that catches up is looked at, in case that nobody says that it has."""
_RENEW: Final = 15.0
"""Seconds after which a stream to which nothing was sent is told how far its orders are: its filter may have
held back a lot."""
_HEAD: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
    "Connection": "close",
}


class EventStreams:
    """Serves ``GET /api/v1/stream``; one for all streams of a node."""

    def __init__(
        self,
        services: Services,
        engine: Engine,
        sessions: set[Session],
        *,
        is_draining: Callable[[], bool],
    ) -> None:
        """``sessions`` are those of all transports, which a drain asks to leave."""
        settings = services.settings
        self._services = services
        self._engine = engine
        self._sessions = sessions
        self._door = Door(services, is_draining)
        self._encodings: WeakValueDictionary[tuple[str, ...], EventStreamEncoding] = WeakValueDictionary()
        """Organisation and rooms → the encoding of all such streams."""
        self._limits = WireLimits(
            message_bytes=settings.limits.message_bytes,
            queue_messages=settings.limits.queue_messages,
            queue_bytes=settings.limits.queue_bytes,
            heartbeat=settings.connection.heartbeat,
            close_timeout=settings.connection.close_timeout,
        )

    async def receive(self, accepted: Accepted, request: Request) -> Life:
        """Let one reader in, and return what serves it; raises ``Refusal``."""
        identity, client, asked = await self._door.enter(accepted, request, stays=True)
        wire = Downstream(
            engine=self._engine, limits=self._limits, sock=accepted.sock, stream=accepted.stream
        )
        encoding = self._encoding(identity.org, asked.rooms)
        session = _StreamSession(self._services, wire, JSON, encoding, client)
        session.stream = stream = _Stream(session, wire.outbox, asked, self._door.cursors)
        wire.outbox.on_renewal = stream.renew
        headers = {**_HEAD, **self._door.sharing(request)}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        wire.outbox.put_urgent(f"HTTP/1.1 200 OK\r\n{head}\r\n".encode("latin-1"))
        wire.outbox.discount()
        return self._serve(wire, session, identity, stream)

    def _encoding(self, org: str, rooms: list[str]) -> EventStreamEncoding:
        names = (org, *sorted(rooms))
        encoding = self._encodings.get(names)
        if encoding is None:
            cursors, organisations = self._door.cursors, self._services.hub.organisations
            everybody = order_of(ORGANISATION)
            orders = [(name, order_of(name)) for name in names[1:]]

            def mark() -> bytes:
                organisation = organisations[org]
                everyone = organisation.everyone
                stands = [packed(everybody, everyone.epoch, everyone.seq)]
                for name, order in orders:
                    room = organisation.rooms.get(name)
                    if room is not None and room.epoch and not room.empty:
                        stands.append(packed(order, room.epoch, room.seq))
                return cursors.write_shared(stands, org)

            encoding = self._encodings[names] = EventStreamEncoding(mark)
        return encoding

    async def _serve(
        self, wire: Downstream, session: _StreamSession, identity: Identity, stream: _Stream
    ) -> None:
        guard, peer = self._services.guard, session.client.ip
        self._sessions.add(session)
        guard.opened(peer)
        try:
            await session.admit(identity)
            stream.admitted()
            wire.outbox.flush()
            await wire.run(stream)
        finally:
            self._sessions.discard(session)
            guard.closed(peer)
            session.ended()
            # Cycles would stay until the collector comes, which it does seldom.
            wire.outbox.on_renewal = wire.outbox.stamper = None
            del session.stream


class _StreamSession(Session):
    """A session whose stream has to know when it catches up."""

    __slots__ = ("stream",)

    stream: _Stream

    async def _awaited(
        self, work: Coroutine[Any, Any, None], connection: Connection, envelope: Envelope
    ) -> None:
        # Others have their turn before this returns, and what they send must find the stream begun.
        await super()._awaited(self._telling(work, envelope.room), connection, envelope)

    async def _telling(self, work: Coroutine[Any, Any, None], room: str | None) -> None:
        await work
        self.stream.entered([ORGANISATION, USER] if room is None else [room])

    def catch_up(self) -> None:
        """See ``hub.connection.Peer``."""
        self.stream.restamp()
        super().catch_up()

    def replay(self, event: Event) -> bool:
        """As for any session, with a cursor of this stream's own."""
        self.stream.replaying(event)
        try:
            sent = super().replay(event)
        finally:
            self.stream.replayed()
        if sent:
            self.stream.reached(event)
        return sent

    def refuse(self, error: ProtocolError, envelope: Envelope | None = None) -> None:
        """As for any session; who cannot go on where they were comes back with the same cursor."""
        super().refuse(error, envelope)
        if envelope is not None and envelope.t == "join" and envelope.room is None:
            self.close(CloseCode.TRY_AGAIN_LATER, error.message, retry_after=error.retry_after)


class _Stream(Source):
    """One reader's stream."""

    __slots__ = (
        "_arrived",
        "_asked",
        "_catching_up",
        "_cursors",
        "_entered",
        "_left",
        "_next_mark",
        "_outbox",
        "_reached",
        "_replaying",
        "_sent",
        "_session",
        "_stood",
        "_told",
        "_user",
    )

    def __init__(self, session: Session, outbox: StampedOutbox, asked: Asked, cursors: Cursors) -> None:
        self._session = session
        self._outbox = outbox
        self._asked = asked
        self._cursors = cursors
        self._next_mark = math.inf
        self._sent = 0
        self._told = ""
        self._stood: list[Since] = []
        self._arrived: set[str] = set()
        self._entered = False
        self._left = 0
        self._catching_up = False
        self._replaying = False
        self._reached: dict[str, Since] = {}
        """How far what has not arrived was replayed."""
        self._user = Since("", 0)
        """The last event of the user's order that is queued."""
        outbox.stamper = self._complete

    def admitted(self) -> None:
        """The session has begun; nothing has been waited for since."""
        hold_own(self._session, self._asked, tell=True)
        self._note_user()

    def _note_user(self) -> None:
        connection = self._session.connection
        if connection is not None and connection.user is not None:
            room = connection.internal[1].room
            self._user = Since(room.epoch, room.seq)

    def renew(self) -> None:
        """An event of the user's order is about to be queued."""
        if not self._replaying:
            self._note_user()
            self.restamp()

    @property
    def deadline(self) -> float:
        """See :class:`Source`."""
        return min(self._session.deadline, self._next_mark)

    async def begin(self) -> None:
        """Enter the rooms, and say where the stream begins."""
        wanted = commands(self._asked, tell=True)
        self._left = sum(command.t == "join" for command in wanted)
        if await enter(self._session, wanted):
            self._begin()

    def entered(self, orders: list[str]) -> None:
        """What was asked for there, and was missed, is queued."""
        self._outbox.settle()  # what comes before that
        self._arrived.update(orders)
        self._left -= 1
        if not self._left:
            self._begin()

    def _begin(self) -> None:
        if not self._entered:
            self._entered = True
            self._arrived |= {ORGANISATION, USER}
            self._outbox.put(self.farewell())
            self.restamp()
            self._plan()

    def _plan(self) -> None:
        self._next_mark = trio.current_time() + (_LOOK if self._catching_up else _RENEW)
        self._session.transport.reschedule()

    def restamp(self) -> None:
        """Something has changed in where the stream stands beside the rooms that it shares with others."""
        outbox, connection = self._outbox, self._session.connection
        if connection is None or not self._entered or self._replaying:
            return
        if any(place.lag is not None for place in connection.places):
            outbox.stamper = self._complete
            if not self._catching_up:
                self._catching_up = True
                self._plan()
            return
        if outbox.stamper is not None:
            outbox.settle()  # what others got before this one was where they are
            outbox.stamper = None
            self._catching_up = False
            self._note_user()
        if connection.user is None:
            outbox.stamp = b"id: "
            return
        mine = self._cursors.write({USER: self._user}, connection.org, connection.user)
        outbox.stamp = f"id: {mine}.".encode("ascii")

    def _complete(self, frame: bytes) -> bytes:
        """Give a frame, which may have been made a while ago, a cursor of this stream's own."""
        event, _, rest = frame.partition(STAMP)
        connection = self._session.connection
        assert connection is not None
        apart = self._stands()
        for order, place in places(self._session, self._asked):
            if (order in self._arrived or order not in self._asked.since) and _is_live(place):
                del apart[order]  # there it stands where all stand
                if order == USER:
                    apart[order] = self._user
        shared = rest[:-2].decode("ascii")
        mine = self._cursors.rewrite(shared, apart, connection.org, connection.user or "")
        return b"%bid: %b\n\n" % (event, mine.encode("ascii"))

    def replaying(self, event: Event) -> None:
        """``event`` goes out next, and is where its order stands then."""
        connection = self._session.connection
        assert connection is not None
        stands = {**self._stands(), _order(event): Since(event.epoch or "", event.seq or 0)}
        mine = self._cursors.write(stands, connection.org, connection.user or "")
        self._outbox.settle()
        self._outbox.stamper = None
        self._outbox.stamp = f"id: {mine}\n: ".encode("ascii")
        self._replaying = True

    def replayed(self) -> None:
        """What was :meth:`replaying` is queued, or was refused."""
        self._replaying = False
        self._outbox.stamper = self._complete
        self.restamp()

    def reached(self, event: Event) -> None:
        """``event`` was replayed."""
        since = Since(event.epoch or "", event.seq or 0)
        if not self._entered:
            self._reached[_order(event)] = since
        if event.channel.kind is Kind.USER:
            self._user = since

    def settled(self) -> None:
        """See :class:`Source`: what was missed has come."""
        if self._catching_up:
            self.restamp()
            if not self._catching_up:
                self._mark()

    def on_deadline(self) -> None:
        """Do what the session has to do, and tell the cursor if it has moved and no event tells it."""
        now = trio.current_time()
        if now >= self._session.deadline:
            self._session.on_deadline()
        if now >= self._next_mark:
            self._mark()
            self.restamp()
            self._plan()

    def _mark(self) -> None:
        connection, outbox = self._session.connection, self._outbox
        if connection is None or outbox.blocked or outbox.sealed:
            return
        stood = [Since(place.room.epoch, place.room.seq) for place in connection.places]
        moved = self._catching_up or (stood != self._stood and outbox.sent_messages == self._sent)
        self._stood = stood
        if moved:
            told = self._told
            block = self.farewell()
            if self._told != told:
                outbox.put(block)
                outbox.flush()
        self._sent = outbox.sent_messages

    def farewell(self) -> bytes:
        """A block without data that tells where the client stands behind all that is queued."""
        connection = self._session.connection
        if connection is None:
            return super().farewell()
        self._told = self._cursors.write(self._stands(), connection.org, connection.user or "")
        return f"id: {self._told}\n\n".encode("ascii")

    def _stands(self) -> dict[str, Since]:
        stands = positions(self._session, self._asked, self._arrived)
        for order, since in self._reached.items() if not self._entered else ():
            if order not in self._arrived:
                stands[order] = since
        return stands

    def last_words(self, code: int, reason: str) -> bytes:
        """See :class:`Source`; no cursor, because what waited was dropped."""
        data = {"reconnect": should_reconnect(code)}
        return self._session.encoding.encode(Envelope("closing", code=code, message=reason, data=data))


def _is_live(place: Membership) -> bool:
    """The place gets what comes, or this node has come to where it has read ahead."""
    lag, room = place.lag, place.room
    return lag is None or (lag.state is State.AHEAD and lag.epoch == room.epoch and lag.position <= room.seq)


def _order(event: Event) -> str:
    channel = event.channel
    return {Kind.ORGANISATION: ORGANISATION, Kind.USER: USER}.get(channel.kind, channel.name)
