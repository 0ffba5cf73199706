"""Long-poll: a session that lasts until there is something to tell, for those who can do nothing else.

A poll enters its rooms where its cursor says, waits if nothing was missed there, and answers with what came
and the next cursor. Nothing of it stays on the node, so any node may answer the next one.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Awaitable, Callable
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
from gateway.wire.engine import Engine
from gateway.wire.listener import Accepted, Life
from gateway.wire.outbox import Frame, Outbox
from gateway.wire.signal import Signal
from gateway.wire.timers import Alarm
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
_COMES_BACK: Final = frozenset({CloseCode.NORMAL, CloseCode.SERVICE_RESTART})
_ENCODING: Final = PollEncoding()


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
        with self._door.refusing(request):
            timeout = _timeout(request.parameter("timeout"))
        identity, client, asked = await self._door.enter(accepted, request, stays=False)
        limits = self._services.settings.limits
        transport = _PollTransport(self._engine, accepted, limits.queue_messages, limits.queue_bytes)
        session = _PollSession(self._services, transport, JSON, _ENCODING, client)
        return self._serve(accepted, request, session, transport, identity, asked, timeout)

    async def _serve(
        self,
        accepted: Accepted,
        request: Request,
        session: _PollSession,
        transport: _PollTransport,
        identity: Identity,
        asked: Asked,
        timeout: float,
    ) -> None:
        self._sessions.add(session)
        answer = b""
        try:
            end = trio.current_time() + timeout
            session.tells = asked.tell
            await session.admit(identity)
            hold_own(session, asked, tell=asked.tell)
            entered = await session.enter(commands(asked, tell=asked.tell))
            self._services.hub.flusher.flush()
            self._stays(session, None)
            if session.refused is not None:
                answer = self._refusal(request, session.refused)
            elif await transport.wait(session, end):
                frames = transport.take()
                arrived = {*asked.rooms, ORGANISATION, USER} if entered else {*session.joined}
                stands = positions(session, asked, arrived)
                cursor = self._door.cursors.write(stands, identity.org, identity.user or "")
                answer = self._answer(request, frames, cursor)
        finally:
            self._sessions.discard(session)
            transport.close(1000)
            self._stays(session, timeout)
            session.ended()
            transport.outbox.end()
        if answer:
            await self._send(accepted, answer)

    async def _send(self, accepted: Accepted, answer: bytes) -> None:
        """Send the answer, and have the client hear it."""
        rest = accepted.send_now(answer)
        if not rest and isinstance(accepted.sock, socket.socket) and accepted.receive_now() is None:
            return  # nothing is unread, so the connection may be closed without a reset
        with trio.move_on_after(self._services.settings.limits.send_timeout):
            await accepted.send(rest)
            await accepted.finish()

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

    def _answer(self, request: Request, frames: list[Frame], cursor: str) -> bytes:
        body = b'{"messages":[' + b",".join(frames) + b'],"cursor":"' + cursor.encode("ascii") + b'"}'
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Connection": "close",
            **self._door.sharing(request),
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 200 OK\r\n{head}\r\n".encode("latin-1") + body


class _PollSession(Session):
    """A session whose refusals are the answer, unless they shall come with the rest."""

    __slots__ = ("refused", "tells")

    def __init__(
        self, services: Services, transport: Transport, codec: Codec, encoding: Encoding, client: Client
    ) -> None:
        super().__init__(services, transport, codec, encoding, client)
        self.refused: ProtocolError | None = None
        self.tells = False

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


class _PollTransport:
    """Keeps what the session says until it is taken, all at once.

    It waits for an event, a time, or the end of the client without a task for any of them: outbox, timers
    and pump call it.
    """

    kind = "poll"

    def __init__(self, engine: Engine, accepted: Accepted, max_messages: int, max_bytes: int) -> None:
        self.outbox = Outbox(engine.flusher, None, max_messages=max_messages, max_bytes=max_bytes)
        self._engine = engine
        self._accepted = accepted
        self.message_bytes = 0
        self.close_code = 1006
        self.received_messages = 0
        self.received_bytes = 0
        self.alarm: Alarm | None = None
        self.armed = self.queued = False
        self._gone = False
        """The client is no longer there."""
        self._nursery: trio.Nursery | None = None
        self._spawned: list[Callable[[], Awaitable[None]]] = []
        """Tasks that want a nursery, which is opened for the first."""
        self._called = Signal()
        """There is something to take or to do, or nothing more will come."""
        self.outbox.on_blocked = self._called.set

    @property
    def closing(self) -> bool:
        """It takes nothing more."""
        return self.outbox.sealed

    def close(self, code: int, reason: str = "", *, flush_timeout: float = 0.0) -> None:
        """Answer with what is there."""
        if not self.outbox.sealed:
            self.close_code = int(code)
            self.outbox.shut()
            self._called.set()

    def spawn(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run a task that ends with the poll."""
        if self._nursery is not None:
            self._nursery.start_soon(function)
        else:
            self._spawned.append(function)
            self._called.set()

    def reschedule(self) -> None:
        """The session's ``deadline`` has moved nearer."""
        if self.alarm is not None:  # it waits
            self._called.set()

    def on_time(self) -> None:
        """The timers call: one of our times has come."""
        self._called.set()

    def on_readable(self) -> None:
        """The pump calls: throw away what came, and notice when the client has gone."""
        try:
            chunk = self._accepted.receive_now()
        except OSError:
            chunk = b""
        self._heard(chunk)

    def _heard(self, chunk: bytes | None) -> None:
        if chunk == b"":
            self._gone = True
            self._disarm()
            self._called.set()

    async def wait(self, session: Session, end: float) -> bool:
        """Wait until there is something to take, or the Trio time ``end``; False when the client has gone."""
        pump, sock = self._engine.pump, self._accepted.sock
        if pump is None or sock is None:
            self._spawned.append(self._watch)
        else:
            pump.arm(sock, self)
        try:
            if not self._spawned and await self._until(session, end):
                return not self._gone
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for function in self._spawned:
                    nursery.start_soon(function)
                self._spawned.clear()
                await self._until(session, end)
                nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            self._engine.timers.set(self, math.inf)
            self._disarm()
        return not self._gone

    async def _until(self, session: Session, end: float) -> bool:
        """Wait; False when there are tasks to begin."""
        outbox = self.outbox
        outbox.settle()
        while not (outbox.size or outbox.sealed or self._gone):
            if self._spawned:
                return False
            now = trio.current_time()
            if now >= end:
                break
            if now >= session.deadline:
                session.on_deadline()
                continue
            self._engine.timers.set(self, min(end, session.deadline))
            await self._called.wait()
            outbox.settle()
        return True

    def _disarm(self) -> None:
        if self._engine.pump is not None and self._accepted.sock is not None:
            self._engine.pump.disarm(self._accepted.sock, self)

    async def _watch(self) -> None:
        """As :meth:`on_readable`, where there is no pump."""
        while not self._gone:
            try:
                chunk = await self._accepted.receive()
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                chunk = b""
            self._heard(chunk)

    def take(self) -> list[Frame]:
        """All that is there, which counts as sent."""
        outbox = self.outbox
        outbox.settle()
        return outbox.take()


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
