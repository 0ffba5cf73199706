"""WebSockets: who may upgrade, and the whole life of a connection that may."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from gateway.auth.identity import Identity
from gateway.config.origins import Origins
from gateway.problems import STATUS
from gateway.session.services import Client, Services
from gateway.session.session import Session
from gateway.transports.asking import note
from gateway.wire.connection import WireConnection, WireLimits
from gateway.wire.engine import Engine
from gateway.wire.listener import Accepted, Life
from gateway.wire.upgrade import Refusal, UpgradeRequest, accept_response
from protocol.encoding import websocket
from protocol.errors import ErrorCode, ProtocolError
from protocol.negotiation import NegotiationError, choose_subprotocol

__all__ = ["BEFORE_AUTH", "WebSocketUpgrade"]

BEFORE_AUTH: Final = 32 * 1024
"""Bytes of a message before the client has said who it is: room for ``auth`` with its token, and no more."""


class WebSocketUpgrade:
    """Serves upgrade requests; one for all connections of a node."""

    def __init__(self, services: Services, *, engine: Engine, is_draining: Callable[[], bool]) -> None:
        settings = services.settings
        self._services = services
        self._engine = engine
        self._is_draining = is_draining
        self._origins = Origins(settings.allowed_origins)
        self.sessions: set[Session] = set()
        self._limits = WireLimits(
            message_bytes=settings.limits.message_bytes,
            queue_messages=settings.limits.queue_messages,
            queue_bytes=settings.limits.queue_bytes,
            heartbeat=settings.connection.heartbeat,
            close_timeout=settings.connection.close_timeout,
        )

    async def receive(self, accepted: Accepted, request: UpgradeRequest, unread: bytes) -> Life:
        """Let one connection in, and return what serves it; raises ``Refusal`` instead of upgrading it."""
        self._refuse_when_draining()
        origin = request.headers.get("origin")
        if not self._origins.allows(origin, trio.current_time()):
            raise Refusal(403, "this origin is not allowed", code=ErrorCode.FORBIDDEN)
        try:
            codec = choose_subprotocol(request.subprotocols)
        except NegotiationError as error:
            raise Refusal(400, str(error)) from None
        admission = self._services.admission
        headers = request.headers
        ip = admission.address(accepted.peer, headers.get("x-forwarded-for", ""))
        with _refusing(self._services):
            identity = await admission.connecting(
                ip,
                headers.get("authorization", ""),
                ticket=request.parameter("ticket"),
                token=request.parameter("token"),
            )
        self._refuse_when_draining()  # that may have taken a while
        client = Client(ip, note(request.headers.get("user-agent")), note(request.parameter("client")))
        if identity is not None:
            with _refusing(self._services):
                admission.check_in(identity, ip)
        wire = WireConnection(
            engine=self._engine,
            limits=self._limits,
            sock=accepted.sock,
            stream=accepted.stream,
            unread=unread,
        )
        if identity is None:
            wire.message_bytes = min(BEFORE_AUTH, wire.message_bytes)
        session = Session(self._services, wire, codec, websocket(codec), client)
        # Urgent, as the greeting is: nothing urgent that comes behind them may overtake them.
        wire.outbox.put_urgent(accept_response(request, codec.subprotocol if request.subprotocols else None))
        wire.outbox.discount()
        return self._serve(wire, session, identity)

    async def _serve(self, wire: WireConnection, session: Session, identity: Identity | None) -> None:
        guard, peer = self._services.guard, session.client.ip
        self.sessions.add(session)
        guard.opened(peer)
        try:
            if identity is None:
                session.require_auth()
            else:
                await session.admit(identity)
            wire.outbox.flush()
            await wire.run(session)
        finally:
            self.sessions.discard(session)
            guard.closed(peer)
            try:
                with trio.CancelScope(shield=True):
                    await session.leave_rooms()
            finally:
                session.ended()

    def _refuse_when_draining(self) -> None:
        if self._is_draining():
            raise Refusal(
                503,
                "the gateway is shutting down",
                code=ErrorCode.SHUTTING_DOWN,
                retry_after=self._services.settings.retry_after,
            )


@contextmanager
def _refusing(services: Services) -> Iterator[None]:
    """Numbered errors become HTTP answers: the connection is not upgraded yet."""
    try:
        yield
    except ProtocolError as error:
        services.hub.counters.errors[error.code] += 1
        raise Refusal(
            STATUS[error.code], error.message, code=error.code, retry_after=error.retry_after
        ) from None
