"""Commands without a connection: a list of envelopes comes by HTTP, and their answers go back together.

Each list has a session of its own, so that a command does, counts and answers what it would on a socket. It
is known to nobody: the hub does not list it, and nothing is sent to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import trio

from gateway.auth.identity import Identity, Permission
from gateway.hub.connection import Connection
from gateway.hub.organisation import Organisation
from gateway.operations.rules import permit
from gateway.session.checks import read
from gateway.session.commands import TypingData
from gateway.session.services import Client, Services
from gateway.session.session import Session
from gateway.wire.outbox import Outbox
from gateway.wire.shares import Share
from gateway.wire.signal import Signal
from protocol.envelope import Envelope
from protocol.errors import ErrorCode, ProtocolError
from protocol.json import JSON
from protocol.kinds import OVER_HTTP
from protocol.names import check_room

__all__ = ["PostedCommands"]

_INSTEAD: Final = {
    "auth": "send the token as Authorization: Bearer",
    "refresh": "send another token with the next request",
    "join": "ask /api/v1/stream or /api/v1/poll with ?join=ROOM",
    "leave": "ask /api/v1/stream or /api/v1/poll again, without join=ROOM",
    "subscribe": "ask /api/v1/stream or /api/v1/poll with ?events=PATTERN",
    "unsubscribe": "ask /api/v1/stream or /api/v1/poll again, with other ?events=PATTERN",
    "ack": "the id of an event (Last-Event-ID) or ?cursor= says what was received",
    "info": "connected on /api/v1/stream says it",
}


class PostedCommands:
    """Runs what was posted on one node."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._ids = itertools.count(1)

    async def run(
        self, identity: Identity, ip: str, user_agent: str | None, commands: Sequence[bytes]
    ) -> list[Envelope]:
        """Do ``commands``, each one JSON envelope, in their order; returns what answers them, in their order.

        A command without an ``id`` has an answer only if it is refused.
        """
        answers = _Answers(len(commands))
        session = self._session(identity, Client(ip, user_agent), answers)
        ids: list[int | None] = []
        try:
            async with trio.open_nursery() as nursery:
                session.wire.nursery = nursery
                with trio.move_on_after(self._services.settings.connection.command_timeout):
                    for number, command in enumerate(commands):
                        ids.append(await self._begin(session, number, command))
                    await answers.all()
                nursery.cancel_scope.cancel()
        finally:
            session.outbox.end()
            self._services.hub.flusher.flush()
        late = ProtocolError(ErrorCode.TIMEOUT, "the command took too long", retry_after=1.0)
        ids += [None] * (len(commands) - len(ids))
        found: list[Envelope] = []
        for number, id in enumerate(ids):
            answer = answers.by_number.get(number)
            if answer is None:
                answer = Envelope("error", code=int(late.code), message=late.message, data=late.data)
            elif id is None and answer.t == "reply":
                continue
            found.append(msgspec.structs.replace(answer, id=id))
        return found

    async def _begin(self, session: _PostedSession, number: int, command: bytes) -> int | None:
        """Start one command; returns its own ``id``. Each is numbered, so that each is answered."""
        try:
            envelope = JSON.decode(command)
        except ProtocolError as error:
            session.refuse(error, Envelope("error", id=number))
            return error.id
        own = envelope.id
        envelope = msgspec.structs.replace(envelope, id=number)
        try:
            if envelope.t == "typing":
                session.count(envelope, len(command))
                self._type(session, envelope)
            elif envelope.t in OVER_HTTP:
                work = session.on_message(JSON.encode(envelope), True)
                if work is not None:
                    await work
            else:
                instead = _INSTEAD.get(envelope.t, "it is not a command of clients")
                raise ProtocolError(
                    ErrorCode.UNKNOWN_KIND, f"t: {envelope.t} is not accepted here: {instead}"
                )
        except ProtocolError as error:
            session.refuse(error, envelope)
        return own

    def _type(self, session: _PostedSession, envelope: Envelope) -> None:
        """Typing ends by itself where the user has a stream on this node, and by ``stop`` where not."""
        connection = session.connection
        assert connection is not None
        room = check_room(envelope.room)
        permit(connection.identity, room, Permission.PUBLISH)
        starts = read(envelope.data, TypingData).state == "start"
        for peer in self._sessions_in(connection, room):
            if starts:
                peer.start_typing(room)
            else:
                peer.stop_typing(room)
            break
        else:
            user = connection.user
            data = {"user": user} if user else {"connection": connection.id}
            self._services.hub.announce(connection, room, "typing:start" if starts else "typing:stop", data)
        session.reply(envelope, room=room)

    def _sessions_in(self, connection: Connection, room: str) -> list[Session]:
        user = connection.organisation.users.get(connection.user or "")
        places = () if user is None else user.members()
        found = [place.connection for place in places]
        return [
            each.peer
            for each in found
            if isinstance(each, Connection) and room in each.memberships and isinstance(each.peer, Session)
        ]

    def _session(self, identity: Identity, client: Client, answers: _Answers) -> _PostedSession:
        hub = self._services.hub
        transport = _PostedTransport(self._services)
        session = _PostedSession(self._services, transport, answers, client)
        organisation = hub.organisations.get(identity.org) or Organisation(identity.org, Share(hub.flusher))
        session.begin(
            Connection(
                id=f"{hub.id}-post-{next(self._ids):x}",
                node=hub.node,
                organisation=organisation,
                identity=identity,
                encoding=answers,
                peer=session,
                ip=client.ip,
                user_agent=client.user_agent,
                client_id=client.client_id,
            )
        )
        return session


