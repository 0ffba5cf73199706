"""A connection made of HTTP requests: what a socket's commands become there, and its messages. Pure.

The gateway keeps nothing of such a client between two requests, so a request says it all: the rooms, the
filter, and from where to go on. What changes them makes another request, which begins where the client
stands (``Rooms``); what comes twice thereby is dropped there. Requests take up to 32 rooms that are joined
in the same way, so there may be several at a time: each is a :class:`Lane`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from gateway.client.rooms import OWN_NAMES, Rooms
from protocol.envelope import Envelope
from protocol.errors import ErrorCode, ProtocolError
from protocol.kinds import OVER_HTTP
from protocol.patterns import EventFilter

__all__ = ["Emulation", "Lane"]

_ROOMS: Final = 32
"""Rooms of one request (docs/streams.md)."""


class _Since(msgspec.Struct):
    epoch: str
    seq: int


class _Join(msgspec.Struct):
    since: _Since | None = None
    events: list[str] | None = None
    overflow: str | None = None
    key: str | None = None
    presence: bool = False
    resume: str | None = None
    organisation: dict[str, Any] | None = None
    user: dict[str, Any] | None = None


class _Outcome(msgspec.Struct):
    """What the reply for one order says, in a request of which nobody waits for that reply."""

    recovered: bool | None = None
    replayed: int = 0
    users: list[str] | None = None


@dataclass(slots=True)
class _Room:
    filter: EventFilter
    since: _Since | None
    """Where it begins, until :class:`Rooms` knows better."""
    command: Envelope | None
    """The ``join`` that waits for its reply."""


@dataclass(slots=True, eq=False)
class Lane:
    """One request after the other, for the same rooms."""

    overflow: str | None = None
    key: str | None = None
    presence: bool = False
    main: bool = False
    """It also brings what is sent to the organisation, the user and the connection."""
    rooms: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """The rooms of the request that is under way."""
    dirty: bool = True
    """The request under way does not ask for what is wanted now."""
    cursor: str | None = None
    """Where the last poll ended."""


class Emulation:
    """One connection's state: what it is in, and which commands still wait for their reply."""

    def __init__(self, rooms: Rooms) -> None:
        """``rooms`` knows how far the client got."""
        self.lanes = [Lane(main=True)]
        self.posts: deque[Envelope] = deque()
        """Commands to be posted."""
        self.token: str | None = None
        """The one that a ``refresh`` brought."""
        self._known = rooms
        self._filter = EventFilter.ALL
        self._rooms: dict[str, _Room] = {}
        self._own: dict[str, _Since] = {}
        self._own_command: Envelope | None = None
        self._refresh: Envelope | None = None
        self._unsaid: set[str] = set()
        """Rooms of which the gateway has not said yet whether the new token permits them."""
        self._left: list[str] = []
        """Rooms that it does not permit."""
        self._expires: dict[str, Any] | None = None
        """What the gateway has said of the new token."""
        self._greeting: dict[str, Any] | None = None

    # ---- from the client ---------------------------------------------------------------------------------

    def take(self, command: Envelope) -> list[Envelope]:
        """Carry out ``command``, or note what is to be done about it; returns what can be said at once."""
        try:
            return self._take(command)
        except ProtocolError as error:
            return [_error(command, error.code, error.message)]

    def _take(self, command: Envelope) -> list[Envelope]:
        if command.t in OVER_HTTP:
            self.posts.append(command)
            return []
        match command.t:
            case "join":
                return self._join(command, msgspec.convert(command.data or {}, _Join))
            case "leave":
                room = command.room or ""
                if self._rooms.pop(room, None) is None:
                    raise ProtocolError(ErrorCode.NOT_JOINED, "this room was not joined")
                self._drop(room)
                self._unsaid.discard(room)
                return [Envelope("reply", id=command.id, room=room), *self._refreshed()]
            case "subscribe" | "unsubscribe":
                return [self._narrow(command)]
            case "refresh":
                self.token = str((command.data or {}).get("token"))
                self._refresh, self._expires = command, None
                self._unsaid, self._left = set(self._rooms), []
                self._spoil(self.lanes)
                return []
            case "ack":
                return [Envelope("reply", id=command.id, room=command.room, seq=command.seq)]
            case "info":
                data = {**(self._greeting or {}), "rooms": [{"room": room} for room in self._rooms]}
                return [Envelope("reply", id=command.id, data=data)]
        raise ProtocolError(ErrorCode.UNKNOWN_KIND, f"t: {command.t} needs a WebSocket")

    def _join(self, command: Envelope, wanted: _Join) -> list[Envelope]:
        if command.room is None:
            if wanted.resume is not None:
                raise ProtocolError(ErrorCode.NOT_FOUND, "data.resume: only on a WebSocket")
            for of, own in (("organisation", wanted.organisation), ("user", wanted.user)):
                if own is not None and own.get("since") is not None:
                    self._own[of] = msgspec.convert(own["since"], _Since)
            self._own_command = command
            self._spoil(self.lanes[:1])
            return []
        room = command.room
        accepts = EventFilter.ALL if wanted.events is None else EventFilter.of(wanted.events)
        if room in self._rooms:
            self._drop(room)
        self._rooms[room] = _Room(accepts, wanted.since, command)
        lane = self._lane(wanted.overflow, wanted.key, wanted.presence)
        lane.rooms.append(room)
        self._spoil([lane])
        return []

    def _lane(self, overflow: str | None, key: str | None, presence: bool) -> Lane:
        wanted = (overflow, key, presence)
        for lane in self.lanes:
            if (lane.overflow, lane.key, lane.presence) == wanted and len(lane.rooms) < _ROOMS:
                return lane
        lane = Lane(*wanted)
        self.lanes.append(lane)
        return lane

    def _drop(self, room: str) -> None:
        for lane in self.lanes:
            if room in lane.rooms:
                lane.rooms.remove(room)
                self._spoil([lane])
        self.lanes = [lane for lane in self.lanes if lane.main or lane.rooms]

    def _spoil(self, lanes: Iterable[Lane]) -> None:
        for lane in lanes:
            lane.dirty = True
            lane.cursor = None  # it would count more than what is said of single rooms

    def _narrow(self, command: Envelope) -> Envelope:
        patterns = (command.data or {}).get("events") or []
        before = self._filter
        change = before.subscribe if command.t == "subscribe" else before.unsubscribe
        self._filter = change(patterns)
        if self._filter.events != before.events:
            self._spoil(self.lanes)
        data = {"events": list(self._filter.events), "except": list(self._filter.excepted)}
        return Envelope("reply", id=command.id, data=data)

    # ---- requests ----------------------------------------------------------------------------------------

    def query(self, lane: Lane) -> list[tuple[str, str]]:
        """What the next request of ``lane`` asks for."""
        lane.dirty = False
        lane.asked = list(lane.rooms)
        found = [("join", room) for room in lane.asked]
        for room in lane.asked:
            since = self._since(room)
            if since is not None:
                found.append(("since", f"{since.epoch}:{since.seq}:{room}"))
        if lane.main:
            for of, name in OWN_NAMES.items():
                order = self._known.own.get(name)
                place = self._own.get(of) if order is None else order.position
                if place is not None:
                    found.append((of, f"{place.epoch}:{place.seq}"))
        if self._filter.events and self._filter.events != ("*",):
            found += [("events", pattern) for pattern in self._filter.events]
        if lane.overflow is not None:
            found.append(("overflow", lane.overflow))
        if lane.key is not None:
            found.append(("key", lane.key))
        if lane.presence:
            found.append(("presence", "true"))
        if lane.cursor is not None:
            found.append(("cursor", lane.cursor))
        return found

    def waits(self, lane: Lane) -> bool:
        """Whether somebody waits for what the gateway says at the beginning of ``lane``'s next request."""
        if lane.main and (self._greeting is None or self._own_command or self._refresh):
            return True
        return any(self._rooms[room].command or room in self._unsaid for room in lane.rooms)

    def _since(self, name: str) -> _Since | None:
        room, known = self._rooms[name], self._known.joined.get(name)
        if room.command is not None and room.since is not None:
            return room.since
        if known is not None:
            return _Since(known.position.epoch, known.position.seq)
        return room.since

    # ---- from the gateway --------------------------------------------------------------------------------

    def receive(self, lane: Lane, message: Envelope) -> list[Envelope]:
        """What the client gets for a message of ``lane``."""
        match message.t:
            case "connected":
                return self._connected(lane, message)
            case "reply" | "error" if message.id is not None:
                if message.id == 0:
                    return self._own_reply(message)
                if message.id <= len(lane.asked):
                    return self._room_reply(lane, lane.asked[message.id - 1], message)
                return []
            case "event":
                return [message] if self._wanted(lane, message) else []
            case "lost" | "presence" if message.room is not None:
                return [message] if message.room in self._rooms else []
            case "lost":
                return [message] if lane.main else []
        return [message]

    def _wanted(self, lane: Lane, message: Envelope) -> bool:
        if message.room is None:
            if not lane.main:
                return False
        else:
            room = self._rooms.get(message.room)
            if room is None or not room.filter.allows(message.event or ""):
                return False
        return self._filter.allows(message.event or "")

    def _connected(self, lane: Lane, message: Envelope) -> list[Envelope]:
        data = dict(message.data or {})
        data.pop("resume", None)  # every request has one, and none of them is what the client has
        if not lane.main:
            return []
        found: list[Envelope] = []
        if self._greeting is None:
            for of, place in (data.get("positions") or {}).items():
                self._own[of] = msgspec.convert(place, _Since)
            found.append(msgspec.structs.replace(message, data=data))
        if not lane.dirty:
            self._expires = {"expires": data.get("expires")}
            found += self._refreshed()
        self._greeting = data
        return found

    def _refreshed(self) -> list[Envelope]:
        """The reply to ``refresh``, once all of it is known."""
        if self._refresh is None or self._expires is None or self._unsaid:
            return []
        data = {**self._expires, "left": self._left} if self._left else self._expires
        reply = Envelope("reply", id=self._refresh.id, data=data)
        self._refresh = None
        return [reply]

    def _own_reply(self, message: Envelope) -> list[Envelope]:
        command, self._own_command = self._own_command, None
        if command is not None:
            return [msgspec.structs.replace(message, id=command.id)]
        found: list[Envelope] = []
        for of, name in OWN_NAMES.items():
            outcome = (message.data or {}).get(of)
            known = self._known.own.get(name)
            if outcome and known is not None:
                place = msgspec.convert(outcome, _Since)
                to = "user" if of == "user" else None
                found += _began_anew(None, to, known.position, place, outcome)
        return found

    def _room_reply(self, lane: Lane, name: str, message: Envelope) -> list[Envelope]:
        renewed = name in self._unsaid and not lane.dirty
        if renewed:
            self._unsaid.discard(name)
            room = self._rooms.get(name)
            forbidden = message.t == "error" and message.code == ErrorCode.FORBIDDEN
            if forbidden and room is not None and room.command is None:
                del self._rooms[name]
                self._drop(name)
                self._left.append(name)
                return self._refreshed()
        return [*self._entered(name, message), *(self._refreshed() if renewed else ())]

    def _entered(self, name: str, message: Envelope) -> list[Envelope]:
        room = self._rooms.get(name)
        if room is None:
            return []  # left meanwhile
        command, room.command = room.command, None
        if message.t == "error":
            del self._rooms[name]
            self._drop(name)
            if command is not None:
                return [msgspec.structs.replace(message, id=command.id, room=name)]
            # On a socket the client would still be in: let the gateway be asked as after a reconnect.
            data = {"reconnect": True}
            return [Envelope("closing", code=1012, message=f"{name}: {message.message}", data=data)]
        here = _Since(message.epoch or "", message.seq or 0)
        known = self._known.joined.get(name)
        if command is None:
            if known is None:
                return []
            found = _began_anew(name, None, known.position, here, message.data)
            users = msgspec.convert(message.data or {}, _Outcome).users
            if users is not None and known.users is not None:
                found += [_presence(name, "leave", user) for user in known.users - set(users)]
                found += [_presence(name, "join", user) for user in set(users) - known.users]
            return found
        data = dict(message.data or {})
        if room.since is None:
            room.since = here
            data = {key: value for key, value in data.items() if key == "users"}
        return [msgspec.structs.replace(message, id=command.id, room=name, data=data or None)]

    def refused(self, command: Envelope, code: int, message: str, retry_after: float | None) -> Envelope:
        """The answer to a command whose request was refused as a whole."""
        return _error(command, code, message, retry_after)


def _began_anew(
    room: str | None, to: str | None, before: tuple[str, int], here: _Since, data: Any
) -> list[Envelope]:
    """The loss that a socket's client finds in the reply to its own ``join``."""
    epoch, seq = before
    if epoch == here.epoch:
        return []  # the gateway says itself what is missing
    replayed = msgspec.convert(data or {}, _Outcome).replayed
    following = {"epoch": here.epoch, "seq": 0 if replayed else here.seq}
    told = {"from": seq + 1, "reason": "epoch", "next": following}
    return [Envelope("lost", room=room, to=to, epoch=epoch, data=told)]


def _presence(room: str, event: str, user: str) -> Envelope:
    return Envelope("presence", room=room, event=event, data={"user": user})


def _error(command: Envelope, code: int, message: str, retry_after: float | None = None) -> Envelope:
    data = None if retry_after is None else {"retry_after": retry_after}
    return Envelope("error", id=command.id, room=command.room, code=int(code), message=message, data=data)
