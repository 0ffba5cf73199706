"""What the client has seen: which rooms it is in, how far it got in each, what is a duplicate. Pure.

A position moves only after the event was handed on (:meth:`Rooms.seen`). What is dropped between
the socket and the application, because the connection ended just then, is thereby asked for again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from gateway.client.messages import Event, Joined, Lost, Place, Position, PresenceChange
from protocol.envelope import Envelope

__all__ = ["OWN_NAMES", "JoinOptions", "Room", "Rooms", "lost", "since_data"]

_MAX_ORDERS: Final = 16
"""Orders outside rooms (the organisation's, by epoch) that are remembered."""

_ORGANISATION: Final = "\0organisation"
_USER: Final = "\0user"
_OWN: Final = frozenset({_ORGANISATION, _USER})
OWN_NAMES: Final = {"organisation": _ORGANISATION, "user": _USER}
"""What the protocol calls these orders → what they are called among the rooms, none of which holds U+0000."""


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
    held: bool = False
    """What comes is not taken: it comes again behind the reply that says from where the order goes on."""

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
    """Events with numbers but without a room, of a gateway that does not say where it stands."""

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
    own: dict[str, Room] = field(default_factory=dict)
    """The orders of the organisation and of the user, as the gateway tells of them."""
    _orders: OrderedDict[str, _Order] = field(default_factory=OrderedDict)
    _unsaid: dict[str, Lost] = field(default_factory=dict)
    _mids: OrderedDict[tuple[str, str], None] = field(default_factory=OrderedDict)

    def join(self, reply: Joined, options: JoinOptions, since: Position | None) -> list[Event]:
        """Take note of a reply to ``join``; returns what the application has to know.

        That is what the gateway could not bring back, and who came or left unseen.
        """
        known = self._room(reply.room)
        if since is None and known is not None and known.position.epoch == reply.epoch:
            # Joined again, in mid-stream: what was asked for earlier may still be on its way.
            known.options = options
            return known.present(reply.users)
        room = Room(reply.room, options, reply.position, users=None if known is None else known.users)
        (self.own if reply.room in _OWN else self.joined)[reply.room] = room
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

    # ---- the organisation and the user ---------------------------------------------------------------------

    def greeted(self, positions: Mapping[str, Place]) -> None:
        """A connection begins where ``positions`` say; what came before is still to be asked for."""
        for of, name in OWN_NAMES.items():
            place = positions.get(of)
            if place is None:
                self.own.pop(name, None)
                continue
            here = Position(place.epoch, place.seq)
            known = self.own.setdefault(name, Room(name, JoinOptions(), here))
            known.held = known.position != here

    def missed(self, *, all: bool) -> dict[str, Position]:
        """From where to go on: in ``all`` such orders, or in those in which something was missed.

        They are held from now on, until :meth:`went_on`.
        """
        found = {}
        for of, name in OWN_NAMES.items():
            order = self.own.get(name)
            if order is not None and (all or order.held):
                order.held = True
                found[of] = order.position
        return found

    def went_on(self, replies: Mapping[str, Joined], since: Mapping[str, Position]) -> list[Event]:
        """Take note of the reply to a ``join`` with :meth:`missed`; returns what is not brought back."""
        events: list[Event] = []
        for of, position in since.items():
            if of in replies:
                events += self.join(replies[of], JoinOptions(), position)
            else:
                events += self.gave_up(of, "history")
        return events

    def gave_up(self, of: str, reason: str) -> list[Event]:
        """What was missed in an order cannot be had."""
        order = self.own[OWN_NAMES[of]]
        order.held = False
        return [lost(order.name, order.position, None, reason)]

    def _room(self, key: str | None) -> Room | None:
        if key is None:
            return None
        return self.own.get(key) if key in _OWN else self.joined.get(key)

    def disconnected(self) -> None:
        """The connection is gone: what is sent outside the rooms goes by unseen."""
        self.unasked.clear()
        for order in self._orders.values():
            order.interrupted = True

    def check(self, envelope: Envelope) -> list[Event]:
        """What to hand on for a message from the gateway: losses that come before it, then perhaps itself."""
        key = _key(envelope)
        items: list[Event] = [
            self._unsaid[name] for name in self._due(envelope) if not (envelope.t == "lost" and key == name)
        ]
        order = self._room(key)
        if order is not None and order.held:
            return items
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
            last = self._last(key, epoch)
            if last is not None and seq <= last:
                return items
            other = self._orders.get(epoch) if key in _OWN else None
            if order is None and other is not None and other.interrupted and seq > other.seq + 1:
                items.append(lost(key, Position(epoch, other.seq), seq - 1, "disconnected"))
        if envelope.mid is None or (key, envelope.mid) not in self._mids:
            items.append(_event(envelope))
        return items

    def seen(self, envelope: Envelope) -> None:
        """What ``check`` returned was handed on.

        A ``lost`` within an order or a critical event moves no position: it may overtake older events,
        which would then pass for duplicates.
        """
        for name in self._due(envelope):
            del self._unsaid[name]
        key = _key(envelope)
        room = self._room(key)
        if room is not None and room.held:
            return
        if envelope.t == "lost" and envelope.room not in self.unasked:
            following = msgspec.convert(envelope.data, _LostData).next
            if following is not None:
                self._advance(key, following.epoch, following.seq)
        if envelope.t == "presence" and self._is_news(envelope):
            users = self.joined[envelope.room or ""].users
            assert users is not None
            users ^= {_presence(envelope).user}
        if envelope.t != "event":
            return
        if envelope.mid is not None and self.window:
            self._mids[key, envelope.mid] = None
            if len(self._mids) > self.window:
                self._mids.popitem(last=False)
        epoch, seq = envelope.epoch, envelope.seq
        if epoch is None or seq is None:
            return
        last = self._last(key, epoch)
        if last is not None and seq <= last:
            return
        if not envelope.critical:
            self._advance(key, epoch, seq)
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
            return [name for name in self._unsaid if name == _key(envelope)]
        return list(self._unsaid)  # a reply goes behind all that follows from the commands before it

    def _is_news(self, envelope: Envelope) -> bool:
        """The user is not where the message says already, and the room is one in which that was asked."""
        room = None if envelope.room is None else self.joined.get(envelope.room)
        if room is None or room.users is None:
            return False
        change = _presence(envelope)
        return (change.event == "join") != (change.user in room.users)

    def _last(self, key: str, epoch: str) -> int | None:
        """The newest number seen of this order."""
        room = self._room(key)
        if room is None and key in _OWN:
            order = self._orders.get(epoch)
            return None if order is None else order.seq
        return room.position.seq if room is not None and room.position.epoch == epoch else None

    def _advance(self, key: str, epoch: str, seq: int) -> None:
        room = self._room(key)
        if room is not None:
            room.position = Position(epoch, seq)
        elif key in _OWN:
            self._orders[epoch] = _Order(seq)
            self._orders.move_to_end(epoch)
            if len(self._orders) > _MAX_ORDERS:
                self._orders.popitem(last=False)


def _key(envelope: Envelope) -> str:
    """Which order a message belongs to."""
    if envelope.room is not None:
        return envelope.room
    return _USER if envelope.to == "user" else _ORGANISATION


def lost(room: str | None, since: Position, to_seq: int | None, reason: str) -> Lost:
    """A loss of what follows ``since``."""
    to = "user" if room == _USER else None
    room = None if room in _OWN else room
    return Lost(room=room, to=to, epoch=since.epoch, from_seq=since.seq + 1, to_seq=to_seq, reason=reason)


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
        to=envelope.to,
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
        room=envelope.room,
        to=envelope.to,
        epoch=envelope.epoch,
        from_seq=data.start,
        to_seq=data.end,
        reason=data.reason,
    )
