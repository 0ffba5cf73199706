"""The hub: everyone who is connected to this node, and the way of every event to them.

An event goes in through :meth:`Hub.submit`, gets its place from the broker, and comes out
of :meth:`Hub._deliver`, which finds the channel's members on this node and queues it for
each. None of this waits; with the memory broker all of it happens inside ``submit``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import trio

from gateway.auth.identity import Identity
from gateway.broker.base import (
    Broker,
    Done,
    Event,
    HistoryPage,
    Position,
    Since,
    organisation_channel,
    room_channel,
    user_channel,
)
from gateway.hub.connection import Connection, Peer
from gateway.hub.counters import Counters
from gateway.hub.lag import Overflow
from gateway.hub.organisation import Organisation, OrganisationTotals
from gateway.hub.room import Membership, Room, event_frame
from gateway.hub.trace import Tracer
from gateway.wire.flusher import Flusher, Lane
from protocol.codec import Codec
from protocol.errors import CloseCode, ErrorCode, ProtocolError
from protocol.names import check_event, check_mid, check_room
from protocol.patterns import EventFilter

__all__ = ["Hub", "Sent"]

_TAP: Final = 4096
"""Events noted for one member to be; when more come before the broker answers, it is asked again."""
_RETIRED: Final = 10_000
"""Organisations without a connection whose totals are remembered."""


class Sent(NamedTuple):
    """A direct send: its message id, and how many connections of this node it was queued for."""

    mid: str
    connections: int


class Hub:
    """All local connections. Every method that does not say ``await`` returns at once."""

    def __init__(
        self,
        broker: Broker,
        flusher: Flusher,
        *,
        node: str,
        command_timeout: float = 10.0,
        weights: Mapping[str, int] | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """``command_timeout`` bounds every wait for the broker, in seconds."""
        self.node = node
        self.started_at = time.time()
        self.broker = broker
        self.counters = Counters()
        self.tracer = tracer
        self.connections: dict[str, Connection] = {}
        self.organisations: dict[str, Organisation] = {}
        self._retired: dict[str, OrganisationTotals] = {}
        self._channels: dict[str, Room] = {}
        self._flusher = flusher
        self._timeout = command_timeout
        self._weights = dict(weights or {})
        self._ids = itertools.count(1)
        broker.deliver = self._deliver

    # --- connections --------------------------------------------------------------------------

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
            id=f"{self.node}-{next(self._ids):x}",
            node=self.node,
            organisation=organisation,
            identity=identity,
            codec=codec,
            peer=peer,
            ip=ip,
            user_agent=user_agent,
            client_id=client_id,
        )
        connection.outbox.move(organisation.lane)
        self.connections[connection.id] = connection
        organisation.connections[connection.id] = connection
        organisation.totals.connects += 1
        self.counters.connects += 1
        own = [organisation.everyone]
        if identity.user is not None:
            own.append(organisation.user(identity.user))
        with contextlib.ExitStack() as held:
            for room in own:
                held.enter_context(self._held(room, organisation))
            try:
                with _deadline(self._timeout):
                    for room in own:
                        await self.broker.subscribe(room.channel)
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
        self._flusher.wake()
        if code == CloseCode.SLOW_CONSUMER:
            self.counters.slow_closed += 1

    def _organisation(self, name: str) -> Organisation:
        organisation = self.organisations.get(name)
        if organisation is None:
            organisation = self.organisations[name] = Organisation(
                name, Lane(self._flusher, self._weights.get(name, 1)), self._retired.pop(name, None)
            )
        return organisation

    def _retire(self, organisation: Organisation) -> None:
        """Nobody is left: keep only the totals, of a bounded number of organisations."""
        del self.organisations[organisation.name]
        sent = organisation.lane.sent_bytes
        organisation.totals.bytes_out += sent
        self.counters.bytes_out += sent
        self._retired[organisation.name] = organisation.totals
        if len(self._retired) > _RETIRED:
            del self._retired[next(iter(self._retired))]

    def disconnect(
        self,
        org: str,
        connection_id: str,
        code: int = CloseCode.DISCONNECTED,
        reason: str = "disconnected by an administrator",
    ) -> None:
        """Close one connection of ``org``; raises NOT_FOUND."""
        self._find(org, connection_id).peer.close(code, reason)

    def close_matching(self, predicate: Callable[[Connection], bool], code: int, message: str) -> int:
        """Close every connection for which ``predicate`` holds; returns how many."""
        matching = [connection for connection in self.connections.values() if predicate(connection)]
        for connection in matching:
            connection.peer.close(code, message)
        self._flusher.wake()
        return len(matching)

    def _find(self, org: str, connection_id: str) -> Connection:
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
        pause = present if since is not None and present is not None and present.lag is None else None
        if pause is not None:  # what comes now comes behind what is replayed
            pause.fall_behind(room.seq, by_replay=True)
        with self._held(room, connection.organisation) as tap:
            try:
                with _deadline(self._timeout):
                    await self.broker.subscribe(room.channel)
                    page = await self._read_up(room, since, tap)
            except BaseException:
                if pause is not None:
                    connection.peer.catch_up()
                raise
            if connection.id not in self.connections:  # gone meanwhile
                raise ProtocolError(ErrorCode.NOT_FOUND, "the connection has ended")
            place = self._enter(room, connection, events, overflow, key, page=page)
            place.joined_at = page.seq if since is None else since.seq
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
        if page is not None and not room.members:
            room.seq, room.epoch = page.seq, page.epoch
        self._channels[room.channel] = room
        place = room.add(connection, events, overflow, key)
        if page is not None and page.seq > room.seq:
            place.fall_behind(page.seq, by_replay=True).aligned = True
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
        place.room.remove(place.connection)
        self._discard_if_empty(place.room, place.connection.organisation)

    def _discard_if_empty(self, room: Room, organisation: Organisation) -> None:
        if not room.members and not room.taps:
            self._channels.pop(room.channel, None)
            self.broker.unsubscribe(room.channel)
            organisation.discard(room)

    # --- events -------------------------------------------------------------------------------

    def new_mid(self) -> str:
        """A message id that no other message has."""
        # Nobody may guess the next one: published first, it would make the other event a duplicate.
        return os.urandom(12).hex()

    def submit(
        self,
        org: str,
        room: str | None,
        event: str,
        data: Any,
        done: Done,
        *,
        sender: str | None = None,
        mid: str | None = None,
        exclude: frozenset[str] | None = None,
        critical: bool = False,
        size: int = 0,
    ) -> None:
        """Publish to a room, or with None to the organisation; ``done`` gets the place or a 3xx error."""
        self.counters.publishes += 1
        self.broker.submit(
            Event(
                channel=organisation_channel(org) if room is None else room_channel(org, room),
                event=event,
                mid=mid or self.new_mid(),
                ts=time.time_ns() // 1_000_000,
                room=room,
                data=data,
                sender=sender,
                exclude=exclude,
                critical=critical,
                size=size,
            ),
            done,
        )

    async def publish(
        self,
        org: str,
        room: str | None,
        event: str,
        data: Any = None,
        *,
        sender: str | None = None,
        mid: str | None = None,
        exclude: frozenset[str] | None = None,
        critical: bool = False,
        size: int = 0,
    ) -> Position:
        """As :meth:`submit`, for those who can wait; checks the names, raises 1xx and 3xx errors."""
        if room is not None:
            check_room(room)
        check_event(event)
        if mid is not None:
            check_mid(mid)
        outcome: list[Position | ProtocolError] = []
        placed = trio.Event()

        def done(result: Position | ProtocolError) -> None:
            outcome.append(result)
            placed.set()

        self.submit(
            org,
            room,
            event,
            data,
            done,
            sender=sender,
            mid=mid,
            exclude=exclude or None,
            critical=critical,
            size=size,
        )
        self._flusher.wake()
        with _deadline(self._timeout):
            await placed.wait()
        if isinstance(outcome[0], ProtocolError):
            raise outcome[0]
        return outcome[0]

    def send_to_user(
        self,
        org: str,
        user: str,
        event: str,
        data: Any = None,
        *,
        sender: str | None = None,
        mid: str | None = None,
    ) -> Sent:
        """Send to all connections of one user; raises BAD_EVENT."""
        check_event(event)
        organisation = self.organisations.get(org)
        local = None if organisation is None else organisation.users.get(user)
        mid = mid or self.new_mid()
        self.broker.submit(
            Event(
                channel=user_channel(org, user),
                event=event,
                mid=mid,
                ts=time.time_ns() // 1_000_000,
                data=data,
                sender=sender,
                ordered=False,
            ),
            _ignore,
        )
        self._flusher.wake()
        wanting = 0 if local is None else sum(member.filter.allows(event) for member in local.members)
        return Sent(mid, wanting)

    def send_to_connection(
        self,
        org: str,
        connection_id: str,
        event: str,
        data: Any = None,
        *,
        sender: str | None = None,
        mid: str | None = None,
    ) -> Sent:
        """Send to one connection; raises NOT_FOUND."""
        check_event(event)
        connection = self._find(org, connection_id)
        mid = mid or self.new_mid()
        direct = Event(
            channel=f"{org}\0c\0{connection_id}",
            event=event,
            mid=mid,
            ts=time.time_ns() // 1_000_000,
            data=data,
            sender=sender,
            ordered=False,
        )
        queued = connection.filter.allows(event) and connection.outbox.put(
            event_frame(direct, connection.codec)
        )
        if self.tracer is not None:
            self.tracer.sent_to(connection, direct)
        self._flusher.wake()
        return Sent(mid, int(queued))

    def announce(self, connection: Connection, room: str, event: str, data: Any) -> None:
        """Tell the others of a room something that has no place in its order (typing)."""
        self.broker.submit(
            Event(
                channel=room_channel(connection.org, room),
                event=event,
                mid=self.new_mid(),
                ts=time.time_ns() // 1_000_000,
                room=room,
                data=data,
                sender=connection.user,
                exclude=None if connection.user is None else frozenset((connection.user,)),
                exclude_connection=connection.id,
                ordered=False,
            ),
            _ignore,
        )

    def _deliver(self, event: Event) -> None:
        room = self._channels.get(event.channel)
        if room is not None:
            for tap in room.taps:
                tap.append(event)
            self.counters.deliveries += room.fan_out(event)
        # Nobody asks about typing: its message id is not told.
        if self.tracer is not None and event.exclude_connection is None:
            members = () if room is None else room.members.items()
            self.tracer.delivered(event.channel.partition("\0")[0], event, members)

    # --- questions ------------------------------------------------------------------------------

    async def history(
        self, org: str, room: str, *, since: Since | None = None, limit: int, reader: str | None = None
    ) -> HistoryPage:
        """A page of a room's kept events, without those that leave out the user ``reader``.

        Raises 3xx when the broker cannot be reached.
        """
        channel = room_channel(org, check_room(room))
        complete = True
        with _deadline(self._timeout):
            while True:
                page = await self.broker.history(channel, since=since, limit=limit)
                complete = complete and page.complete
                seen = [event for event in page.events if reader not in (event.exclude or ())]
                if seen or not page.more:
                    return page._replace(events=seen, complete=complete)
                # An empty page would have no last event from which to go on.
                since = Since(page.epoch, page.events[-1].seq or 0)

    def trace(self, org: str, mid: str, *, user: str | None = None) -> dict[str, Any] | None:
        """What became of a message on this node, for one user or for all; None when it was not traced."""
        if self.tracer is None:
            return None
        organisation = self.organisations.get(org)
        present = () if organisation is None else organisation.connections.values()
        return self.tracer.find(org, mid, user, present)

    def rooms(self, org: str) -> list[dict[str, Any]]:
        """The organisation's rooms that have members on this node."""
        organisation = self.organisations.get(org)
        if organisation is None:
            return []
        return [
            {
                "room": name,
                "members": len(room.members),
                "users": len({member.user for member in room.members if member.user is not None}),
                "seq": room.seq,
                "epoch": room.epoch,
            }
            for name, room in sorted(organisation.rooms.items())
        ]

    def presence(self, org: str, room: str) -> list[dict[str, Any]]:
        """The users in a room, each with its number of connections; those without a user are left out."""
        organisation = self.organisations.get(org)
        local = None if organisation is None else organisation.rooms.get(room)
        counts: dict[str, int] = {}
        for member in () if local is None else local.members:
            if member.user is not None:
                counts[member.user] = counts.get(member.user, 0) + 1
        return [{"user": user, "connections": number} for user, number in sorted(counts.items())]

    def totals(self, org: str | None = None) -> dict[str, int]:
        """Messages and bytes in and out since the start, of ended and of open connections."""
        if org is None:
            lanes = [self._flusher.lane, *(each.lane for each in self.organisations.values())]
            return _sum_traffic(self.counters, self.connections.values(), lanes)
        organisation = self.organisations.get(org)
        if organisation is None:
            return _sum_traffic(self._retired.get(org) or OrganisationTotals(), (), ())
        return _sum_traffic(organisation.totals, organisation.connections.values(), (organisation.lane,))

    def stats(self, org: str | None) -> dict[str, Any]:
        """Counts of one organisation, or with None of the whole node."""
        organisations = self.organisations
        uptime = round(time.time() - self.started_at, 3)
        if org is None:
            return {
                "node": self.node,
                "uptime": uptime,
                "connections": len(self.connections),
                "connections_total": self.counters.connects,
                "disconnections_total": self.counters.disconnects,
                "users": sum(len(o.users) for o in organisations.values()),
                "rooms": sum(len(o.rooms) for o in organisations.values()),
                "organisations": {
                    name: len(organisations[name].connections) for name in sorted(organisations)
                },
                "publishes": self.counters.publishes,
                "deliveries": self.counters.deliveries,
                **self.totals(),
            }
        organisation = organisations.get(org) or Organisation(org, self._flusher.lane, self._retired.get(org))
        return {
            "node": self.node,
            "uptime": uptime,
            "org": org,
            "connections": len(organisation.connections),
            "connections_total": organisation.totals.connects,
            "disconnections_total": organisation.totals.disconnects,
            "users": len(organisation.users),
            "rooms": {name: len(organisation.rooms[name].members) for name in sorted(organisation.rooms)},
            **self.totals(org),
        }


def _sum_traffic(
    ended: Counters | OrganisationTotals, live: Iterable[Connection], lanes: Iterable[Lane]
) -> dict[str, int]:
    sums = [ended.messages_in, ended.messages_out, ended.bytes_in, ended.bytes_out]
    for connection in live:
        sums[0] += connection.messages_in
        sums[1] += connection.messages_out
        sums[2] += connection.peer.received_bytes
    sums[3] += sum(lane.sent_bytes for lane in lanes)
    return dict(zip(("messages_in", "messages_out", "bytes_in", "bytes_out"), sums, strict=True))


def _ignore(_result: Position | ProtocolError) -> None:
    """For events whose place nobody asked for."""


class _deadline:
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
