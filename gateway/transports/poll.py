"""Long-poll: a session that lasts until there is something to tell, for those who can do nothing else.

A poll enters its rooms where its cursor says, waits if nothing was missed there, and answers with what came
and the next cursor. All that its client needs is in that answer, so any node may answer the next one. A poll
that waited in vain is kept for a moment, in case the same is asked again (``waiting``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import trio

from gateway.auth.identity import Identity
from gateway.hub.connection import Connection
from gateway.session.commands import COMMANDS
from gateway.session.services import Client, Services
from gateway.session.session import Session
from gateway.session.transport import Transport
from gateway.session.turns import counted
from gateway.transports.asking import Asked, Door, commands, hold_own, positions
from gateway.transports.cursor import ORGANISATION, USER
from gateway.transports.waiting import PollTransport
from gateway.wire.engine import Engine
from gateway.wire.listener import Accepted, Life
from gateway.wire.outbox import Frame
from gateway.wire.upgrade import Refusal, Request, refusal_response
from protocol.codec import Codec
from protocol.encoding import Encoding, PollEncoding
from protocol.envelope import Envelope
from protocol.errors import CloseCode, ErrorCode, ProtocolError
from protocol.json import JSON

__all__ = ["Polls"]

_DEFAULT: Final = 25.0
_LONGEST: Final = 60.0
"""Seconds that a poll waits: proxies cut off what is silent for longer."""
_AT_ONCE: Final = 8
"""Rooms that are entered before others have their turn."""
_PATIENT: Final = 1.0
"""Seconds: what is on its way from another node comes sooner."""
_COMES_BACK: Final = frozenset({CloseCode.NORMAL, CloseCode.SERVICE_RESTART})
_ENCODING: Final = PollEncoding()
_HEADS: Final = 64
"""Heads of answers that are kept, which differ by the origin of the page that asks."""


class Polls:
    """Serves ``GET /api/v1/poll``; one for all polls of a node."""

    def __init__(
        self,
        services: Services,
        engine: Engine,
        sessions: set[Session],
        *,
        is_draining: Callable[[], bool],
    ) -> None:
        """``sessions`` are those of all transports, which a drain asks to leave."""
        self._services = services
        self._engine = engine
        self._sessions = sessions
        self._door = Door(services, is_draining)

    async def receive(self, accepted: Accepted, request: Request) -> Life:
        """Let one poll in, and return what answers it; raises ``Refusal``."""
        begun = trio.current_time()
        with self._door.refusing(request):
            timeout = _timeout(request.parameter("timeout"))
        identity, client, asked = await self._door.enter(accepted, request, stays=False)
        limits = self._services.settings.limits
        transport = PollTransport(self._engine, accepted, limits.queue_messages, limits.queue_bytes)
        transport.stays = transport.stays and bool(request.mark)
        session = _PollSession(self._services, transport, JSON, _ENCODING, client)
        session.tells = asked.tell
        session.timeout = timeout
        # A ticket is good once, and who is greeted is greeted each time.
        mark = b"" if asked.tell or request.parameter("ticket") else request.mark
        poll = _Poll(self._services, self._door, session, identity, asked, mark=mark, timeout=timeout)
        poll.sharing = _lines(tuple(self._door.sharing(request).items()))
        return self._serve(request, poll, session, transport, begun)

    async def _serve(
        self,
        request: Request | None,
        poll: _Poll,
        session: _PollSession,
        transport: PollTransport,
        begun: float,
    ) -> bytes | None:
        self._sessions.add(session)
        answer = b""
        try:
            await session.admit(poll.identity)
            hold_own(session, poll.asked, tell=session.tells)
            entered = await session.enter(commands(poll.asked, tell=session.tells))
            self._services.hub.flusher.flush()
            self._stays(session, None)
            if session.refused is not None:
                assert request is not None
                answer = self._refusal(request, session.refused)
                transport.stays = False
            else:
                request = None  # a poll waits for long
                if not entered:
                    poll.mark = b""
                if await transport.wait(session, poll, begun):
                    transport.stays = transport.stays and not self._door.is_draining()
                    answer = poll.answer(transport.take(), entered=entered, stays=transport.stays)
        finally:
            self._sessions.discard(session)
            transport.close(1000)
            self._stays(session, poll.timeout)
            session.ended()
            transport.end()
        if transport.gone:
            return None
        return await transport.send(answer or transport.unsent, self._services.settings.limits.send_timeout)

    def _stays(self, session: _PollSession, seconds: float | None) -> None:
        """The user is still in the rooms when the poll has ended; with None the poll has begun."""
        connection = session.connection
        if connection is None or connection.user is None:
            return
        lingering = self._services.hub.lingering
        if seconds is None:
            lingering.back(connection.org, connection.user, session.joined)
        elif session.transport.close_code in _COMES_BACK:
            grace = self._services.settings.connection.poll_grace
            lingering.stay(connection.org, connection.user, session.joined, seconds + grace)

    def _refusal(self, request: Request, error: ProtocolError) -> bytes:
        try:
            with self._door.refusing(request):
                raise error
        except Refusal as refusal:
            return refusal_response(refusal)


class _Poll:
    """What was asked, and what is answered; see :class:`~gateway.transports.waiting.Repeated`."""

    __slots__ = ("_door", "_services", "_session", "asked", "identity", "mark", "sharing", "timeout")

    def __init__(
        self,
        services: Services,
        door: Door,
        session: _PollSession,
        identity: Identity,
        asked: Asked,
        *,
        mark: bytes,
        timeout: float,
    ) -> None:
        self._services = services
        self._door = door
        self._session = session
        self.identity = identity
        self.asked = asked
        self.mark = mark
        self.timeout = timeout
        self.sharing = ""
        """Lines of the answer's head."""

    def answer(self, frames: list[Frame], *, entered: bool, stays: bool) -> bytes:
        """A whole answer: ``frames``, and where the client stands behind them."""
        session, asked, identity = self._session, self.asked, self.identity
        arrived = {*asked.rooms, ORGANISATION, USER} if entered else {*session.joined}
        stands = positions(session, asked, arrived)
        cursor = self._door.cursors.write(stands, identity.org, identity.user or "").encode("ascii")
        body = b'{"messages":[%b],"cursor":"%b"}' % (b",".join(frames), cursor)
        head = _head(self.sharing, stays)
        return b"%b%d\r\n\r\n%b" % (head, len(body), body)

    def in_vain(self) -> bytes | None:
        """See :class:`Repeated`: not while anything is being caught up with, nor in a drain."""
        connection = self._session.connection
        if connection is None or self._door.is_draining():
            return None
        for place in connection.places:
            if place.lag is not None:
                return None
        return self.answer([], entered=True, stays=True)

    def again(self) -> bool:
        """See :class:`Repeated`: the same is counted as it was the first time."""
        services, ip = self._services, self._session.client.ip
        if self._door.is_draining():
            return False
        try:
            services.guard.check_address(ip, trio.current_time())
            services.admission.count(self.identity, ip, 0)
        except ProtocolError:
            return False
        services.hub.counters.transports[PollTransport.kind] += 1
        return True


