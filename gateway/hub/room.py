"""A room's members, grouped so that an event is judged and encoded once for all who are alike.

Members with the same encoding and the same filters form a group. An event is matched against
each group's filters and encoded once per encoding; what remains per member is one ``put``
into its outbox. 500 members with one filter cost one match and one encode, not 500.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from gateway.broker.base import Channel, Event, Since
from gateway.hub.lag import Lag, Overflow, State, Step
from gateway.hub.peer import Member
from gateway.wire.broadcast import MANY, Broadcast
from gateway.wire.outbox import Outbox
from gateway.wire.shares import Share
from protocol.encoding import Encoding
from protocol.envelope import Envelope
from protocol.patterns import EventFilter
from protocol.stamps import RENEWS

__all__ = ["Membership", "Room", "Unjudged"]

_BROADCASTS: Final = 8
"""Of one organisation at the same time: each ``put`` into one of its outboxes looks at all of them."""

_FEW: Final = 16
"""Groups that are asked one by one for each event; of more, a room remembers which an event is for."""
_NAMES: Final = 32
"""Event names for which a room remembers that. It takes eight bytes for each of them and each group."""

_MANY: Final = 128
"""Groups that are asked in one go for a name that they may not know; that of more is left to ``judging``."""

GroupKey = tuple[Encoding, EventFilter, EventFilter, bool]


class Unjudged(Exception):
    """An event must wait: too many filters would have to be asked, or others wait for that already."""


class Membership:
    """One connection's place in one room."""

    __slots__ = ("acked", "connection", "events", "group", "joined_at", "key", "lag", "overflow", "room")

    def __init__(
        self, room: Room, connection: Member, events: EventFilter, overflow: Overflow, key: str
    ) -> None:
        """``events`` is the filter of the join; the connection's own applies as well."""
        self.room = room
        self.connection = connection
        self.events = events
        self.overflow = overflow
        self.key = key
        self.lag: Lag | None = None
        self.group: Group | None = None
        self.acked: Since | None = None
        self.joined_at = Since("", 0)

    def wants(self, event: Event) -> bool:
        """Tell whether the event passes both filters and does not leave this member out."""
        connection = self.connection
        return (
            self.events.allows(event.event)
            and connection.filter.allows(event.event)
            and not connection.excluded_from(event)
        )

    def fall_behind(self, position: int, *, epoch: str | None = None, by_replay: bool = False) -> Lag:
        """Stop queueing for this member; ``position`` is the last event that was queued.

        ``by_replay``: what follows is read from history, whatever the member's policy.
        """
        self.forget_lag()
        self.lag = Lag(
            "replay" if by_replay else self.overflow,
            self.room.epoch if epoch is None else epoch,
            position,
            key=self.key,
            backlog=self.connection.backlog,
        )
        if by_replay:
            self.room.regroup(self)
        return self.lag

    def forget_lag(self) -> None:
        """What was kept for this member is of no interest any more."""
        if self.lag is not None:
            self.lag.clear()
            self.lag = None

    def keep(self, lag: Lag, event: Event) -> None:
        """The member lags: keep ``event`` for later, at the price of older ones."""
        for dropped, policy in lag.add(event):
            self.connection.peer.dropped(dropped, policy)

    def hold(self) -> None:
        """Send this member nothing more until a join, which is under way, has said from where to go on."""
        lag = self.lag or self.fall_behind(self.room.seq, by_replay=True)
        lag.step(Step.HOLD)

    def release(self) -> None:
        """The join came to nothing: go on from where the member was."""
        if self.lag is not None and self.lag.state is State.HELD:
            self.lag.step(Step.RELEASE)
            self.connection.peer.catch_up()

    def caught_up(self) -> None:
        """Nothing is missing: the member is live again."""
        self.lag = None
        self.room.regroup(self)


class Group:
    """Members that get the same events in the same bytes."""

    __slots__ = ("broadcast", "encoding", "events", "filter", "members", "patient")

    def __init__(
        self, encoding: Encoding, connection_filter: EventFilter, room_filter: EventFilter, patient: bool
    ) -> None:
        """``patient`` members may lag; the others are closed when they are too slow."""
        self.encoding = encoding
        self.filter = connection_filter
        self.events = room_filter
        self.patient = patient
        self.members: dict[Outbox, Membership] = {}
        self.broadcast: Broadcast | None = None

    def put(self, frame: bytes) -> int:
        """Queue a frame for every member; returns for how many."""
        members = self.members
        first = next(iter(members))
        share = first.share
        if first.stamped:
            return self._put_stamped(share, frame)
        # A full outbox may end a connection, but only its own task takes it out of the room.
        if share.broadcasts:
            if len(members) < MANY or len(share.broadcasts) >= _BROADCASTS:
                return sum(outbox.put(frame) for outbox in members)
        elif len(members) < MANY:
            return sum(outbox.append(frame) for outbox in members)
        if self.broadcast is None:
            self.broadcast = Broadcast(share, members)
        return self.broadcast.put(frame)

    def _put_stamped(self, share: Share, frame: bytes) -> int:
        """A stamp speaks of all that went before, whatever room it came from: nothing may overtake it."""
        members, own = self.members, self.broadcast
        others = sum(each.stamped and each is not own for each in share.broadcasts)
        if len(members) < MANY or others or len(share.broadcasts) >= _BROADCASTS or frame[0] == RENEWS:
            return sum(outbox.put(frame) for outbox in members)
        if own is None:
            own = self.broadcast = Broadcast(share, members, stamped=True)
        return own.put(frame)