class _Answers:
    """Takes the place of an encoding: envelopes are kept as they are, by the number of their command."""

    subprotocol: Final = "post"
    binary: Final = False

    def __init__(self, expected: int) -> None:
        self.by_number: dict[int, Envelope] = {}
        self._expected = expected
        self._more = Signal()

    def encode(self, envelope: Envelope) -> bytes:
        """Keep one answer."""
        if envelope.id is not None:
            self.by_number.setdefault(envelope.id, envelope)
            self._more.set()
        return b""

    async def all(self) -> None:
        """Wait until there is an answer for each command."""
        while len(self.by_number) < self._expected:
            await self._more.wait()


class _PostedTransport:
    """Carries nothing: the answers are kept where they are encoded."""

    kind = "post"

    def __init__(self, services: Services) -> None:
        self.outbox = Outbox(services.hub.flusher, None, max_messages=1, max_bytes=1)
        self.message_bytes = 0
        self.close_code = 1006
        self.received_messages = 0
        self.received_bytes = 0
        self.closing = False
        self.nursery: trio.Nursery | None = None

    def close(self, code: int, reason: str = "", *, flush_timeout: float = 0.0) -> None:
        """There is nothing that would go on."""
        self.closing = True

    def spawn(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run a task that ends with the request."""
        if self.nursery is not None:
            self.nursery.start_soon(function)

    def reschedule(self) -> None:
        """Nothing is due later than now."""


class _PostedSession(Session):
    """One list's session; its limits are those of requests, which have no connection."""

    __slots__ = ("_answers", "wire")

    def __init__(
        self, services: Services, transport: _PostedTransport, answers: _Answers, client: Client
    ) -> None:
        super().__init__(services, transport, JSON, answers, client)
        self._answers = answers
        self.wire = transport

    def begin(self, connection: Connection) -> None:
        """The client is known."""
        self.connection = connection
        self._limiter = self.services.guard.limiters.limiter(
            connection.identity, self.client.ip, of_connection=False
        )

    def count(self, envelope: Envelope, size: int) -> None:
        """Count a command that the session does not see; raises RATE_LIMITED."""
        if self._limiter is not None:
            self._limit(self._limiter, envelope, size)

    def send(self, envelope: Envelope) -> None:
        """Keep an answer."""
        self._answers.encode(envelope)

    def send_first(self, envelope: Envelope) -> None:
        """Keep an answer."""
        self._answers.encode(envelope)
