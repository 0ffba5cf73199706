"""A session: what one client says is decoded, checked and dispatched here.

Runs on the fast lane (``gateway/wire/connection.py``): a command that needs nobody else is
answered on the spot; one that may have to wait returns an awaitable, which the
connection's reader runs before it handles the next message, so that commands keep their order.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
import trio

from gateway.auth.identity import Identity
from gateway.auth.tokens import Authenticator
from gateway.broker.base import Event
from gateway.cluster.base import Cluster
from gateway.config.settings import Settings
from gateway.hub.connection import Connection
from gateway.hub.hub import Hub
from gateway.hub.room import event_frame
from gateway.limits.guard import Guard
from gateway.limits.limiter import Limiter, rate_limited
from gateway.session.calls import Calls
from gateway.session.catchup import CatchUp
from gateway.session.checks import TokenData, read
from gateway.session.commands import COMMANDS
from gateway.session.joining import remember
from gateway.wire.connection import WireConnection
from protocol.codec import Codec
from protocol.envelope import Envelope
from protocol.errors import CloseCode, ErrorCode, ProtocolError, should_reconnect
from protocol.frames import BINARY, TEXT, server_frame
from protocol.names import check_room

__all__ = ["Client", "Services", "Session"]

log = structlog.get_logger(__name__)

_AUTH_FIRST: Final = "the first message must be auth"


@dataclass(slots=True)
class Services:
    """What every session of a node shares."""

    settings: Settings
    hub: Hub
    auth: Authenticator
    cluster: Cluster
    calls: Calls
    guard: Guard = field(init=False)

    def __post_init__(self) -> None:
        self.guard = Guard(self.settings)

    def check_in(self, identity: Identity, ip: str) -> None:
        """Raise 300 or 402 when the user or the organisation has too many connections."""
        organisation = self.hub.organisations.get(identity.org)
        user = None if organisation is None else organisation.users.get(identity.user or "")
        self.guard.identify(
            identity,
            ip,
            trio.current_time(),
            of_user=0 if user is None else user.size,
            of_org=0 if organisation is None else len(organisation.connections),
        )


@dataclass(frozen=True, slots=True)
class Client:
    """What the upgrade request told of the client."""

    ip: str
    user_agent: str | None = None
    client_id: str | None = None


class Session:
    """The handler of one connection's messages (``wire.connection.Handler``) and the hub's ``Peer``."""

    __slots__ = (
        "_expires",
        "_inactive",
        "_last_command",
        "_limiter",
        "_must_auth",
        "_notice",
        "_opcode",
        "catching_up",
        "client",
        "codec",
        "connection",
        "deadline",
        "outbox",
        "pending",
        "resume_token",
        "services",
        "typing",
        "wire",
    )

    def __init__(self, services: Services, wire: WireConnection, codec: Codec, client: Client) -> None:
        self.services = services
        self.wire = wire
        self.outbox = wire.outbox
        self.codec = codec
        self.connection: Connection | None = None
        self.deadline = math.inf
        self.pending = 0
        """Commands that wait for the broker."""
        self.typing: dict[str, float] | None = None
        """Room → Trio time at which its typing stops by itself."""
        self.catching_up = CatchUp(self)
        self.resume_token = ""
        self.client = client
        self._opcode = BINARY if codec.binary else TEXT
        self._must_auth = math.inf
        self._expires = math.inf
        self._inactive = math.inf
        self._last_command = 0.0
        self._notice = math.inf
        self._limiter: Limiter | None = None

    # --- beginning and end --------------------------------------------------------------------

    async def admit(self, identity: Identity, *, id: int | None = None) -> None:
        """The client is who it says: register it and greet it."""
        settings = self.services.settings
        self._must_auth = math.inf
        self.wire.message_bytes = settings.limits.message_bytes
        try:
            connection = await self.services.hub.connect(
                identity=identity,
                codec=self.codec,
                peer=self,
                ip=self.client.ip,
                user_agent=self.client.user_agent,
                client_id=self.client.client_id,
            )
        except ProtocolError as error:
            self.close(CloseCode.TRY_AGAIN_LATER, error.message, retry_after=error.retry_after)
            return
        self.connection = connection
        self._limiter = self.services.guard.limiters.limiter(identity, self.client.ip)
        # The id finds the connection while it is open (see give_way); nobody can guess the rest.
        self.resume_token = f"{connection.id}.{secrets.token_urlsafe(18)}"
        greeting: dict[str, Any] = {
            "connection": connection.id,
            "org": identity.org,
            "node": connection.node,
            "resume": self.resume_token,
            "heartbeat": settings.connection.heartbeat,
            "subprotocol": self.codec.subprotocol,
            "limits": {
                "message_bytes": settings.limits.message_bytes,
                "rooms": settings.limits.rooms_per_connection,
                "patterns": settings.limits.patterns_per_filter,
            },
        }
        if identity.user is not None:
            greeting["user"] = identity.user
        if identity.expires is not None:
            greeting["expires"] = int(identity.expires * 1000)
        self.outbox.put_urgent(self._frame(Envelope("connected", id=id, ts=_now(), data=greeting)))
        if settings.connection.inactivity:
            self._last_command = trio.current_time()
            self._inactive = self._last_command + settings.connection.inactivity
        self.set_expiry(identity)

    def require_auth(self) -> None:
        """No token came with the upgrade: the first message must bring one, in time."""
        self._must_auth = trio.current_time() + self.services.settings.auth.in_band_timeout
        self.plan()

    def set_expiry(self, identity: Identity) -> None:
        """End the connection when its token ends."""
        self._expires = self._notice = math.inf
        if identity.expires is not None:
            left = identity.expires + self.services.settings.auth.leeway - time.time()
            self._expires = trio.current_time() + left
            notice = self.services.settings.connection.expiry_notice
            if notice and left > notice:
                self._notice = self._expires - notice
        self.plan()

    def close(
        self, code: int, reason: str, *, retry_after: float | None = None, flush_timeout: float = 0.0
    ) -> None:
        """Tell the client why (``closing``), then close; see ``WireConnection.close`` for the times."""
        if self.wire.closing:
            return
        data: dict[str, Any] = {"reconnect": should_reconnect(code)}
        if retry_after is not None:
            data["retry_after"] = retry_after
        if self.connection is not None and data["reconnect"]:
            # Remembered before the client can be back, on this node or another.
            remember(self, self.connection)
            data["resume"] = self.resume_token
        self.send_first(Envelope("closing", code=int(code), message=reason, data=data))
        self.wire.close(code, reason, flush_timeout=flush_timeout)
        self.outbox.flush()

    def ended(self) -> None:
        """The connection is gone: leave nothing behind but what its resume token stands for."""
        if self.connection is None:
            return
        remember(self, self.connection)
        for room in list(self.typing or ()):
            self.stop_typing(room)
        self.services.hub.disconnected(self.connection, self.wire.close_code)

    def give_way(self, token: str) -> bytes:
        """See ``hub.connection.Peer``."""
        if self.connection is None or not secrets.compare_digest(token.encode(), self.resume_token.encode()):
            return b""
        saved = remember(self, self.connection)
        self.close(CloseCode.TAKEN_OVER, "another connection has taken this one's place")
        return saved

    def catch_up(self) -> None:
        """Some rooms lag: send what they missed as soon as the socket has drained."""
        self.catching_up.start()

    def dropped(self, event: Event, policy: str) -> None:
        """An overflow policy gave ``event`` up; ``lost`` will announce it."""
        hub = self.services.hub
        hub.counters.dropped += 1
        if hub.tracer is not None and self.connection is not None:
            hub.tracer.dropped(self.connection, event, policy)

    def replay(self, event: Event) -> bool:
        """Send an event later than to the others; False when the socket is full, and it was not sent."""
        hub = self.services.hub
        frame = event_frame(event, self.codec)
        if self.outbox.refuses(len(frame)):
            return False
        hub.counters.replayed += 1
        self.outbox.put(frame)
        if hub.tracer is not None and self.connection is not None:
            hub.tracer.replayed(self.connection, event)
        return True

    @property
    def received_messages(self) -> int:
        """Messages that came in."""
        return self.wire.received_messages

    @property
    def received_bytes(self) -> int:
        """Bytes that came in, with their framing."""
        return self.wire.received_bytes

    # --- messages -----------------------------------------------------------------------------

    def send(self, envelope: Envelope) -> None:
        """Queue one message to this client."""
        self.outbox.put(self._frame(envelope))

    def send_first(self, envelope: Envelope) -> None:
        """Queue one message, before all that is not critical if the socket is full."""
        put = self.outbox.put_urgent if self.outbox.blocked else self.outbox.put
        put(self._frame(envelope))

    def _frame(self, envelope: Envelope) -> bytes:
        return server_frame(self._opcode, self.codec.encode(envelope))

    def on_message(self, payload: bytes, text: bool) -> Awaitable[None] | None:
        """Handle one message; see ``wire.connection.Handler``."""
        codec = self.codec
        if text is codec.binary:
            expected = "binary" if codec.binary else "text"
            self.close(
                CloseCode.UNSUPPORTED_DATA, f"{codec.subprotocol} is spoken in {expected} messages only"
            )
            return None
        envelope: Envelope | None = None
        try:
            envelope = codec.decode(payload)
            command = COMMANDS.get(envelope.t)
            if command is None:
                raise ProtocolError(ErrorCode.UNKNOWN_KIND, "t: this kind comes from the server only")
            connection = self.connection
            if connection is None:
                return self._first_message(envelope)
            connection.last_activity = _now()
            if self._inactive != math.inf:
                self._last_command = trio.current_time()
            if self._limiter is not None:
                self._limit(self._limiter, envelope, len(payload))
            work = command(self, connection, envelope, len(payload))
            return None if work is None else self._awaited(work, envelope)
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

    async def _awaited(self, work: Awaitable[None], envelope: Envelope) -> None:
        try:
            with trio.CancelScope(
                deadline=trio.current_time() + self.services.settings.connection.command_timeout
            ) as scope:
                await work
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
        try:
            identity = await self.services.auth.verify(read(envelope.data, TokenData).token)
            self.services.check_in(identity, self.client.ip)
        except ProtocolError as error:
            self.services.guard.login_refused(error, self.client.ip, trio.current_time())
            self.refuse(error, envelope)
            for_now = error.retry_after is not None
            code = CloseCode.TRY_AGAIN_LATER if for_now else CloseCode.POLICY_VIOLATION
            self.close(code, error.message, retry_after=error.retry_after)
            return
        await self.admit(identity, id=envelope.id)

    # --- time ---------------------------------------------------------------------------------

    def plan(self) -> None:
        """Set the wire's deadline to the nearest of ours."""
        nearest = min(
            self._must_auth, self._notice, self._expires, self._inactive, *(self.typing or {}).values()
        )
        sooner = nearest < self.deadline
        self.deadline = nearest
        if sooner:
            self.wire.reschedule()

    def on_deadline(self) -> None:
        """See ``wire.connection.Handler``."""
        now = trio.current_time()
        for room in [room for room, stop in (self.typing or {}).items() if stop <= now]:
            self.stop_typing(room)
        if now >= self._must_auth:
            self._must_auth = math.inf
            self.close(CloseCode.POLICY_VIOLATION, "no auth message came in time")
        elif now >= self._notice and self.connection is not None:
            self._notice = math.inf
            expires = int((self.connection.identity.expires or 0) * 1000)
            self.send(Envelope("event", event="token:expiring", ts=_now(), data={"expires": expires}))
        elif now >= self._expires:
            self._expires = math.inf
            self.close(CloseCode.POLICY_VIOLATION, "the token has expired")
        elif now >= self._inactive:
            self._check_activity(now)
        self.plan()

    def _check_activity(self, now: float) -> None:
        limit = self.services.settings.connection.inactivity
        self._inactive = self._last_command + limit
        if now >= self._inactive:
            self._inactive = math.inf
            self.close(CloseCode.INACTIVE, f"no command for {limit:g} seconds")

    # --- typing ---------------------------------------------------------------------------------

    def start_typing(self, room: str) -> None:
        """Announce typing, or prolong it; it stops by itself."""
        assert self.connection is not None
        if self.typing is None:
            self.typing = {}
        if room not in self.typing and not self._types_elsewhere(room):
            self._announce(room, "typing:start")
        self.typing[room] = trio.current_time() + self.services.settings.connection.typing_timeout
        self.plan()

    def stop_typing(self, room: str) -> None:
        """Announce the end of typing, if there was any, and no other connection of the user goes on."""
        if self.typing and self.typing.pop(room, None) is not None and not self._types_elsewhere(room):
            self._announce(room, "typing:stop")

    def is_typing(self, room: str) -> bool:
        """Tell whether this connection types in ``room``."""
        return self.typing is not None and room in self.typing

    def _types_elsewhere(self, room: str) -> bool:
        connection = self.connection
        assert connection is not None
        user = connection.organisation.users.get(connection.user or "")
        return user is not None and any(
            place.connection is not connection and place.connection.peer.is_typing(room)
            for place in user.members()
        )

    def _announce(self, room: str, event: str) -> None:
        assert self.connection is not None
        user = self.connection.user
        self.services.hub.announce(
            self.connection, room, event, {"user": user} if user else {"connection": self.connection.id}
        )


def _name_only(room: str | None) -> str | None:
    """``room`` if it can be one: a megabyte that was refused as a name is not sent back."""
    try:
        return None if room is None else check_room(room)
    except ProtocolError:
        return None


def _now() -> int:
    return time.time_ns() // 1_000_000
