"""Long-poll: a session that lasts until there is something to tell, for those who can do nothing else.

A poll enters its rooms where its cursor says, waits if nothing was missed there, and answers with what came
and the next cursor. Nothing of it stays on the node, so any node may answer the next one.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from gateway.auth.identity import Identity
from gateway.session.services import Client, Services
from gateway.session.session import Session
from gateway.session.transport import Transport
from gateway.transports.asking import Asked, Door, commands, enter, hold_own, positions
from gateway.transports.cursor import ORGANISATION, USER
from gateway.wire.engine import Engine
from gateway.wire.listener import Accepted, Life
from gateway.wire.outbox import Frame, Outbox
from gateway.wire.signal import Signal
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
        transport = _PollTransport(self._engine, limits.queue_messages, limits.queue_bytes)
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
            async with trio.open_nursery() as nursery:
                transport.nursery = nursery
                nursery.start_soon(_watch, accepted, nursery.cancel_scope)
                end = trio.current_time() + timeout
                await session.admit(identity)
                hold_own(session, asked)
                if not asked.tell:
                    transport.take()  # the greeting tells nothing that a poll could use
                session.tells = asked.tell
                entered = await enter(session, commands(asked, tell=asked.tell))
                self._services.hub.flusher.flush()
                self._stays(session, None)
                if session.refused is None:
                    await transport.wait(session, end)
                    frames = transport.take()
                    arrived = {*asked.rooms, ORGANISATION, USER} if entered else {*session.joined}
                    stands = positions(session, asked, arrived)
                    cursor = self._door.cursors.write(stands, identity.org, identity.user or "")
                    answer = self._answer(request, frames, cursor)
                else:
                    answer = self._refusal(request, session.refused)
                nursery.cancel_scope.cancel()
        finally:
            self._sessions.discard(session)
            transport.close(1000)
            self._stays(session, timeout)
            session.ended()
            transport.outbox.end()
        if answer:
            with trio.move_on_after(self._services.settings.limits.send_timeout):
                await accepted.send(answer)
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
    """Keeps what the session says until it is taken, all at once."""

    kind = "poll"

    def __init__(self, engine: Engine, max_messages: int, max_bytes: int) -> None:
        self.outbox = Outbox(engine.flusher, None, max_messages=max_messages, max_bytes=max_bytes)
        self.message_bytes = 0
        self.close_code = 1006
        self.received_messages = 0
        self.received_bytes = 0
        self.nursery: trio.Nursery | None = None
        self._called = Signal()
        """There is something to take, or nothing more will come."""
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
        if self.nursery is not None:
            self.nursery.start_soon(function)

    def reschedule(self) -> None:
        """The session's ``deadline`` has moved nearer: before the wait begins, so nothing is to be done."""

    async def wait(self, session: Session, end: float) -> None:
        """Return when there is something to take, or at the Trio time ``end``."""
        outbox = self.outbox
        outbox.settle()
        while not outbox.size and not outbox.sealed:
            now = trio.current_time()
            if now >= end:
                return
            if now >= session.deadline:
                session.on_deadline()
                continue
            with trio.move_on_at(min(end, session.deadline)):
                await self._called.wait()
            outbox.settle()

    def take(self) -> list[Frame]:
        """All that is there, which counts as sent."""
        outbox = self.outbox
        outbox.settle()
        return outbox.take()


async def _watch(accepted: Accepted, scope: trio.CancelScope) -> None:
    """End the poll of a client that has gone."""
    try:
        while await accepted.receive():
            pass
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    scope.cancel()


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
