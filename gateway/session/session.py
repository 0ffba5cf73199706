"""A session: what one client says is decoded, checked and dispatched here.

Runs on the fast lane (``gateway/wire/connection.py``): a command that needs nobody else is
answered on the spot; one that may have to wait returns an awaitable, which the
connection's reader runs before it handles the next message, so that commands keep their order.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any, Final

import structlog
import trio

from gateway.auth.identity import Identity
from gateway.broker.base import Event, HistoryPage, Since
from gateway.hub.connection import Connection
from gateway.hub.room import Membership
from gateway.limits.limiter import Limiter, rate_limited
from gateway.session import snapshot
from gateway.session.catchup import CatchUp
from gateway.session.checks import TokenData, read
from gateway.session.commands import COMMANDS
from gateway.session.deadlines import Deadlines, Due
from gateway.session.greeting import greeting
from gateway.session.services import Client, Services
from gateway.session.transport import Transport
from gateway.session.turns import in_turn
from gateway.session.typing import Typing
from protocol.codec import Codec
from protocol.encoding import Encoding
from protocol.envelope import Envelope
from protocol.errors import CloseCode, ErrorCode, ProtocolError, should_reconnect
from protocol.names import check_room

__all__ = ["Client", "Services", "Session"]

log = structlog.get_logger(__name__)

_AUTH_FIRST: Final = "the first message must be auth"
_AT_ONCE: Final = 64
"""Rooms that are left before others have their turn."""
_FIRST_VALUES: Final = 64
"""Values and keys of a message before its sender is known: ``auth`` has six."""


class Session:
    """The hub's ``Peer``, and what commands see as their ``Context``; its transport calls it."""

    __slots__ = (
        "_catching_up",
        "_deadlines",
        "_limiter",
        "_most_values",
        "_saved",
        "client",
        "codec",
        "connection",
        "deadline",
        "encoding",
        "outbox",
        "pending",
        "resume_token",
        "services",
        "transport",
        "typing",
    )

    def __init__(
        self, services: Services, transport: Transport, codec: Codec, encoding: Encoding, client: Client
    ) -> None:
        """``codec`` reads what comes in, and ``encoding`` writes what goes out."""
        self.services = services
        self.transport = transport
        self.outbox = transport.outbox
        self.codec = codec
        self.encoding = encoding
        self.connection: Connection | None = None
        self.deadline = math.inf
        """Trio time at which the transport is to call :meth:`on_deadline`."""
        self.pending = 0
        self.typing: Typing | None = None
        self.resume_token = ""
        """Empty for a client that was told of none."""
        self.client = client
        self._catching_up: CatchUp | None = None
        self._deadlines = Deadlines()
        self._most_values = _FIRST_VALUES
        self._limiter: Limiter | None = None
        self._saved: bytes | None = None
        """What the resume token stands for, once the rooms are being left."""

    # --- beginning and end --------------------------------------------------------------------

    async def admit(self, identity: Identity, *, id: int | None = None) -> None:
        """The client is who it says: register it and greet it."""
        settings = self.services.settings
        # Over a transport that carries nothing in, nobody can say anything to stay.
        speaks = self.transport.kind not in {"sse", "poll"}
        self._deadlines.admitted(settings.connection.inactivity if speaks else 0.0)
        self.transport.message_bytes = settings.limits.message_bytes
        self._most_values = settings.limits.message_values
        unread: int | None = None

        async def count() -> None:
            nonlocal unread
            unread = await self.services.operations.notifications.glance(identity)
            self.services.operations.approvals.watch.arrived(identity)

        try:
            connection = await self.services.hub.connect(
                identity=identity,
                encoding=self.encoding,
                peer=self,
                ip=self.client.ip,
                user_agent=self.client.user_agent,
                client_id=self.client.client_id,
                before=None if self.transport.kind == "poll" else count,  # no poll has a greeting
                patient=self.patient,
            )
        except ProtocolError as error:
            self.close(CloseCode.TRY_AGAIN_LATER, error.message, retry_after=error.retry_after)
            return
        self.connection = connection
        self._catching_up = CatchUp(self)
        self._limiter = self.services.guard.limiters.limiter(identity, self.client.ip)
        self.greet(connection, id, unread)
        self.set_expiry(identity)

    def greet(self, connection: Connection, id: int | None, unread: int | None) -> None:
        """Tell the client that it is known, and who it is."""
        settings = self.services.settings
        # The id finds the connection while it is open (see give_way); nobody can guess the rest.
        self.resume_token = f"{connection.id}.{secrets.token_urlsafe(18)}"
        data = greeting(connection, settings, self.codec.subprotocol, self.resume_token, unread)
        self.outbox.put_urgent(self.encoding.encode(Envelope("connected", id=id, ts=_now(), data=data)))

    def require_auth(self) -> None:
        """No token came with the upgrade: the first message must bring one, in time."""
        self._deadlines.require_auth(self.services.settings.auth.in_band_timeout)
        self._plan()

    def set_expiry(self, identity: Identity) -> None:
        """End the connection when its token ends."""
        self._deadlines.set_expiry(identity, self.services.settings)
        self._plan()

    def close(
        self, code: int, reason: str, *, retry_after: float | None = None, flush_timeout: float = 0.0
    ) -> None:
        """Tell the client why (``closing``), then close; see ``Transport.close`` for the time."""
        if self.transport.closing:
            return
        data: dict[str, Any] = {"reconnect": should_reconnect(code)}
        if retry_after is not None:
            data["retry_after"] = retry_after
        if self.connection is not None and self.resume_token and data["reconnect"]:
            # Remembered before the client can be back, on this node or another.
            self._remember(self.connection)
            data["resume"] = self.resume_token
        self.send_first(Envelope("closing", code=int(code), message=reason, data=data))
        self.transport.close(code, reason, flush_timeout=flush_timeout)
        self.outbox.flush()

    async def leave_rooms(self) -> None:
        """The connection is gone: leave its rooms a few at a time; :meth:`ended` must follow.

        A thousand rooms in one go would keep the others waiting for 10 ms.
        """
        connection = self.connection
        if connection is None or len(connection.memberships) <= _AT_ONCE:
            return
        self._saved = self._remember(connection)
        if self.typing is not None:
            self.typing.stop_all()
        for number, room in enumerate(list(connection.memberships), 1):
            self.services.hub.leave(connection, room)
            if number % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    def ended(self) -> None:
        """The connection is gone: leave nothing behind but what its resume token stands for."""
        if self.connection is None:
            return
        if self.resume_token:
            self._remember(self.connection)
        if self.typing is not None:
            self.typing.stop_all()
        self.services.hub.disconnected(self.connection, self.transport.close_code)
        # These know the session, too: a cycle would stay until the collector comes, which it does seldom.
        self.connection = self.typing = self._catching_up = None

    def _remember(self, connection: Connection) -> bytes:
        """Keep what the resume token stands for, for ``connection.resume_ttl`` seconds; returns it."""
        if self._saved is not None:
            return self._saved
        hub = self.services.hub
        saved = snapshot.take(connection, hub.presence)
        ttl = self.services.settings.connection.resume_ttl
        hub.broker.remember(connection.org, snapshot.note(self.resume_token), saved, ttl)
        return saved

    def give_way(self, token: str) -> bytes:
        """See ``hub.connection.Peer``."""
        mine = self.resume_token
        if self.connection is None or not mine or not secrets.compare_digest(token.encode(), mine.encode()):
            return b""
        saved = self._remember(self.connection)
        self.close(CloseCode.TAKEN_OVER, "another connection has taken this one's place")
        return saved

    def catch_up(self) -> None:
        """Some rooms lag: send what they missed as soon as the socket has drained."""
        if self._catching_up is not None:
            self._catching_up.start()

    def dropped(self, event: Event, policy: str) -> None:
        """An overflow policy gave ``event`` up; ``lost`` will announce it."""
        hub = self.services.hub
        hub.counters.dropped[policy] += 1
        if hub.tracer is not None and self.connection is not None:
            hub.tracer.dropped(self.connection, event, policy)

    def replay(self, event: Event) -> bool:
        """Send an event later than to the others; False when the socket is full, and it was not sent."""
        hub = self.services.hub
        frame = self.encoding.encode(event.envelope())
        if self.outbox.refuses(len(frame)):
            return False
        hub.counters.replayed += 1
        self.outbox.put(frame)
        if hub.tracer is not None and self.connection is not None:
            hub.tracer.replayed(self.connection, event)
        return True

    def replay_missed(
        self, place: Membership, missed: Sequence[Event], page: HistoryPage, since: Since
    ) -> None:
        """Send what was missed before a join; what does not fit now follows as the socket drains."""
        if self._catching_up is not None:
            self._catching_up.replay(place, missed, page, since)

    @property
    def patient(self) -> bool:
        """See ``Connection``."""
        return False

    @property
    def received_messages(self) -> int:
        """Messages that came in."""
        return self.transport.received_messages

    @property
    def received_bytes(self) -> int:
        """Bytes that came in, with their framing."""
        return self.transport.received_bytes

    # --- messages -----------------------------------------------------------------------------

    def send(self, envelope: Envelope) -> None:
        """Queue one message to this client."""
        self.outbox.put(self.encoding.encode(envelope))

    def send_first(self, envelope: Envelope) -> None:
        """Queue one message, before all that is not critical if the socket is full."""
        put = self.outbox.put_urgent if self.outbox.blocked else self.outbox.put
        put(self.encoding.encode(envelope))

    def on_message(self, payload: bytes, text: bool) -> Awaitable[None] | None:
        """Handle one message; ``text`` says whether it came as text."""
        codec = self.codec
        if text is codec.binary:
            expected = "binary" if codec.binary else "text"
            self.close(
                CloseCode.UNSUPPORTED_DATA, f"{codec.subprotocol} is spoken in {expected} messages only"
            )
            return None
        envelope: Envelope | None = None
        try:
            envelope = codec.decode(payload, max_items=self._most_values)
            command = COMMANDS.get(envelope.t)
            if command is None:
                raise ProtocolError(ErrorCode.UNKNOWN_KIND, "t: reserved for server messages")
            connection = self.connection
            if connection is None:
                return self._first_message(envelope)
            connection.last_activity = _now()
            if self._deadlines.watching:
                self._deadlines.last_command = trio.current_time()
            if self._limiter is not None:
                self._limit(self._limiter, envelope, len(payload))
            work = command(self, connection, envelope, len(payload))
            return None if work is None else self._awaited(work, connection, envelope)
        except ProtocolError as error:
            self.refuse(error, envelope)
            if self.connection is None:
                self.close(CloseCode.POLICY_VIOLATION, _AUTH_FIRST)
            return None

    def _limit(self, limiter: Limiter, envelope: Envelope, size: int) -> None:
        wait = limiter.admit(envelope.t, size, trio.current_time())
        if wait:
            if limiter.abusive:
                self.close(CloseCode.ABUSE, "far too many commands")
            raise rate_limited(wait, "too many commands")

    def count_joins(self, number: int) -> None:
        """See ``Context``. The command itself has counted as one."""
        if self._limiter is not None:
            self._limiter.joined(number - 1, trio.current_time())

    def count_users(self, number: int) -> None:
        """See ``Context``. The command itself has counted as one."""
        if self._limiter is not None:
            self._limiter.reached(number - 1, trio.current_time())

    async def _awaited(
        self, work: Coroutine[Any, Any, None], connection: Connection, envelope: Envelope
    ) -> None:
        try:
            with trio.CancelScope(
                deadline=trio.current_time() + self.services.settings.connection.command_timeout
            ) as scope:
                await in_turn(work, connection.organisation.share)
            if scope.cancelled_caught:
                raise ProtocolError(ErrorCode.TIMEOUT, "the command took too long", retry_after=1.0)
        except ProtocolError as error:
            self.refuse(error, envelope)

    def refuse(self, error: ProtocolError, envelope: Envelope | None = None) -> None:
        """Answer with a numbered error; close where it says that the connection cannot go on."""
        self.services.hub.counters.errors[error.code] += 1
        id, room = (error.id, error.room) if envelope is None else (envelope.id, _name_only(envelope.room))
        self.send_first(
            Envelope("error", id=id, code=int(error.code), message=error.message, room=room, data=error.data)
        )
        if error.fatal is not None:
            self.close(error.fatal, error.message)

    def reply(self, envelope: Envelope, **fields: Any) -> None:
        """Answer a command that asked for an answer."""
        if envelope.id is not None:
            self.send(Envelope("reply", id=envelope.id, **fields))

    def _first_message(self, envelope: Envelope) -> Awaitable[None] | None:
        if envelope.t != "auth":
            self.close(CloseCode.POLICY_VIOLATION, _AUTH_FIRST)
            return None
        return self._authenticate(envelope)

    async def _authenticate(self, envelope: Envelope) -> None:
        admission = self.services.admission
        try:
            token = read(envelope.data, TokenData).token
            identity = await admission.identify(self.client.ip, token=token)
            admission.check_in(identity, self.client.ip)
        except ProtocolError as error:
            self.refuse(error, envelope)
            for_now = error.retry_after is not None
            code = CloseCode.TRY_AGAIN_LATER if for_now else CloseCode.POLICY_VIOLATION
            self.close(code, error.message, retry_after=error.retry_after)
            return
        await self.admit(identity, id=envelope.id)

    # --- time ---------------------------------------------------------------------------------

    def _plan(self) -> None:
        """Set the transport's deadline to the nearest of ours."""
        nearest = self._deadlines.nearest()
        if self.typing is not None:
            nearest = min(nearest, self.typing.deadline)
        sooner = nearest < self.deadline
        self.deadline = nearest
        if sooner:
            self.transport.reschedule()

    def on_deadline(self) -> None:
        """``deadline`` has come: do what is due, and set the next one."""
        now = trio.current_time()
        if self.typing is not None:
            self.typing.stop_due(now)
        due = self._deadlines.due(now)
        if due is Due.AUTH:
            self.close(CloseCode.POLICY_VIOLATION, "no auth message came in time")
        elif due is Due.NOTICE and self.connection is not None:
            expires = int((self.connection.identity.expires or 0) * 1000)
            self.send(Envelope("event", event="token:expiring", ts=_now(), data={"expires": expires}))
        elif due is Due.EXPIRED:
            self.close(CloseCode.POLICY_VIOLATION, "the token has expired")
        elif due is Due.INACTIVE:
            limit = self.services.settings.connection.inactivity
            self.close(CloseCode.INACTIVE, f"no command for {limit:g} seconds")
        self._plan()

    def start_typing(self, room: str) -> None:
        """Announce typing, or prolong it; it stops by itself."""
        if self.typing is None:
            assert self.connection is not None
            timeout = self.services.settings.connection.typing_timeout
            self.typing = Typing(self.services.hub, self.connection, timeout)
        self.typing.start(room)
        self._plan()

    def stop_typing(self, room: str) -> None:
        """Announce the end of typing, if there was any."""
        if self.typing is not None:
            self.typing.stop(room)

    def is_typing(self, room: str) -> bool:
        """Tell whether this connection types in ``room``."""
        return self.typing is not None and room in self.typing


def _name_only(room: str | None) -> str | None:
    """``room`` if it can be one: a megabyte that was refused as a name is not sent back."""
    try:
        return None if room is None else check_room(room)
    except ProtocolError:
        return None


def _now() -> int:
    return time.time_ns() // 1_000_000
