"""What the client has seen: which rooms it is in, how far it got in each, what is a duplicate. Pure.

A position moves only after the event was handed on (:meth:`Rooms.seen`). What is dropped between
the socket and the application, because the connection ended just then, is thereby asked for again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from gateway.client.messages import Event, Joined, Lost, Position, PresenceChange
from protocol.envelope import Envelope

__all__ = ["JoinOptions", "Room", "Rooms", "lost", "since_data"]

_MAX_ORDERS: Final = 16
"""Orders outside rooms (the organisation's, by epoch) that are remembered."""


@dataclass(frozen=True, slots=True)
class JoinOptions:
    """How a room was joined, and will be again. None is the gateway's default."""

    events: list[str] | None = None
    overflow: str | None = None
    key: str | None = None
    presence: bool | None = None

    def data(self, since: Position | None) -> dict[str, Any] | None:
        """The ``data`` of a ``join``."""
        options = {
            "events": self.events,
            "overflow": self.overflow,
            "key": self.key,
            "presence": self.presence,
        }
        data = {**since_data(since), **{name: value for name, value in options.items() if value is not None}}
        return data or None


def since_data(since: tuple[str, int] | None) -> dict[str, Any]:
    """A position in the ``data`` of a command."""
    return {} if since is None else {"since": {"epoch": since[0], "seq": since[1]}}


@dataclass(slots=True)
class Room:
    """A room that the client is in."""

    name: str
    options: JoinOptions
    position: Position
    """Of the last event, critical ones aside: those overtake others, which are then still to come."""
    replay: int = 0
    """So many events of the replay are still to come; then the room has got to ``target``."""
    target: int = 0
    users: set[str] | None = None
    """Who is there, where that was asked for."""

    def present(self, users: Iterable[str] | None) -> list[Event]:
        """Take note of who is there; returns what has changed since that was last known."""
        before, self.users = self.users, None if users is None else set(users)
        if before is None or self.users is None:
            return []
        return [
            *(_change(self.name, "leave", user) for user in sorted(before - self.users)),
            *(_change(self.name, "join", user) for user in sorted(self.users - before)),
        ]


@dataclass(slots=True)
class _Order:
    """Events with numbers but without a room."""

    seq: int
    interrupted: bool = False


@dataclass(slots=True)
class Rooms:
    """What a reconnect has to bring back, and two ways to know a duplicate: its number, its message id."""

    window: int
    """Message ids that are remembered."""
    joined: dict[str, Room] = field(default_factory=dict)
    unasked: set[str] = field(default_factory=set)
    """Rooms that a resume token brought back although they were not known, and which are about to be left."""
    _orders: OrderedDict[str, _Order] = field(default_factory=OrderedDict)
    _unsaid: dict[str, Lost] = field(default_factory=dict)
    _mids: OrderedDict[tuple[str | None, str], None] = field(default_factory=OrderedDict)

    def join(self, reply: Joined, options: JoinOptions, since: Position | None) -> list[Event]:
        """Take note of a reply to ``join``; returns what the application has to know.

        That is what the gateway could not bring back, and who came or left unseen.
        """
        known = self.joined.get(reply.room)
        if since is None and known is not None and known.position.epoch == reply.epoch:
            # Joined again, in mid-stream: what was asked for earlier may still be on its way.
            known.options = options
            return known.present(reply.users)
        room = Room(reply.room, options, reply.position, users=None if known is None else known.users)
        self.joined[reply.room] = room
        changes = room.present(reply.users)
        if since is None:
            return changes
        if reply.replayed:
            same = since.epoch == reply.epoch
            room.position = since if same else Position(reply.epoch, 0)
            room.replay, room.target = reply.replayed, reply.seq
        if reply.recovered is not False:
            return changes
        if since.epoch != reply.epoch:
            return [lost(reply.room, since, None, "epoch"), *changes]
        # The gateway says exactly what, before it goes on with the room. If it does not, this is said.
        last = max(since.seq, reply.seq - reply.replayed)
        self._unsaid[reply.room] = lost(reply.room, since, last, "history")
        return changes

    def leave(self, name: str) -> Room | None:
        """Forget a room."""
        return self.joined.pop(name, None)

    def disconnected(self) -> None:
        """The connection is gone: what is sent outside the rooms goes by unseen."""
        self.unasked.clear()
        for order in self._orders.values():
            order.interrupted = True

    def check(self, envelope: Envelope) -> list[Event]:
        """What to hand on for a message from the gateway: losses that come before it, then perhaps itself."""
        items: list[Event] = [
            self._unsaid[name]
            for name in self._due(envelope)
            if not (envelope.t == "lost" and envelope.room == name)
        ]
        if envelope.room in self.unasked:
            return items
        if envelope.t == "lost":
            return [*items, _announced(envelope)]
        if envelope.t == "presence" and self._is_news(envelope):
            items.append(_presence(envelope))
        if envelope.t != "event":
            return items
        epoch, seq = envelope.epoch, envelope.seq
        if epoch is not None and seq is not None:
            last = self._last(envelope.room, epoch)
            if last is not None and seq <= last:
                return items
            order = self._orders.get(epoch) if envelope.room is None else None
            if order is not None and order.interrupted and seq > order.seq + 1:
                items.append(lost(None, Position(epoch, order.seq), seq - 1, "disconnected"))
        if envelope.mid is None or (envelope.room, envelope.mid) not in self._mids:
            items.append(_event(envelope))
        return items

    def seen(self, envelope: Envelope) -> None:
        """What ``check`` returned was handed on.

        A ``lost`` within an order or a critical event moves no position: it may overtake older events,
        which would then pass for duplicates.
        """
        for name in self._due(envelope):
            del self._unsaid[name]
        if envelope.t == "lost" and envelope.room not in self.unasked:
            following = msgspec.convert(envelope.data, _LostData).next
            if following is not None:
                self._advance(envelope.room, following.epoch, following.seq)
        if envelope.t == "presence" and self._is_news(envelope):
            users = self.joined[envelope.room or ""].users
            assert users is not None
            users ^= {_presence(envelope).user}
        if envelope.t != "event":
            return
        if envelope.mid is not None and self.window:
            self._mids[envelope.room, envelope.mid] = None
            if len(self._mids) > self.window:
                self._mids.popitem(last=False)
        epoch, seq = envelope.epoch, envelope.seq
        if epoch is None or seq is None:
            return
        last = self._last(envelope.room, epoch)
        if last is not None and seq <= last:
            return
        if not envelope.critical:
            self._advance(envelope.room, epoch, seq)
        room = None if envelope.room is None else self.joined.get(envelope.room)
        if room is not None and room.replay and seq <= room.target:
            room.replay -= 1
            if not room.replay:
                # Newer ones than the last replayed were held back by the filter: nothing to ask for.
                self._advance(room.name, epoch, room.target)

    def _due(self, envelope: Envelope) -> list[str]:
        """Rooms whose loss the gateway has announced by now, if it does so at all."""
        if envelope.critical:
            return []  # it overtakes what announces
        if envelope.t in {"event", "lost", "presence"}:
            return [name for name in self._unsaid if name == envelope.room]
        return list(self._unsaid)  # a reply goes behind all that follows from the commands before it

    def _is_news(self, envelope: Envelope) -> bool:
        """The user is not where the message says already, and the room is one in which that was asked."""
        room = None if envelope.room is None else self.joined.get(envelope.room)
        if room is None or room.users is None:
            return False
        change = _presence(envelope)
        return (change.event == "join") != (change.user in room.users)

    def _last(self, name: str | None, epoch: str) -> int | None:
        """The newest number seen of this order."""
        if name is None:
            order = self._orders.get(epoch)
            return None if order is None else order.seq
        room = self.joined.get(name)
        return room.position.seq if room is not None and room.position.epoch == epoch else None

    def _advance(self, name: str | None, epoch: str, seq: int) -> None:
        if name is None:
            self._orders[epoch] = _Order(seq)
            self._orders.move_to_end(epoch)
            if len(self._orders) > _MAX_ORDERS:
                self._orders.popitem(last=False)
        elif name in self.joined:
            self.joined[name].position = Position(epoch, seq)


def lost(room: str | None, since: Position, to_seq: int | None, reason: str) -> Lost:
    """A loss of what follows ``since``."""
    return Lost(room=room, epoch=since.epoch, from_seq=since.seq + 1, to_seq=to_seq, reason=reason)


def _event(envelope: Envelope) -> Event:
    return Event(
        event=envelope.event or "",
        room=envelope.room,
        data=envelope.data,
        seq=envelope.seq,
        epoch=envelope.epoch,
        ts=envelope.ts,
        mid=envelope.mid,
        sender=envelope.sender,
        critical=envelope.critical is True,
    )


class _PresenceData(msgspec.Struct):
    user: str


def _presence(envelope: Envelope) -> PresenceChange:
    data = msgspec.convert(envelope.data, _PresenceData)
    return _change(envelope.room, envelope.event, data.user, envelope.ts)


def _change(room: str | None, event: str | None, user: str, ts: int | None = None) -> PresenceChange:
    return PresenceChange(event="leave" if event == "leave" else "join", room=room, user=user, ts=ts)


class _Position(msgspec.Struct):
    epoch: str
    seq: int


class _LostData(msgspec.Struct, rename={"start": "from", "end": "to"}):
    start: int
    end: int | None = None
    reason: str = ""
    next: _Position | None = None


def _announced(envelope: Envelope) -> Lost:
    data = msgspec.convert(envelope.data, _LostData)
    return Lost(
        room=envelope.room, epoch=envelope.epoch, from_seq=data.start, to_seq=data.end, reason=data.reason
    )