@lru_cache(_HEADS)
def _lines(headers: tuple[tuple[str, str], ...]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers)


@lru_cache(_HEADS)
def _head(sharing: str, stays: bool) -> bytes:
    """The head of an answer, up to its length."""
    ending = "" if stays else "Connection: close\r\n"
    return (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
        f"X-Content-Type-Options: nosniff\r\n{ending}{sharing}Content-Length: "
    ).encode("latin-1")


class _PollSession(Session):
    """A session whose refusals are the answer, unless they shall come with the rest."""

    __slots__ = ("refused", "tells", "timeout")

    def __init__(
        self, services: Services, transport: Transport, codec: Codec, encoding: Encoding, client: Client
    ) -> None:
        super().__init__(services, transport, codec, encoding, client)
        self.refused: ProtocolError | None = None
        self.tells = False
        self.timeout = 0.0
        """Seconds that it waits."""

    @property
    def patient(self) -> bool:
        """One that does not wait is to be told all that there is anywhere."""
        return self.timeout >= _PATIENT and not self.tells

    @property
    def joined(self) -> list[str]:
        """The rooms that were entered."""
        return [] if self.connection is None else self.connection.rooms

    def greet(self, connection: Connection, id: int | None, unread: int | None) -> None:
        """As for any session, if that was asked for: who polls again and again knows."""
        if self.tells:
            super().greet(connection, id, unread)

    async def enter(self, commands: list[Envelope]) -> bool:
        """Do what the query asks for; returns whether all was done before the transport closed.

        As :meth:`on_message` would, but that the commands need no codec, and no deadline of their own where
        nothing can keep them waiting.
        """
        connection, hub = self.connection, self.services.hub
        for number, envelope in enumerate(commands):
            if self.transport.closing or connection is None:
                return False
            if number % _AT_ONCE == _AT_ONCE - 1:
                await trio.lowlevel.checkpoint()
            try:
                if self._limiter is not None:
                    self._limit(self._limiter, envelope, len(JSON.encode(envelope)))
                work = COMMANDS[envelope.t](self, connection, envelope, 0)
                if work is None:
                    continue
                if hub.broker.waits:
                    await self._awaited(work, connection, envelope)
                else:
                    await counted(work, connection.organisation.share)
            except ProtocolError as error:
                self.refuse(error, envelope)
        return not self.transport.closing

    def refuse(self, error: ProtocolError, envelope: Envelope | None = None) -> None:
        """A join was refused."""
        if self.tells:
            super().refuse(error, envelope)
        else:
            self.refused = self.refused or error

    def close(
        self, code: int, reason: str, *, retry_after: float | None = None, flush_timeout: float = 0.0
    ) -> None:
        """As for any session; the reason is a refusal before the session has begun."""
        if self.connection is None:
            self.refused = ProtocolError(ErrorCode.BROKER_UNAVAILABLE, reason, retry_after=retry_after)
        super().close(code, reason, retry_after=retry_after, flush_timeout=flush_timeout)


def _timeout(text: str | None) -> float:
    if text is None:
        return _DEFAULT
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= _LONGEST:
        raise ProtocolError(ErrorCode.BAD_FIELD, f"timeout: must be from 0 to {_LONGEST:g} seconds")
    return seconds
