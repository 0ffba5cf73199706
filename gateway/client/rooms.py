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

from gateway.client.messages import Event, Joined, Lost, Position
from protocol.envelope import Envelope

__all__ = ["Room", "Rooms"]

_MAX_ORDERS: Final = 16
"""Orders outside rooms (the organisation's, by epoch) that are remembered."""


@dataclass(slots=True)
class Room:
    """A room that the client is in."""

    name: str
    events: list[str] | None
    overflow: str | None
    position: Position
    replay: int = 0
    """So many events of the replay are still to come; then the room has got to ``target``."""
    target: int = 0

    def join_data(self, since: Position | None) -> dict[str, Any]:
        """The ``data`` of the ``join`` that restores this membership."""
        return join_data(self.events, since, self.overflow)


def join_data(
    events: Iterable[str] | None, since: tuple[str, int] | None, overflow: str | None
) -> dict[str, Any]:
    """The ``data`` of a ``join``."""
    data: dict[str, Any] = {}
    if since is not None:
        data["since"] = {"epoch": since[0], "seq": since[1]}
    if events is not None:
        data["events"] = list(events)
    if overflow is not None:
        data["overflow"] = overflow
    return data


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
    _orders: OrderedDict[str, _Order] = field(default_factory=OrderedDict)
    _mids: OrderedDict[tuple[str | None, str], None] = field(default_factory=OrderedDict)

    def join(
        self, reply: Joined, events: list[str] | None, since: Position | None, overflow: str | None
    ) -> Lost | None:
        """Take note of a reply to ``join``; returns what the gateway could not bring back."""
        position = reply.position
        known = self.joined.get(reply.room)
        if since is None and known is not None and known.position.epoch == reply.epoch:
            # Joined again, in mid-stream: what was asked for earlier may still be on its way.
            known.events, known.overflow = events, overflow
            return None
        room = Room(reply.room, events, overflow, position)
        self.joined[reply.room] = room
        if since is None:
            return None
        if reply.replayed:
            same = since.epoch == reply.epoch
            room.position = since if same else Position(reply.epoch, 0)
            room.replay, room.target = reply.replayed, reply.seq
        if reply.recovered is not False:
            return None
        if since.epoch != reply.epoch:
            return lost(reply.room, since, None, "epoch")
        return lost(reply.room, since, max(since.seq, reply.seq - reply.replayed), "history")

    def leave(self, name: str) -> Room | None:
        """Forget a room."""
        return self.joined.pop(name, None)

    def disconnected(self) -> None:
        """The connection is gone: what is sent outside the rooms goes by unseen."""
        for order in self._orders.values():
            order.interrupted = True

    def check(self, envelope: Envelope) -> list[Event]:
        """What to hand on for an ``event`` or ``lost`` from the gateway: nothing, it, or a loss and it."""
        if envelope.t == "lost":
            return [_announced(envelope)]
        loss: Lost | None = None
        epoch, seq = envelope.epoch, envelope.seq
        if epoch is not None and seq is not None:
            last = self._last(envelope.room, epoch)
            if last is not None and seq <= last:
                return []
            order = self._orders.get(epoch) if envelope.room is None else None
            if order is not None and order.interrupted and seq > order.seq + 1:
                loss = lost(None, Position(epoch, order.seq), seq - 1, "disconnected")
        if envelope.mid is not None and (envelope.room, envelope.mid) in self._mids:
            return []
        event = _event(envelope)
        return [event] if loss is None else [loss, event]

    def seen(self, envelope: Envelope) -> None:
        """The message was handed on, or known to be a duplicate.

        A ``lost`` moves nothing: it may overtake older events, which would then pass for duplicates.
        """
        if envelope.t == "lost":
            return
        if envelope.mid is not None and self.window:
            self._mids[envelope.room, envelope.mid] = None
            if len(self._mids) > self.window:
                self._mids.popitem(last=False)
        epoch, seq = envelope.epoch, envelope.seq
        if epoch is None or seq is None or not self._advance(envelope.room, epoch, seq):
            return
        room = None if envelope.room is None else self.joined.get(envelope.room)
        if room is not None and room.replay:
            room.replay -= 1
            if not room.replay:
                # Newer ones than the last replayed were held back by the filter: nothing to ask for.
                self._advance(room.name, epoch, room.target)

    def _last(self, name: str | None, epoch: str) -> int | None:
        """The newest number seen of this order."""
        if name is None:
            order = self._orders.get(epoch)
            return None if order is None else order.seq
        room = self.joined.get(name)
        return room.position.seq if room is not None and room.position.epoch == epoch else None

    def _advance(self, name: str | None, epoch: str, seq: int) -> bool:
        """Move on to ``seq``; False when that is not forward."""
        last = self._last(name, epoch)
        if last is not None and seq <= last:
            return False
        if name is None:
            self._orders[epoch] = _Order(seq)
            self._orders.move_to_end(epoch)
            if len(self._orders) > _MAX_ORDERS:
                self._orders.popitem(last=False)
        elif name in self.joined:
            self.joined[name].position = Position(epoch, seq)
        return True


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
    )


class _LostData(msgspec.Struct, rename={"start": "from", "end": "to"}):
    start: int
    end: int | None = None
    reason: str = ""


def _announced(envelope: Envelope) -> Lost:
    data = msgspec.convert(envelope.data, _LostData)
    return Lost(
        room=envelope.room, epoch=envelope.epoch, from_seq=data.start, to_seq=data.end, reason=data.reason
    )