class Room:
    """One channel's members on this node: a room, a whole organisation, or one user's connections."""

    __slots__ = ("_groups", "_matching", "channel", "epoch", "name", "seq", "taps", "waiting")

    def __init__(self, channel: Channel, name: str | None) -> None:
        self.channel = channel
        self.name = name
        self.seq = 0
        self.epoch = ""
        """Where the channel stood when this node last heard of it."""
        self.taps: tuple[deque[Event], ...] = ()
        """One for each member to be that still waits for the broker: the events that came meanwhile."""
        self.waiting: deque[Event] | None = None
        """Events that are not fanned out yet, the oldest first: see ``judging``. Never empty."""
        self._groups: dict[GroupKey, Group] = {}
        self._matching: dict[str, list[Group]] | None = None
        """Event name → the groups that it is for; forgotten whenever there are other groups."""

    @property
    def size(self) -> int:
        """How many connections are members."""
        return sum(len(group.members) for group in self._groups.values())

    @property
    def empty(self) -> bool:
        """There is no member."""
        return not self._groups

    def members(self) -> Iterator[Membership]:
        """All members, in no order; nobody may come or go meanwhile."""
        for group in self._groups.values():
            yield from group.members.values()

    def add(
        self,
        connection: Member,
        events: EventFilter,
        overflow: Overflow = "disconnect",
        key: str = "key",
    ) -> Membership:
        """Add a connection that is no member yet."""
        membership = Membership(self, connection, events, overflow, key)
        self._group(membership)
        return membership

    def change(self, membership: Membership, events: EventFilter, overflow: Overflow, key: str) -> None:
        """Give a member another filter and another overflow policy; it does not lag any more."""
        self._ungroup(membership)
        membership.events, membership.overflow, membership.key = events, overflow, key
        membership.forget_lag()
        self._group(membership)

    def remove(self, membership: Membership) -> None:
        """Remove a member, if it is one."""
        self._ungroup(membership)
        membership.forget_lag()

    def regroup(self, membership: Membership) -> None:
        """The member's connection has another filter now; nothing happens if it has left."""
        if membership.group is not None:
            self._ungroup(membership)
            self._group(membership)

    def _group(self, membership: Membership) -> None:
        connection = membership.connection
        patient = membership.overflow != "disconnect" or membership.lag is not None
        key = (connection.encoding, connection.filter, membership.events, patient)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(*key)
            self._matching = None
        group.members[connection.outbox] = membership
        if group.broadcast is not None:
            group.broadcast.entered(connection.outbox)
        membership.group = group

    def _ungroup(self, membership: Membership) -> None:
        group = membership.group
        if group is None:
            return
        outbox = membership.connection.outbox
        if group.broadcast is not None:
            group.broadcast.leaving(outbox)
        del group.members[outbox]
        if not group.members:
            del self._groups[group.encoding, group.filter, group.events, group.patient]
            self._matching = None
            if self.waiting is not None and len(self._groups) <= _FEW:
                self._release_all()
        membership.group = None

    def filters(self) -> list[tuple[EventFilter, EventFilter]]:
        """The connection's and the room's of each group."""
        return [(group.filter, group.events) for group in self._groups.values()]

    def release(self) -> int:
        """Fan out the first event that waits, whatever that takes; returns for how many."""
        waiting, self.waiting = self.waiting, None
        if not waiting:
            return 0
        event = waiting.popleft()
        try:
            if len(self._groups) > _FEW:
                self._match(event.event)
            return self.fan_out(event)
        finally:
            self.waiting = waiting or None

    def _release_all(self) -> None:
        while self.waiting:
            self.release()

    def fan_out(self, event: Event) -> int:
        """Queue ``event`` for everyone it is for; returns for how many. Never waits. Raises Unjudged."""
        name = event.event
        groups = self._groups.values() if len(self._groups) <= _FEW else self._groups_for(name)
        if event.seq is not None:
            if event.seq <= self.seq and event.epoch == self.epoch:
                return 0  # before the first member came
            self.seq = event.seq
            self.epoch = event.epoch or ""
        frames: dict[Encoding, bytes] = {}
        count = 0
        aligned: list[Membership] | None = None
        for group in groups:
            if not (group.filter.allows(name) and group.events.allows(name)):
                continue
            frame = frames.get(group.encoding)
            if frame is None:
                frame = frames[group.encoding] = group.encoding.encode(event.envelope())
            if event.critical or group.patient:
                if aligned is None:
                    aligned = []
                count += self._fan_out_carefully(group, event, frame, aligned)
            elif event.exclude is None and event.exclude_connection is None:
                count += group.put(frame)
            else:
                for outbox, membership in group.members.items():
                    count += not membership.connection.excluded_from(event) and outbox.put(frame)
        for membership in aligned or ():
            membership.caught_up()  # which may make and remove groups
        return count

    def _groups_for(self, name: str) -> list[Group]:
        """The groups of many that want events of this name."""
        if self.waiting is not None:
            raise Unjudged
        matching = self._matching
        groups = None if matching is None else matching.get(name)
        if groups is None:
            if len(self._groups) > _MANY:
                raise Unjudged
            groups = self._match(name)
        return groups

    def _match(self, name: str) -> list[Group]:
        matching = self._matching
        if matching is None or (len(matching) >= _NAMES and name not in matching):
            matching = self._matching = {}
        groups = matching.get(name)
        if groups is None:
            groups = matching[name] = [
                group
                for group in self._groups.values()
                if group.filter.allows(name) and group.events.allows(name)
            ]
        return groups

    def _fan_out_carefully(self, group: Group, event: Event, frame: bytes, aligned: list[Membership]) -> int:
        """For members that may lag, and for critical events, which overtake what is queued."""
        count = 0
        for outbox, membership in group.members.items():
            if membership.connection.excluded_from(event):
                continue
            lag = membership.lag
            if event.critical:
                if lag is not None:
                    lag.overtake(event)
                count += outbox.put_urgent(frame)
            elif event.seq is None:
                # Nothing that could be repaired: typing is dropped while a member lags.
                count += lag is None and outbox.put(frame)
            elif lag is not None and lag.state is State.AHEAD and event.epoch == lag.epoch:
                if event.seq > lag.position:
                    count += outbox.put(frame)
                if event.seq >= lag.position:
                    aligned.append(membership)
            elif lag is not None:
                membership.keep(lag, event)
                if lag.state is State.AHEAD:  # with an order that has ended: look what there is now
                    lag.step(Step.LOOK_AGAIN)
                    membership.connection.peer.catch_up()
            elif outbox.refuses(len(frame)):
                membership.keep(membership.fall_behind(event.seq - 1), event)
                membership.connection.peer.catch_up()
            else:
                count += outbox.put(frame)
        return count

    def lost(self, first: int, last: int) -> None:
        """Tell the members that the broker can no longer bring these events; both ends included."""
        self._release_all()
        first = max(first, self.seq + 1)
        for membership in list(self.members()) if first <= last else ():
            lag = membership.lag
            ahead = lag is not None and lag.state is State.AHEAD
            if lag is None or (ahead and last > lag.position):
                start = first if lag is None else max(first, lag.position + 1)
                data = {"from": start, "to": last, "reason": "broker"}
                self._tell(membership, self._lost(data))
            elif not ahead and not lag.replays:  # a replay will find out by itself
                lag.miss(first, last)
            if lag is not None and ahead and last >= lag.position:
                membership.caught_up()
        self.seq = max(self.seq, last)

    def reset(self, epoch: str, seq: int) -> None:
        """The broker lost data: tell the members that the order goes on after ``seq`` of another epoch."""
        self._release_all()
        for membership in list(self.members()):
            lag = membership.lag
            if lag is not None and lag.state is State.HELD:
                continue  # the join that is under way will say where it begins
            data = {
                "from": (self.seq if lag is None else lag.position) + 1,
                "reason": "epoch",
                "next": {"epoch": epoch, "seq": seq},
            }
            if lag is not None:
                lag.clear()
                membership.caught_up()
            self._tell(membership, self._lost(data))
        self.epoch, self.seq = epoch, seq

    def _lost(self, data: dict[str, Any]) -> Envelope:
        return Envelope("lost", room=self.name, epoch=self.epoch, data=data, to=self.channel.to)

    def _tell(self, membership: Membership, envelope: Envelope) -> None:
        connection = membership.connection
        connection.outbox.put(connection.encoding.encode(envelope))
