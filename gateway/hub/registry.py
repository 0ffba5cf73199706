"""Who is here: the connections of this node, their organisations, and the rooms they are in.

Waiting is done for the broker only, and bounded: a room is entered when its channel is followed and read
up to the last event that was delivered on this node, so that a member misses nothing and gets nothing twice.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import trio

from gateway.auth.identity import Identity
from gateway.broker.base import Broker, Event, HistoryPage, Since
from gateway.hub.connection import Connection, Peer
from gateway.hub.counters import Counters
from gateway.hub.lag import Overflow
from gateway.hub.organisation import Organisation, OrganisationTotals
from gateway.hub.presence import Presence
from gateway.hub.room import Membership, Room
from gateway.wire.flusher import Flusher, Share
from protocol.codec import Codec
from protocol.errors import CloseCode, ErrorCode, ProtocolError
from protocol.patterns import EventFilter

__all__ = ["Registry", "deadline"]

_TAP: Final = 4096
"""Events noted for one member to be; when more come before the broker answers, it is asked again."""
_RETIRED: Final = 10_000
"""Organisations without a connection whose totals are remembered."""


class Registry:
    """Connections, organisations and rooms. Every method that does not say ``await`` returns at once."""

    def __init__(
        self,
        broker: Broker,
        flusher: Flusher,
        *,
        node: str,
        command_timeout: float = 10.0,
        weights: Mapping[str, int] | None = None,
        presence: Presence | None = None,
        id: str | None = None,
    ) -> None:
        """``command_timeout`` bounds every wait for the broker, in seconds.

        ``id`` begins the ids of connections; the node's name, where that is enough to tell them apart.
        """
        self.node = node
        self.id = id or node
        self.started_at = time.time()
        self.broker = broker
        self.flusher = flusher
        self.counters = Counters()
        self.presence = presence or Presence()
        self.connections: dict[str, Connection] = {}
        self.organisations: dict[str, Organisation] = {}
        self.presence.organisations = self.organisations
        self.retired: dict[str, OrganisationTotals] = {}
        """What organisations that have no connection any more did."""
        self._channels: dict[str, Room] = {}
        self._timeout = command_timeout
        self._weights = dict(weights or {})
        self._ids = itertools.count(1)

    async def connect(
        self,
        *,
        identity: Identity,
        codec: Codec,
        peer: Peer,
        ip: str,
        user_agent: str | None = None,
        client_id: str | None = None,
    ) -> Connection:
        """Register an authenticated connection; it hears its organisation and its user from its return on.

        Raises 3xx when the broker cannot be reached.
        """
        organisation = self._organisation(identity.org)
        connection = Connection(
            id=f"{self.id}-{next(self._ids):x}",
            node=self.node,
            organisation=organisation,
            identity=identity,
            codec=codec,
            peer=peer,
            ip=ip,
            user_agent=user_agent,
            client_id=client_id,
        )
        connection.outbox.move(organisation.share)
        self.connections[connection.id] = connection
        organisation.connections[connection.id] = connection
        organisation.totals.connects += 1
        self.counters.connects += 1
        self.presence.connected(connection)
        own = [organisation.everyone]
        if identity.user is not None:
            own.append(organisation.user(identity.user))
        with contextlib.ExitStack() as held:
            for room in own:
                held.enter_context(self._held(room, organisation))
            try:
                with deadline(self._timeout):
                    await self.broker.subscribe(organisation.channel)
                    await self.presence.settled(connection)
            except BaseException:
                self.disconnected(connection, CloseCode.INTERNAL_ERROR)
                raise
            # Only now, so that nothing is queued before the greeting.
            connection.internal = tuple(self._enter(room, connection) for room in own)
        return connection

    def disconnected(self, connection: Connection, code: int) -> None:
        """Forget a connection that has ended with ``code``, and all that only it kept alive."""
        if self.connections.pop(connection.id, None) is None:
            return
        organisation = connection.organisation
        del organisation.connections[connection.id]
        self.presence.disconnected(connection)
        for place in (*connection.internal, *connection.memberships.values()):
            self._exit(place)
        connection.memberships.clear()
        connection.internal = ()
        for totals in (organisation.totals, self.counters):
            totals.disconnects += 1
            totals.messages_in += connection.messages_in
            totals.messages_out += connection.messages_out
            totals.bytes_in += connection.peer.received_bytes
        if not organisation.connections:
            self._retire(organisation)
        self.counters.closes[code] += 1
        self.flusher.wake()
        if code == CloseCode.SLOW_CONSUMER:
            self.counters.slow_closed += 1

    def _organisation(self, name: str) -> Organisation:
        organisation = self.organisations.get(name)
        if organisation is None:
            organisation = self.organisations[name] = Organisation(
                name, Share(self.flusher, self._weights.get(name, 1)), self.retired.pop(name, None)
            )
        return organisation

    def _retire(self, organisation: Organisation) -> None:
        """Nobody is left: keep only the totals, of a bounded number of organisations."""
        del self.organisations[organisation.name]
        sent = organisation.share.sent_bytes
        organisation.totals.bytes_out += sent
        self.counters.bytes_out += sent
        self.retired[organisation.name] = organisation.totals
        if len(self.retired) > _RETIRED:
            del self.retired[next(iter(self.retired))]

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
        self.flusher.wake()
        return len(matching)

    def find(self, org: str, connection_id: str) -> Connection:
        """The connection of that id; raises NOT_FOUND."""
        organisation = self.organisations.get(org)
        connection = None if organisation is None else organisation.connections.get(connection_id)
        if connection is None:
            raise ProtocolError(ErrorCode.NOT_FOUND, "no such connection")
        return connection

    # --- rooms --------------------------------------------------------------------------------

    async def join(
        self,
        connection: Connection,
        name: str,
        *,
        events: EventFilter,
        since: Since | None = None,
        overflow: Overflow = "disconnect",
        key: str = "key",
    ) -> tuple[Membership, HistoryPage]:
        """Enter a room, or change the filter of a joined one; with ``since``, also read what was missed.

        The member is in the room when this returns, and nothing was published between the page's last event
        and its entry. Raises 3xx when the broker cannot be reached.
        """
        room = connection.organisation.room(name)
        present = connection.memberships.get(name)
        held = present if since is not None else None
        if held is not None:  # what comes now comes behind what is replayed
            held.hold()
        with self._held(room, connection.organisation) as tap:
            try:
                with deadline(self._timeout):
                    await self.broker.subscribe(room.channel)
                    page = await self._read_up(room, since, tap)
            except BaseException:
                if held is not None:
                    held.release()
                raise
            if connection.id not in self.connections:  # gone meanwhile
                raise ProtocolError(ErrorCode.NOT_FOUND, "the connection has ended")
            place = self._enter(room, connection, events, overflow, key, page=page)
            place.joined_at = Since(page.epoch, page.seq) if since is None else since
            connection.memberships[name] = place
        return place, page

    async def _read_up(self, room: Room, since: Since | None, tap: deque[Event]) -> HistoryPage:
        """What a member to be has missed, up to the last event that was delivered on this node."""
        while True:
            tap.clear()
            page = await self.broker.history(room.channel, since=since, limit=0 if since is None else 2**31)
            # The page may be older than what was delivered while it was under way.
            newer = [event for event in tap if event.seq is not None]
            if all(event.epoch == page.epoch for event in newer) and len(tap) < _TAP:
                break
        newer = [event for event in newer if (event.seq or 0) > page.seq]
        if not newer:
            return page
        events = page.events if since is None else [*page.events, *newer]
        return page._replace(events=events, seq=newer[-1].seq or 0)

    def leave(self, connection: Connection, name: str) -> bool:
        """Leave a room; False when it was not joined."""
        place = connection.memberships.pop(name, None)
        if place is None:
            return False
        self._exit(place)
        return True

    def set_filter(self, connection: Connection, events: EventFilter) -> None:
        """Give a connection another filter over everything that reaches it."""
        connection.filter = events
        for place in (*connection.internal, *connection.memberships.values()):
            place.room.regroup(place)

    def _enter(
        self,
        room: Room,
        connection: Connection,
        events: EventFilter = EventFilter.ALL,
        overflow: Overflow = "disconnect",
        key: str = "key",
        page: HistoryPage | None = None,
    ) -> Membership:
        if page is not None and room.empty:
            room.seq, room.epoch = page.seq, page.epoch
        self._channels[room.channel] = room
        place = None if room.name is None else connection.memberships.get(room.name)
        if place is None:
            place = room.add(connection, events, overflow, key)
            self.presence.entered(room, connection)
        else:
            room.change(place, events, overflow, key)
        if page is not None and (page.epoch != room.epoch or page.seq > room.seq):
            place.fall_behind(page.seq, epoch=page.epoch, by_replay=True).aligned = True
        return place

    @contextlib.contextmanager
    def _held(self, room: Room, organisation: Organisation) -> Iterator[deque[Event]]:
        """Keep a room alive, and note what is delivered in it, while somebody is about to enter."""
        tap: deque[Event] = deque(maxlen=_TAP)
        room.taps = (*room.taps, tap)
        self._channels[room.channel] = room
        try:
            yield tap
        finally:
            room.taps = tuple(each for each in room.taps if each is not tap)
            self._discard_if_empty(room, organisation)

    def _exit(self, place: Membership) -> None:
        place.room.remove(place)
        self.presence.left(place.room, place.connection)
        self._discard_if_empty(place.room, place.connection.organisation)

    def _discard_if_empty(self, room: Room, organisation: Organisation) -> None:
        if room.empty and not room.taps:
            self._channels.pop(room.channel, None)
            self.broker.unsubscribe(room.channel)
            organisation.discard(room)


class deadline:
    """``trio.fail_after`` that fails with a numbered error."""

    def __init__(self, seconds: float) -> None:
        self._scope = trio.CancelScope(deadline=trio.current_time() + seconds)

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool | None:
        handled = self._scope.__exit__(kind, error, trace)
        if self._scope.cancelled_caught:
            raise ProtocolError(ErrorCode.TIMEOUT, "the broker did not answer in time", retry_after=1.0)
        return handled
