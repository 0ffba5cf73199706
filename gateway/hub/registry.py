"""Who is here: the connections of this node and their organisations."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping

from gateway.auth.identity import Identity
from gateway.broker.base import Broker
from gateway.hub.connection import Connection
from gateway.hub.counters import Counters
from gateway.hub.organisation import Organisation, Retired
from gateway.hub.peer import Peer
from gateway.hub.presence import Presence
from gateway.hub.rooms import Rooms
from gateway.wire.flusher import Flusher
from gateway.wire.shares import Share
from protocol.encoding import Encoding
from protocol.errors import CloseCode, ErrorCode, ProtocolError

__all__ = ["Registry"]


class Registry:
    """Connections and organisations. Every method that does not say ``await`` returns at once."""

    def __init__(
        self,
        broker: Broker,
        flusher: Flusher,
        rooms: Rooms,
        presence: Presence,
        counters: Counters,
        *,
        node: str,
        id: str,
        weights: Mapping[str, int],
    ) -> None:
        """``id`` begins the ids of connections."""
        self.connections: dict[str, Connection] = {}
        self.organisations: dict[str, Organisation[Connection]] = {}
        self.retired = Retired()
        self._broker = broker
        self._flusher = flusher
        self._rooms = rooms
        self._presence = presence
        self._counters = counters
        self._node = node
        self._id = id
        self._weights = dict(weights)
        self._ids = itertools.count(1)

    async def connect(
        self,
        *,
        identity: Identity,
        encoding: Encoding,
        peer: Peer,
        ip: str,
        user_agent: str | None = None,
        client_id: str | None = None,
        before: Callable[[], Awaitable[None]] | None = None,
        patient: bool = False,
    ) -> Connection:
        """Register an authenticated connection; it hears its organisation and its user from its return on.

        ``before`` is awaited when it is registered and hears nothing yet. ``patient``: see ``Connection``.
        Raises 3xx when the broker is unavailable.
        """
        organisation = self._organisation(identity.org)
        connection = Connection(
            id=f"{self._id}-{next(self._ids):x}",
            node=self._node,
            organisation=organisation,
            identity=identity,
            encoding=encoding,
            peer=peer,
            ip=ip,
            user_agent=user_agent,
            client_id=client_id,
            patient=patient,
        )
        connection.outbox.move(organisation.share)
        self.connections[connection.id] = connection
        organisation.connections[connection.id] = connection
        organisation.totals.connects += 1
        self._counters.connects += 1
        self._counters.transports[connection.transport] += 1
        self._presence.connected(connection)
        own = [organisation.everyone]
        if identity.user is not None:
            own.append(organisation.user(identity.user))
        taps = [self._rooms.hold(room) for room in own]
        try:
            with self._rooms.deadline():
                pages = [
                    await self._rooms.look(*each, patient=patient) for each in zip(own, taps, strict=True)
                ]
                await self._presence.settled(connection)
            if before is not None:
                await before()
                # What they waited for often comes for many at once.
                await self._flusher.newcomers.upgrade()
            # Only now, so that nothing is queued before the greeting.
            connection.internal = tuple(
                [self._rooms.enter_own(room, connection, page) for room, page in zip(own, pages, strict=True)]
            )
        except BaseException as error:
            refused = isinstance(error, ProtocolError)
            self.disconnected(connection, CloseCode.TRY_AGAIN_LATER if refused else CloseCode.INTERNAL_ERROR)
            raise
        finally:
            for room, tap in zip(own, taps, strict=True):
                self._rooms.let_go(room, tap, organisation)
        return connection

    def disconnected(self, connection: Connection, code: int) -> None:
        """Forget a connection that has ended with ``code``, and all that only it kept alive."""
        if self.connections.pop(connection.id, None) is None:
            return
        organisation = connection.organisation
        del organisation.connections[connection.id]
        self._presence.disconnected(connection)
        for place in connection.places:
            self._rooms.exit(place, connection)
        connection.memberships.clear()
        connection.internal = ()
        for totals in (organisation.totals, self._counters):
            totals.disconnects += 1
            totals.messages_in += connection.messages_in
            totals.messages_out += connection.messages_out
            totals.bytes_in += connection.peer.received_bytes
        if not organisation.connections:
            self._retire(organisation)
        self._counters.closes[code] += 1
        self._flusher.wake()
        if code == CloseCode.SLOW_CONSUMER:
            self._counters.slow_closed += 1

    def _organisation(self, name: str) -> Organisation[Connection]:
        organisation = self.organisations.get(name)
        if organisation is None:
            organisation = self.organisations[name] = Organisation(
                name, Share(self._flusher, self._weights.get(name, 1)), self.retired.take(name)
            )
        return organisation

    def _retire(self, organisation: Organisation[Connection]) -> None:
        """Nobody is left: keep only the totals, of a bounded number of organisations."""
        del self.organisations[organisation.name]
        sent = organisation.share.sent_bytes
        organisation.totals.bytes_out += sent
        self._counters.bytes_out += sent
        self.retired.keep(organisation.name, organisation.totals)

    def disconnect(
        self,
        org: str,
        connection_id: str,
        code: int = CloseCode.DISCONNECTED,
        reason: str = "disconnected by an administrator",
    ) -> None:
        """Close one connection of ``org``; raises NOT_FOUND."""
        self.find(org, connection_id).peer.close(code, reason)

    def take_over(self, org: str, user: str | None, token: str, by: Connection | None = None) -> bytes:
        """Close the open connection of the user that has this resume ``token``; returns what it had.

        Empty when there is none, or it is the one that wants it (``by``).
        """
        old = self.connections.get(token.rpartition(".")[0])
        if old is None or old is by or (old.org, old.user) != (org, user):
            return b""
        return old.peer.give_way(token)

    def close_matching(self, predicate: Callable[[Connection], bool], code: int, message: str) -> int:
        """Close every connection for which ``predicate`` holds; returns how many."""
        matching = [connection for connection in self.connections.values() if predicate(connection)]
        for connection in matching:
            connection.peer.close(code, message)
        self._flusher.wake()
        return len(matching)

    def find(self, org: str, connection_id: str) -> Connection:
        """The connection of that id; raises NOT_FOUND."""
        organisation = self.organisations.get(org)
        connection = None if organisation is None else organisation.connections.get(connection_id)
        if connection is None:
            raise ProtocolError(ErrorCode.NOT_FOUND, "no such connection")
        return connection
