"""Server-sent events: a session whose messages are the events of one endless HTTP answer.

Where a stream stands is told in ``id`` lines. A stream of one room has them in the events themselves, which
all its readers share and which are encoded once; a cursor over several rooms is another one for each client,
so it comes in a block of its own, without data: EventSource takes note of it and tells nobody. It comes at
most once a second, and at every end that the gateway knows of, so that only what is cut off without a word
is repeated for up to a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final
from weakref import WeakValueDictionary

import trio

from gateway.auth.identity import Identity
from gateway.broker.base import Since
from gateway.session.services import Services
from gateway.session.session import Session
from gateway.transports.asking import Asked, Door, enter_rooms, positions
from gateway.transports.cursor import Cursors
from gateway.wire.connection import WireLimits
from gateway.wire.downstream import Downstream, Source
from gateway.wire.engine import Engine
from gateway.wire.listener import Accepted, Life
from gateway.wire.upgrade import Request
from protocol.encoding import EventStreamEncoding
from protocol.envelope import Envelope
from protocol.errors import should_reconnect
from protocol.json import JSON

__all__ = ["EventStreams"]

_MARK: Final = 1.0
"""Seconds between two cursors of a stream of several rooms."""
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
        self._plain = EventStreamEncoding()
        self._marked: WeakValueDictionary[str, EventStreamEncoding] = WeakValueDictionary()
        """Organisation → the encoding of its streams of one room."""
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
        # A stream that enters the order of the organisation or of the user as well has more than one order.
        one = len(asked.rooms) == 1
        encoding = self._encoding_with_marks(identity.org) if one else self._plain
        session = Session(self._services, wire, JSON, encoding, client)
        headers = {**_HEAD, **self._door.sharing(request)}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        wire.outbox.put_urgent(f"HTTP/1.1 200 OK\r\n{head}\r\n".encode("latin-1"))
        wire.outbox.discount()
        return self._serve(wire, session, identity, _Stream(session, asked, self._door.cursors))

    def _encoding_with_marks(self, org: str) -> EventStreamEncoding:
        encoding = self._marked.get(org)
        if encoding is None:
            cursors = self._door.cursors

            def mark(envelope: Envelope) -> str:
                if envelope.room is None:
                    return ""
                return cursors.write({envelope.room: Since(envelope.epoch or "", envelope.seq or 0)}, org)

            encoding = self._marked[org] = EventStreamEncoding(mark)
        return encoding

    async def _serve(self, wire: Downstream, session: Session, identity: Identity, stream: _Stream) -> None:
        guard, peer = self._services.guard, session.client.ip
        self._sessions.add(session)
        guard.opened(peer)
        try:
            await session.admit(identity)
            wire.outbox.flush()
            await wire.run(stream)
        finally:
            self._sessions.discard(session)
            guard.closed(peer)
            session.ended()


class _Stream(Source):
    """One reader's stream."""

    __slots__ = ("_asked", "_begun", "_cursors", "_next_mark", "_sent", "_session", "_told")

    def __init__(self, session: Session, asked: Asked, cursors: Cursors) -> None:
        self._session = session
        self._asked = asked
        self._cursors = cursors
        self._next_mark = math.inf
        self._sent = 0
        self._told = ""
        self._begun = False

    @property
    def deadline(self) -> float:
        """See :class:`Source`."""
        return min(self._session.deadline, self._next_mark)

    async def begin(self) -> None:
        """Enter the rooms, and say where the stream begins."""
        await enter_rooms(self._session, self._asked, tell=True)
        self._begun = True
        if self._asked.rooms:
            self._session.outbox.put(self.farewell())
        if len(self._asked.rooms) > 1:
            self._next_mark = trio.current_time() + _MARK
            self._session.transport.reschedule()

    def on_deadline(self) -> None:
        """Do what the session has to do, and tell the cursor if it has moved."""
        now = trio.current_time()
        if now >= self._session.deadline:
            self._session.on_deadline()
        if now >= self._next_mark:
            outbox = self._session.outbox
            self._next_mark = now + _MARK
            if outbox.sent_messages != self._sent and not outbox.blocked:
                told = self._told
                block = self.farewell()
                if self._told != told:
                    outbox.put(block)
                    outbox.flush()
                self._sent = outbox.sent_messages

    def farewell(self) -> bytes:
        """A block without data that tells where the client stands behind all that is queued."""
        connection = self._session.connection
        if connection is None or not self._asked.rooms:
            return super().farewell()
        # Of a room that is not entered yet, what the client said itself still holds.
        stands = (
            positions(self._session) if self._begun else {**self._asked.since, **positions(self._session)}
        )
        self._told = self._cursors.write(stands, connection.org, connection.user or "")
        return f"id: {self._told}\n\n".encode("ascii")

    def last_words(self, code: int, reason: str) -> bytes:
        """See :class:`Source`; no cursor, because what waited was dropped."""
        data = {"reconnect": should_reconnect(code)}
        return self._session.encoding.encode(Envelope("closing", code=code, message=reason, data=data))
